package engine

import (
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
)

// Workers do what a plan wants done. None of them waits: what comes of it reaches
// the driver later, as an input.
type Workers interface {
	// Record says and keeps all that the plan wants said and kept. It comes first: the
	// record of a decision is older than what is done by it.
	Record(p *Plan)

	Count(pressure bool)             // read the counters, and what is short; CountersRead
	Scan(s *Scan)                    // read the socket table; ScanDone
	Lookup(ids []sock.ID)            // ask for these sockets by name; LookupDone
	Act(actions []Action)            // do these, in this order; ActionsDone
	Resolve(inodes []uint32)         // find the holders of these; HoldersFound
	Read(inodes []uint32)            // find them by new descriptors; NewHoldersFound
	Fetch(urls []string)             // fetch these; Probed for each
	Sample(processes []spin.Process) // read the CPU usage of these; Sampled
	Intend(a GroupAction)            // record that this is about to be done; GroupIntended
	ActOn(a GroupAction)             // do this, beside everything else: it may hang; GroupActed
	Undo(a GroupAction)              // put back what this has done; GroupUndone
}

// Driver runs an engine: whatever happens goes in by Step, and each part of the
// plan that comes out goes to who does it.
type Driver struct {
	Engine  *Engine
	Now     func() sock.Instant
	Workers Workers
}

// Start has the engine begin with what is allowed here and what an earlier run knew.
// Rules come after that.
func (d *Driver) Start(c match.Capabilities, r Restored) {
	d.Step(CapabilitiesChanged{c})
	d.Step(r)
}

// Step has the engine take in something, and hands out what it plans.
func (d *Driver) Step(in Input) Plan {
	p := d.Engine.Step(d.Now(), in)
	d.Workers.Record(&p)
	if p.Count {
		d.Workers.Count(p.Pressure)
	}
	if p.Scan != nil {
		d.Workers.Scan(p.Scan)
	}
	if len(p.Lookup) > 0 {
		d.Workers.Lookup(p.Lookup)
	}
	if len(p.Act) > 0 {
		d.Workers.Act(p.Act)
	}
	if len(p.Resolve) > 0 {
		d.Workers.Resolve(p.Resolve)
	}
	if len(p.Read) > 0 {
		d.Workers.Read(p.Read)
	}
	if len(p.Probe) > 0 {
		d.Workers.Fetch(p.Probe)
	}
	if len(p.Sample) > 0 {
		d.Workers.Sample(p.Sample)
	}
	for _, a := range p.Intend {
		d.Workers.Intend(a)
	}
	for _, a := range p.ActOn {
		d.Workers.ActOn(a)
	}
	for _, a := range p.Undo {
		d.Workers.Undo(a)
	}
	return p
}
