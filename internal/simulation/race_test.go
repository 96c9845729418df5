//go:build race

package simulation

// raceEnabled makes the search smaller: every step is many times slower.
const raceEnabled = true
