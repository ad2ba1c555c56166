package sim

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// Program is a process with sockets, and how much CPU it uses.
type Program struct {
	Start uint64
	CPU   time.Duration // Used up to at
	At    sock.Instant
	Cores float64

	Unreadable bool

	Waited time.Duration // up to at
	Waits  float64       // cores that it would use beside those

	Woken float64 // times a second, since it last changed its use of cores
	Runs  float64 // up to at
}

// Used is how much CPU the program has used up to now.
func (p *Program) Used(now sock.Instant) time.Duration {
	return p.CPU + time.Duration(p.Cores*float64(now.Sub(p.At)))
}

// WaitedUntil is how long it has waited for a core up to now.
func (p *Program) WaitedUntil(now sock.Instant) time.Duration {
	return p.Waited + time.Duration(p.Waits*float64(now.Sub(p.At)))
}

// RunsUntil is how often it has run up to now.
func (p *Program) RunsUntil(now sock.Instant) int64 {
	return int64(p.Runs + p.Woken*now.Sub(p.At).Seconds())
}

// Uses has the program use so many cores from now on.
func (p *Program) Uses(cores float64, now sock.Instant) { p.Gets(cores, 0, now) }

// Gets has the program use so many cores from now on, and wait for some more.
func (p *Program) Gets(cores, waits float64, now sock.Instant) {
	p.CPU, p.Waited, p.Runs, p.At = p.Used(now), p.WaitedUntil(now), float64(p.RunsUntil(now)), now
	p.Cores, p.Waits = cores, waits
}
