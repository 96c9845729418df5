// Package modelslab buys 3D meshes from ModelsLab's v6 image-to-3D API.
//
// [Client] speaks the API: create, fetch, and the upload that makes a URL of
// an image. [Provider] is its adapter to [jobs.Provider]. Both retry nothing,
// and every error is a [jobs.Fault] that says whether money may have been spent.
//
// What the API does comes from three documents, cited by these names: the
// "seed" (v6 Image to 3D Endpoint), the "OpenAPI" (ModelsLab docs, 3D API) and
// the "error codes page" (same docs). Where they disagree, the code says which
// one it follows and why.
//
// # The key
//
// The key is part of the JSON body of every call, fetch included. So no body
// that was sent is ever quoted, the key is taken out of everything quoted from
// an answer, and it goes to the configured address only: the address that an
// answer offers in fetch_result is never called.
//
// # What is not here
//
// The API has no idempotency key, no list of sessions and no cancel call.
// A create whose answer is lost therefore stays unknown: Provider is no
// [jobs.Reconciler], and such a job needs a person.
package modelslab
