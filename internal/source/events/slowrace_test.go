//go:build race

package events_test

const slow = true
