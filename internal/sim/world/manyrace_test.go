//go:build race

package world_test

// manyWorlds: an engine is of one goroutine, and the race detector takes its time.
const manyWorlds = 1000
