// Package storage keeps inputs and results in a bucket of any S3-compatible
// store. It puts, gets and lists objects, makes presigned URLs, and says in
// words for a user what is wrong when the store refuses.
//
// # What is promised
//
// A Put is whole or absent: nothing is visible under the key before all bytes
// are there, a short or failed reader leaves nothing, and parts already sent
// are given up. When Put returns nil the store has acknowledged the object.
// When the answer of the last step is lost, Put fails and the whole object may
// be there all the same: putting it again is always safe, and replaces it.
//
// No error text, and nothing else that leaves the package but the result of
// [Bucket.Presign], holds a credential or a signed URL.
//
// # Time and memory
//
// Small calls end within 20 s, checks within 10 s. A transfer has no limit as
// a whole, but fails when no byte moves for 30 s. Each request is sent at most
// three times, at most 2 s apart: every call here can be repeated safely. A Put
// holds at most 64 MiB, whatever the size of the object, and usually no more
// than the object itself.
//
// # What the package depends on
//
// The AWS SDK and pkg/jobs, whose [jobs.Fault] classifies every error here:
// Retryable, or Permanent when the same call can never succeed. Never Unknown,
// for no call here buys anything.
package storage
