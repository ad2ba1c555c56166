//go:build !race

package events_test

// slow: the race detector takes its time.
const slow = false
