// Package daemon runs the engine: one goroutine owns all state and waits for
// nothing but the next thing that happens. What may block (the kernel's table,
// /proc, the disk) is done by workers that hand over whole values. What to do is
// not decided here.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// watch is the engine among its workers.
type watch struct {
	Options
	engine *engine.Engine
	driver engine.Driver
	inputs chan engine.Input

	log       *logQueue
	recorder  *recorder
	publisher *alertPublisher

	workers  *workers
	readers  readers
	counted  chan stateCount
	resolves chan []uint32
	reads    chan []uint32
	samples  chan []spin.Process
	probes   chan []string

	runner  action.Runner   // of actions on groups
	runs    context.Context // of those that are under way
	endRuns func()

	rules        inForce
	wantsFDs     atomic.Bool  // rules measure how many descriptors holders use
	rulesChanged atomic.Int64 // instant at which the rules in force came: for who acts
	paused       atomic.Bool  // nothing is to be acted on: for who acts
	shown        statusFacts
	service      service
	unnamed      *unnamedNote // whose sockets have no name, until that is said
	lacks        []slog.Attr  // why not, where that is so
	blind        string       // what cures it, where that is so of most processes
	end          sock.Instant // by when to have ended, once told to stop; 0: not told
}

// It is shown how things stand when somebody looks, at most once a second and less
// often where there are thousands of rules; and by itself every few seconds, so that it is
// known since when there is a problem.
const (
	showAtMost  = time.Second
	showShare   = 200 // times what it took
	showAtLeast = 3 * time.Second
)

const (
	// stopWithin is how long the act under way may take after the daemon is told to
	// stop.
	stopWithin = 700 * time.Millisecond
	// endWithin is how long everything may take from then on: a log or a disk that
	// hangs has what the act leaves of it.
	endWithin = 900 * time.Millisecond
)

// Run watches until ctx is done. It returns an error only where it could not
// begin to.
func Run(ctx context.Context, o Options) error {
	if o.Descriptors == nil {
		o.Capabilities = o.Capabilities.Without(rules.Descriptor, errNoDescriptors)
	}
	d := &watch{
		Options: o,
		engine:  engine.New(engine.Config{Precision: o.Precision, Self: os.Getpid(), UID: uint32(os.Geteuid()), MaxTracks: o.MaxTracks}),
		inputs:  make(chan engine.Input, 8),
		shown:   newStatusFacts(&o),
		readers: newReaders(o.Source),
		counted: make(chan stateCount),
		// The engine bounds what is under way of each kind: no send on these waits.
		resolves: make(chan []uint32, 2), // one is ours
		reads:    make(chan []uint32, 1),
		samples:  make(chan []spin.Process, 1),
		probes:   make(chan []string, 1),
	}
	d.runs, d.endRuns = context.WithCancel(context.Background())
	defer d.endRuns()
	d.runner = action.Runner{Kinds: o.Kinds, Now: o.Now, Event: d.event, Sysctls: o.Sysctls, ProcRoot: o.ProcRoot, Contained: o.Contained}
	d.driver = engine.Driver{Engine: d.engine, Now: o.Now, Workers: d}
	d.log = newLogQueue(o.Log, o.Now)
	d.recorder = newRecorder(&d.Options, d.log)
	d.publisher = newAlertPublisher(&d.Options, d.log.say)
	if o.SourceLog != nil {
		o.SourceLog(d.log.say)
	}
	stop, err := d.startWorkers()
	if err != nil {
		d.publisher.close()
		<-d.publisher.ended
		return err
	}
	defer stop()

	d.driver.Start(o.Capabilities, o.Restored)
	if o.Paused != nil {
		d.step(d.pause(o.Paused))
	}
	// With the rules come the ends of alerts that were due while nobody watched: the
	// receivers must be there.
	d.publisher.publish(update{rules: o.Rules})
	d.rule(o.Rules, o.File.Error != "")
	d.loop(ctx)
	d.log.say(slog.LevelInfo, "stopped")
	return nil
}

var errNoDescriptors = errors.New("nothing here duplicates descriptors of other processes")

// loop is the one place where things happen, one after the other.
func (d *watch) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	alive := time.NewTicker(min(cmp.Or(d.WatchdogEvery/2, aliveEvery), aliveEvery))
	defer alive.Stop()
	show := time.NewTimer(math.MaxInt64)
	defer show.Stop()
	var asked, askedAges <-chan struct{} // nil: never ready
	if d.StatusStore != nil {
		asked = d.StatusStore.Asked()
		show.Reset(0)
	}
	if d.Ages != nil {
		askedAges = d.Ages.Asked()
	}
	stopping := ctx.Done()
	var late <-chan time.Time // once it stops
	var mayShow sock.Instant
	for {
		var in engine.Input
		select {
		case in = <-d.inputs:
		case <-timer.C:
		case <-alive.C:
			d.Notify("WATCHDOG=1\nSTATUS=" + d.statusLine())
			if d.StatusStore == nil {
				continue
			}
			d.StatusStore.Turned()
			if now := d.Now(); now >= mayShow && !d.countStates(now) {
				mayShow = d.show()
			}
			continue
		case <-asked:
			show.Reset(mayShow.Sub(d.Now()))
			continue
		case <-show.C:
			mayShow = d.show()
			continue
		case c := <-d.counted:
			d.statesCounted(c)
			continue
		case <-askedAges:
			d.showAges()
			continue
		case r := <-d.Reload:
			d.reload(r)
		case p := <-d.Pauses:
			in = d.pause(p)
		case r := <-d.Resets:
			in = d.resetRule(r)
		case <-stopping:
			stopping, late = nil, time.After(stopWithin)
			d.beginStop()
			in = engine.Stop{}
		case <-late:
			d.log.say(slog.LevelWarn, "stopping while an action is under way; its outcome is unknown")
			return
		}
		if plan := d.step(in); plan.Stopped {
			d.finishAlerts(late)
			return
		} else {
			timer.Reset(plan.Wake.Sub(d.Now()))
		}
	}
}

