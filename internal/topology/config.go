package topology

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/meshmill/meshmill/pkg/jobs"
)

// streams returns the streams and buckets in the order of their creation.
func (e *ensurer) streams() []wanted {
	n := e.names
	return []wanted{
		{what: "stream " + n.JobsStream(), config: jetstream.StreamConfig{
			Name:        n.JobsStream(),
			Description: "Meshmill: jobs that are queued or in hand, one message each",
			Subjects:    []string{n.JobAll()},
			Retention:   jetstream.WorkQueuePolicy,
			Discard:     jetstream.DiscardNew, // a full queue refuses, and loses nothing
			// One message per job: a second request for it is refused.
			DiscardNewPerSubject: true,
			MaxMsgsPerSubject:    1,
			MaxMsgs:              orNone(e.o.MaxJobs),
			MaxBytes:             orNone(e.o.MaxJobBytes),
			AllowAtomicPublish:   true,
			AllowDirect:          true,
			Duplicates:           2 * time.Minute,
			Storage:              e.o.storage(),
			Replicas:             e.o.Replicas,
		}},
		{what: "stream " + n.EventsStream(), config: jetstream.StreamConfig{
			Name:        n.EventsStream(),
			Description: "Meshmill: what happened to jobs, each fact once",
			Subjects:    []string{n.EventAll()},
			Retention:   jetstream.LimitsPolicy,
			Discard:     jetstream.DiscardNew,
			// One message per fact: repeating it is refused.
			DiscardNewPerSubject: true,
			MaxMsgsPerSubject:    1,
			MaxAge:               e.o.EventsMaxAge,
			AllowDirect:          true,
			Storage:              e.o.storage(),
			Replicas:             e.o.Replicas,
		}},
		{what: "stream " + n.DeadStream(), config: jetstream.StreamConfig{
			Name:              n.DeadStream(),
			Description:       "Meshmill: messages that could not be decoded",
			Subjects:          []string{n.DeadAll()},
			Retention:         jetstream.LimitsPolicy,
			Discard:           jetstream.DiscardOld,
			MaxMsgsPerSubject: deadPerID,
			MaxAge:            e.o.DeadMaxAge,
			AllowDirect:       true,
			Storage:           e.o.storage(),
			Replicas:          e.o.Replicas,
		}},
		e.bucket(n.StateBucket(), "Meshmill: the record of each job, under its id"),
		e.bucket(n.FleetBucket(), "Meshmill: what the workers share"),
	}
}

// bucket describes a bucket, and the part of its stream that is compared.
func (e *ensurer) bucket(name, description string) wanted {
	return wanted{
		what: "bucket " + name,
		bucket: &jetstream.KeyValueConfig{
			Bucket:         name,
			Description:    description,
			History:        1,
			LimitMarkerTTL: markerTTL, // allows keys with a time to live
			Storage:        e.o.storage(),
			Replicas:       e.o.Replicas,
		},
		config: jetstream.StreamConfig{
			Name:              "KV_" + name,
			Subjects:          []string{"$KV." + name + ".>"},
			Retention:         jetstream.LimitsPolicy,
			Discard:           jetstream.DiscardNew,
			MaxMsgsPerSubject: 1,
			AllowDirect:       true,
		},
	}
}

func (e *ensurer) consumerConfig(provider string, lane jobs.Lane) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       e.names.JobConsumer(provider, lane),
		Description:   "Meshmill: " + string(lane) + " jobs for " + provider,
		FilterSubject: e.names.JobLane(provider, lane),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       e.o.Lease,
		// Attempts are counted in the record. A message that the server gave up
		// would stay in the work queue, delivered to nobody.
		MaxDeliver:    -1,
		MaxAckPending: e.o.MaxAckPending,
	}
}

// orNone turns zero into the broker's "no limit".
func orNone(limit int64) int64 {
	if limit == 0 {
		return -1
	}
	return limit
}
