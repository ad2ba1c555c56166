// Package world lets an engine watch a simulated kernel in simulated time, through
// workers that take their time and fail now and then, and a disk that outlives it.
package world

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// SelfUID is the watchdog's own user.
const SelfUID = 990

// World is a kernel, an engine, and all that lies between.
type World struct {
	*sim.Kernel
	Conditions
	Observer Observer
	Trace    func(line string) // nil: nobody reads along

	Engine      *engine.Engine // nil: it is down
	Run         int            // number of the engine's run
	Rules       *rules.Set     // in force
	Ruled       sock.Instant   // they have been since
	PausedUntil sock.Instant   // nothing is to be acted on until then; what says so outlives the engine
	Busy        sock.Instant   // an act is under way until then
	Spins       map[int]sock.Instant

	Intends sock.Instant // the record of an intent about a group is written until then

	program  *match.Program
	memory   map[uint64]sock.Answer // of the source, by cookie
	groups   *rand.Rand             // what becomes of actions on groups
	shuts    *rand.Rand             // and of what was shut down
	ends     []func()               // end those that are under way
	disk     disk
	programs [4]sim.Program // by PID
	wake     sock.Instant
	stopping bool
}

// Conditions are what a world is like.
type Conditions struct {
	Jiffy        time.Duration
	Calm         bool          // no question and no act ever fails
	Spinning     bool          // some kills have a program spin
	Events       bool          // a source sees sockets change, now and then
	Remembers    bool          // and shows answers that it was given before
	Walking      time.Duration // a walk through /proc, at the longest
	Capabilities match.Capabilities
}

// Observer sees what happens as it happens.
type Observer interface {
	// Planned comes with each plan, before it is carried out, and what it follows from.
	Planned(in engine.Input, p *engine.Plan)
	// Waits comes with a socket in an accept queue that the watchdog is shown for rules.
	Waits(s *sim.Socket, shown *sock.Socket, to []*match.Rule)
	// Shown comes with each socket that a scan shows.
	Shown(shown *sock.Socket)
	// Scanned comes with each scan that was whole.
	Scanned(s *engine.Scan)
	// Answered comes with each exact answer.
	Answered(s *sim.Socket)
	// Acts comes with a socket right before it is killed, or is not because of what has
	// Changed; Acted with what came of it all, where s is nil if the socket is gone.
	Acts(o *engine.Outcome, s *sim.Socket)
	Acted(o *engine.Outcome, s *sim.Socket)
	// Runs comes with an action on a group when it begins.
	Runs(a *engine.GroupAction)
	// Undoes comes with one whose effect is put back.
	Undoes(a *engine.GroupAction)
}

// disk is what one run of the engine leaves to the next.
type disk struct {
	memories map[sock.Key]sock.Memory
	spent    []sock.Spent
	groups   []sock.Group
	stops    []sock.RuleStop
}

// New returns the world of a seed, in which nothing has begun.
func New(seed uint64) *World {
	w := &World{Kernel: sim.NewKernel(seed, sock.Instant(1000*time.Second)), Spins: make(map[int]sock.Instant), wake: sock.Never, memory: make(map[uint64]sock.Answer)}
	w.groups = rand.New(rand.NewPCG(seed, 0x6a0c7)) // worlds without any stay as they are
	w.shuts = rand.New(rand.NewPCG(seed, 0x5407))
	w.disk.memories = make(map[sock.Key]sock.Memory)
	w.Capabilities = make(match.Capabilities)
	w.Now += sock.Instant(w.UpTo(time.Second))
	w.Jiffy = []time.Duration{time.Millisecond, 4 * time.Millisecond, 10 * time.Millisecond}[w.Rand.IntN(3)]
	w.Calm = w.Rand.IntN(2) == 0
	w.TellsMarks = w.Rand.IntN(2) == 0
	w.Passes = w.Rand.IntN(3) == 0
	w.Spinning = w.Rand.IntN(4) == 0
	w.Events = w.Rand.IntN(2) == 0
	w.Follows = w.Events && w.Rand.IntN(2) == 0
	w.Remembers = w.Rand.IntN(2) == 0
	w.Walking = []time.Duration{20 * time.Millisecond, 20 * time.Millisecond, 3 * time.Second}[w.Rand.IntN(3)]
	if w.Rand.IntN(8) == 0 {
		w.Capabilities[match.DestroyTimeWait] = errors.New("this kernel cannot")
	}
	if w.Rand.IntN(2) == 0 {
		w.Capabilities[match.DestroyOrphan] = errors.New("this kernel would leak it")
	}
	return w
}

// Logf writes a line to the trace.
func (w *World) Logf(format string, args ...any) {
	if w.Trace != nil {
		w.Trace(sim.Text(w.Now) + " " + fmt.Sprintf(format, args...))
	}
}

