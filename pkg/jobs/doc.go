// Package jobs is what another service imports to have images turned into 3D
// meshes by Meshmill, and the vocabulary that the rest of Meshmill shares.
//
// A [Request] names an image, a provider and its options. A [Client] puts
// requests on NATS JetStream, and follows the jobs they become. A worker buys
// the conversion, and keeps the job's [Record] in a key-value bucket, where
// every change is one compare-and-set; the record, not the queue, decides what
// has been bought. When the job ends, the worker publishes one final event.
//
// # What is promised
//
// One id buys one conversion: the id is derived from the image, the provider
// and the options (see [DeriveID]), a second request with the same id is
// skipped, and a worker writes its intent before it pays. A job whose purchase
// has an unknown outcome is parked, never bought again unasked.
//
// # What the package depends on
//
// The standard library, nats.go and the CloudEvents event type; no storage
// SDK, logger or provider. Providers meet Meshmill through [Provider].
package jobs
