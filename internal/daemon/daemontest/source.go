// Package daemontest has what tests give a daemon.
package daemontest

import "github.com/sockdog/sockdog/internal/daemon"

// SourceOf returns the source of which each connection can do everything but count.
func SourceOf[C interface {
	daemon.Scanner
	daemon.Destroyer
}](open func() (C, error), openCounters func() (daemon.Counters, error)) daemon.Source {
	return daemon.Source{
		OpenScanner:   func() (daemon.Scanner, error) { return open() },
		OpenLookup:    func() (daemon.Lookup, error) { return open() },
		OpenDestroyer: func() (daemon.Destroyer, error) { return open() },
		OpenCounters:  openCounters,
	}
}
