// Package simulation proves by search that a job is bought once and never
// lost. It has no code but its tests: they run the real engine and the real
// provider adapters against models of broker, bucket and provider accounts, on
// a fake clock, and have faults happen at the calls between them.
//
// Every call that crosses the engine's ports, and every HTTP call of an
// adapter, stops at a scheduler. When all goroutines of all workers are blocked,
// it lets exactly one call have its effect, chosen by the plan; then all run
// again until they are blocked. So a schedule is a function of its plan alone,
// whatever the number of processors. A plan names the flow, the workers and
// the faults: "at the 17th call, pause the worker after the effect until the
// 40th". A plan at random is a function of its seed.
//
// A history checker, see checker_test.go, holds what happened against the
// promises. A violation is reported with its plan, or its seed, and
//
//	go test ./internal/simulation -run TestSeed -v -seed=N
//	go test ./internal/simulation -run TestPlan -v -plan='…'
//
// run that one schedule again and print every call of it.
package simulation
