// Package chaos holds the tests that hurt: real worker processes on a real
// broker and a real bucket are killed, stopped and cut off at every step, and
// afterwards the simulated providers' ledger must show that everything was paid
// for once, and the bucket that nothing was lost.
//
//	make chaos
//
// runs them all, in less than 20 minutes on two cores, and prints a table. They
// carry the build tag chaos: `go test ./...` leaves them out. One scenario by
// itself:
//
//	go test -tags chaos -v ./test/chaos -run 'TestChaos/points/csm.submit.create.after/kill'
//
// Workers are built with the tag chaos too, which gives them kill points (see
// internal/worker) and nothing else. Three times differ from production, so
// that the whole ends in time: the lease is 2 s, a paid call is given up after
// 6 s, and stages of a conversion take less than a second.
//
// MESHMILL_CHAOS_TABLE names a file to write the table to. MESHMILL_CHAOS_WORKER
// names a worker binary built with the tag chaos, and saves building one.
package chaos
