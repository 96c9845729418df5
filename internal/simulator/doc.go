// Package simulator is a test double of the paid providers. It speaks the wire
// formats of CSM.ai (both generations of the sessions API) and ModelsLab over
// HTTP on loopback, quirks included, so that a worker with unchanged clients can
// be run against it. It buys nothing and calls nobody, except to fetch an image
// whose URL it was given.
//
// It keeps a ledger of every call that would have cost money, which is how tests
// prove that nothing is bought twice, and can be told to fail in scripted ways
// (see [Fault]). The meshes it returns are real files made from the image sent.
//
// Every answer carries "Server: meshmill-simulator". Wire facts come from the
// provider documents; where those are silent the simulator picks the behaviour
// that is harder on a client, and a comment says so.
package simulator