// Until lets the world happen up to an instant, or until it is to halt.
func (w *World) Until(end sock.Instant, halt func() bool) {
	for !halt() {
		next := w.Next()
		if min(next, w.wake) >= end {
			break
		}
		if w.wake < next {
			w.Now = w.wake.Add(w.UpTo(time.Millisecond))
			w.step(nil)
			continue
		}
		w.Happen()
	}
	w.Now = max(w.Now, end)
}

// Start begins a run of the engine with what is on disk, under the rules in force.
func (w *World) Start(set *rules.Set) {
	w.Run++
	w.Busy, w.Intends, w.ends = 0, 0, nil
	w.Engine = engine.New(engine.Config{Precision: w.Jiffy, Self: 1, UID: SelfUID})
	var r engine.Restored
	for _, key := range slices.SortedFunc(maps.Keys(w.disk.memories), func(a, b sock.Key) int { return cmp.Compare(a.Cookie, b.Cookie) }) {
		r.Memories = append(r.Memories, w.disk.memories[key])
	}
	r.Spent, r.Groups, r.Stops = slices.Clone(w.disk.spent), slices.Clone(w.disk.groups), slices.Clone(w.disk.stops)
	w.step(engine.CapabilitiesChanged{Capabilities: w.Capabilities})
	w.step(r)
	if w.Paused() {
		w.step(engine.Paused{Until: w.PausedUntil})
	}
	w.rule(set)
	if w.Events && !w.Follows {
		w.ChangeSource()
	}
}

// ChangeSource has the source that sees sockets change go away, or come back.
func (w *World) ChangeSource() {
	w.memory = make(map[uint64]sock.Answer)
	if w.Follows {
		w.Logf("the source sees nothing any more")
		w.Lose()
		return
	}
	older := w.Rand.IntN(2) == 0
	w.Logf("the source sees sockets change, older ones %t", older)
	w.Follow(older)
}

// Reload puts other rules in force.
func (w *World) Reload(set *rules.Set) {
	w.Ruled = w.Now
	if w.Engine == nil {
		w.Rules = set
		return
	}
	w.rule(set)
}

func (w *World) rule(set *rules.Set) {
	w.Rules, w.program = set, match.Compile(set)
	w.step(engine.RulesChanged{Program: w.program})
}

// Reset lets a rule act again that has stopped itself.
func (w *World) Reset(rule string) {
	if w.Engine != nil {
		w.step(engine.RuleReset{Rule: rule})
	}
}

// Paused reports whether nothing is to be acted on.
func (w *World) Paused() bool { return w.Now < w.PausedUntil }

// Pause has nothing acted on until an instant.
func (w *World) Pause(until sock.Instant) {
	w.Logf("pause until %s", sim.Text(until))
	w.PausedUntil = until
	if w.Engine != nil {
		w.step(engine.Paused{Until: until})
	}
}

// Resume ends that.
func (w *World) Resume() {
	w.Logf("resume")
	w.PausedUntil = w.Now
	if w.Engine != nil {
		w.step(engine.Resumed{})
	}
}

// Crash ends the run of the engine at once: what it had under way is lost.
func (w *World) Crash() {
	w.Logf("crash")
	if w.Follows {
		w.ChangeSource()
	}
	w.Engine, w.wake = nil, sock.Never
	w.Run++
}

// Stop ends the run of the engine in order, and reports whether it has ended within a
// second.
func (w *World) Stop() (ended bool) {
	w.stopping = true
	w.step(engine.Stop{})
	for _, end := range w.ends {
		w.later(w.Now.Add(time.Millisecond), end)
	}
	for deadline := w.Now.Add(time.Second); w.stopping && w.Next() < deadline; {
		w.Happen()
	}
	return !w.stopping
}

// Stopping reports whether the engine was told to stop, and has not ended.
func (w *World) Stopping() bool { return w.stopping }

// Groups are those on disk.
func (w *World) Groups() []sock.Group { return w.disk.groups }

// unlucky is true one time in n, where things may go wrong at all.
func (w *World) unlucky(n int) bool { return !w.Calm && w.Rand.IntN(n) == 0 }

// later has do happen, if the engine still has the same run then.
func (w *World) later(at sock.Instant, do func()) {
	run := w.Run
	w.At(at, func() {
		if run == w.Run {
			do()
		}
	})
}

// step has the engine take in something, and carries out what it plans.
func (w *World) step(in engine.Input) {
	d := engine.Driver{Engine: w.Engine, Now: func() sock.Instant { return w.Now }, Workers: workers{w, in}}
	p := d.Step(in)
	w.wake = p.Wake
	w.stopping = w.stopping && !p.Stopped
}