// step has the engine take in something.
func (d *watch) step(in engine.Input) engine.Plan {
	now := d.Now()
	plan := d.drive(in)
	d.notice(in, now)
	return plan
}

// show shows how things stand, and returns when it may be shown again.
func (d *watch) show() sock.Instant {
	began := d.Now()
	d.publish()
	d.countStates(began)
	return began.Add(showGap(d.Now().Sub(began)))
}

// showGap returns how long after something that took so long to make for who looks it may be
// made again. It may have taken long only because the machine is busy.
func showGap(took time.Duration) time.Duration {
	return min(max(showAtMost, showShare*took), showAtLeast)
}

func (d *watch) beginStop() {
	d.Notify("STOPPING=1")
	d.log.say(slog.LevelInfo, "stopping")
	d.end = d.Now().Add(endWithin)
	d.endRuns()
	d.publisher.close()
}

// finishAlerts waits until the receivers were sent what was left.
func (d *watch) finishAlerts(late <-chan time.Time) {
	select {
	case <-d.publisher.ended:
	case <-late:
	}
}

// Record has everything written and told that the plan says.
func (d *watch) Record(p *engine.Plan) {
	now, at := d.Now(), time.Now()
	// What is done to single sockets is told by itself.
	p.Transitions = slices.DeleteFunc(p.Transitions, func(t engine.Transition) bool { return len(t.When) == 0 && t.Takes })
	records := recordsOf(p, d.NetnsName, d.Netns, now, at)
	d.recorder.add(p, records)
	d.log.add(append(logLines(records), notesOf(d.withCure(p.Notes), at)...)...)
	for i := range p.Report {
		if a := &p.Report[i]; a.Kind.Destructive && a.Result == engine.Done {
			d.service.done++
		}
	}
	for _, late := range p.Late {
		d.shown.lateness.Observe(late)
	}
	d.shown.done(records)
	if paused := d.shown.paused; p.Resumed && paused != nil && paused.Over(at) {
		d.resume(at, timeOver)
	}
	d.publisher.publish(update{alerts: p.Alerts, ofRules: p.RuleAlerts, now: now, at: at})
}

// Count has the counters read.
func (d *watch) Count(pressure bool) { d.readers.scans <- reading{pressure: pressure} }

// Scan has the socket table read.
func (d *watch) Scan(s *engine.Scan) {
	d.watchOver(&d.readers.scanStall, scanPatience, "scan does not end; new sockets are not found")
	d.readers.scans <- reading{scan: s}
}

// Lookup has the kernel asked for single sockets.
func (d *watch) Lookup(ids []sock.ID) { d.readers.lookups <- ids }

// Act has actions done.
func (d *watch) Act(actions []engine.Action) {
	d.acting()
	d.readers.actions <- actions
}

// Resolve has holders found by a walk through /proc.
func (d *watch) Resolve(inodes []uint32) { d.resolves <- inodes }

// Read has holders found by new descriptors.
func (d *watch) Read(inodes []uint32) { d.reads <- inodes }

// Sample has the CPU usage of processes read.
func (d *watch) Sample(processes []spin.Process) { d.samples <- processes }

// Fetch has the probes of canaries made.
func (d *watch) Fetch(urls []string) { d.probes <- urls }

// notice takes note of what was read. The daemon is ready once it scanned the
// table, or at the counters where no rule wants more.
func (d *watch) notice(in engine.Input, now sock.Instant) {
	switch in := in.(type) {
	case engine.ActionsDone:
		d.acted()
	case engine.ScanDone:
		d.over(&d.readers.scanStall, "scan ended; new sockets are found again")
		d.service.scanned = in.Cost
		d.shown.durations.Observe(now.Sub(in.Sent))
		if in.Err == nil {
			d.shown.states.see(in.Result.Seen(), time.Now())
			d.beReady()
		}
	case examined:
		d.unnamed, d.lacks, d.blind = in.note, in.lacks, in.blind
		d.tellAccess()
	case engine.CountersRead:
		if !d.service.ready && in.OK && d.engine.Overview(now).Wanted == 0 {
			d.beReady()
		}
	}
}
