// Package daemon runs the engine: one goroutine owns all state and waits for
// nothing but the next thing that happens. What may block (the kernel's table,
// /proc, the disk) is done by workers that hand over whole values. What to do is
// not decided here.
package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules"
)

// Kernel is a netlink socket to the socket table, used by one thread.
type Kernel interface {
	Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error
	// InUserSpace says why the last scan was not left to the kernel as a whole; ""
	// if it was.
	InUserSpace() string
	Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error)
	Destroy(ids []sock.ID, outcomes []error) ([]error, error)
	Close() error
}

// Counters reads the counters of the network namespace.
type Counters interface {
	Read() (counters.Counters, error)
	// Ports are those that connect(2) chooses from.
	Ports() (counters.Ports, error)
	// InUse counts the full sockets; false: that is not known.
	InUse() (uint64, bool, error)
	Close()
}

// Journal is the record of all actions on disk.
type Journal interface {
	// NextSeq is the Seq of an intent that is about to be appended. It does not wait
	// for the disk.
	NextSeq() uint64
	Append(records []journal.Record) error
}

// Store keeps first-seen times, spent limits and firing groups on disk.
type Store interface {
	Put(memories []sock.Memory) error
	Forget(keys []sock.Key) error
	Spend(spent []sock.Spent) error
	Keep(groups []sock.Group) error
}

// Board is where it is shown how things stand.
type Board interface {
	// Show puts up a status, which is not changed after. It must not wait.
	Show(s *status.Status)
	// Asked is ready when somebody looks, and what is shown has grown old.
	Asked() <-chan struct{}
}

// Options are the daemon's surroundings. Each Open function is called on the
// locked thread that alone uses what it returns.
type Options struct {
	Log       *slog.Logger
	Now       func() sock.Instant
	Precision time.Duration
	Netns     string // the inode of the network namespace, for the records
	Host      string // its name
	Version   string

	Board    Board            // nil: nobody wants to know how things stand
	Ages     Ages             // nil: nobody wants to know of ages
	Page     string           // URL of the page that shows it; empty: none
	File     status.RulesFile // where Rules come from; with an Error, what it says is not in force
	StateDir string           // where Journal and Store are, for the log; empty: there are none
	Problems status.Problems  // that are known before it begins

	OpenKernel   func() (Kernel, error) // to look, to ask and to destroy: one for each
	OpenCounters func() (Counters, error)
	FindHolders  func(inodes map[uint32]struct{}) (holders.Found, error)
	FindNew      func(inodes map[uint32]struct{}) (holders.Found, error) // as holders.Finder does; nil: there is only the walk
	WalkAt       func() int                                              // the process that FindHolders reads; nil: that is not known
	ReadUsage    func(pid int) (holders.Usage, error)
	Examine      func() (holders.Access, error) // whose descriptors can be read; nil: that is not to be told

	Kinds        []*action.Kind // of actions that rules may name
	Capabilities match.Capabilities
	Cure         string // what to do about Capabilities.Kill
	// MaxTracks is as in engine.Config.
	MaxTracks int
	Restored  engine.Restored
	Journal   Journal // nil: none
	Store     Store   // nil: none

	Rules  *rules.Set
	Reload <-chan Reload // nil: the rules never change

	// Notify tells the service manager (sd_notify(3)); WatchdogEvery is how often
	// it wants a sign of life, 0: never.
	Notify        func(state string)
	WatchdogEvery time.Duration
}

// Reload is a new set of rules, checked, or why there is none.
type Reload struct {
	Rules *rules.Set
	Err   error
	// Again says that somebody asked and the file says what it said before.
	Again bool
}

// watch is the engine among its workers.
type watch struct {
	Options
	engine    *engine.Engine
	driver    engine.Driver
	log       *logQueue
	recorder  *recorder
	publisher *alertPublisher
	board     board
	inputs    chan engine.Input
	scans     chan *engine.Scan
	counts    chan struct{}
	asks      chan []sock.ID
	acts      chan []engine.Action
	resolves  chan []uint32
	reads     chan []uint32
	samples   chan []spin.Process
	censuses  chan struct{}
	counted   chan census
	ready     bool
	warned    bool // that nothing can be killed
	tally     tally
	ruled     atomic.Int64 // instant at which the rules in force came: for the actor
	end       sock.Instant // by when to have ended, once told to stop; 0: not told
	scanStall stall
	killStall stall
	plans     int // whose kills are under way

	questions atomic.Pointer[questioner] // the asker's

	set        *rules.Set   // in force
	enabled    bool         // a rule in force is
	unnamed    *unnamedNote // whose sockets have no name, until that is said
	destroys   bool         // a rule in force does
	budget     float64      // of CPU, for all that the rules want
	nextCensus sock.Instant
}

// tally is what the service manager's status line tells.
type tally struct {
	done    int
	scanned time.Duration
	told    int // of done
	toldAt  sock.Instant
}

// It is shown how things stand when somebody looks, at most once a second and less
// often where there are thousands of rules; and by itself often enough to tell that
// the loop turns.
const (
	showAtMost  = time.Second
	showShare   = 200 // times what it took
	showAtLeast = 4 * time.Second
)

// stopWithin is how long the act under way may take after the daemon is told to
// stop.
const stopWithin = 700 * time.Millisecond

// endWithin is how long everything may take from then on: a log or a disk that
// hangs has what the act leaves of it.
const endWithin = 900 * time.Millisecond

// Run watches until ctx is done. It returns an error only where it could not
// begin to.
func Run(ctx context.Context, o Options) error {
	d := &watch{
		Options:  o,
		engine:   engine.New(engine.Config{Precision: o.Precision, Self: os.Getpid(), UID: uint32(os.Geteuid()), MaxTracks: o.MaxTracks}),
		inputs:   make(chan engine.Input, 8),
		scans:    make(chan *engine.Scan, 1),
		counts:   make(chan struct{}, 1),
		asks:     make(chan []sock.ID, engine.MaxLookupBatches),
		acts:     make(chan []engine.Action, engine.MaxActionBatches),
		resolves: make(chan []uint32, 1),
		reads:    make(chan []uint32, 1),
		samples:  make(chan []spin.Process, 1),
		censuses: make(chan struct{}, 1),
		counted:  make(chan census),
	}
	d.driver = engine.Driver{Engine: d.engine, Now: o.Now, Workers: d}
	d.board = newBoard(&o)
	d.log = newLogQueue(o.Log, o.Now)
	d.recorder = newRecorder(&d.Options, d.log)
	d.publisher = newAlertPublisher(&d.Options, d.log.say)
	stop, err := d.startWorkers()
	if err != nil {
		d.publisher.close()
		<-d.publisher.ended
		return err
	}
	defer stop()

	d.driver.Start(o.Capabilities, o.Restored)
	// With the rules come the ends of alerts that were due while nobody watched: the
	// receivers must be there.
	d.publisher.publish(update{rules: o.Rules})
	d.rule(o.Rules, o.File.Error != "")
	d.loop(ctx)
	d.say(slog.LevelInfo, "stopped")
	return nil
}

// loop is the one place where things happen, one after the other.
func (d *watch) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	// A nil channel is never ready: without a watchdog nothing ticks.
	var alive <-chan time.Time
	if d.WatchdogEvery > 0 {
		ticker := time.NewTicker(d.WatchdogEvery / 2)
		defer ticker.Stop()
		alive = ticker.C
	}
	show := time.NewTimer(math.MaxInt64)
	defer show.Stop()
	var asked <-chan struct{}
	var mayShow sock.Instant
	if d.Board != nil {
		asked = d.Board.Asked()
		show.Reset(0)
	}
	stopping := ctx.Done()
	var late <-chan time.Time // once it stops
	for {
		var in engine.Input
		select {
		case in = <-d.inputs:
		case <-timer.C:
		case <-alive:
			d.Notify("WATCHDOG=1\nSTATUS=" + d.status())
			continue
		case <-asked:
			show.Reset(mayShow.Sub(d.Now()))
			continue
		case <-show.C:
			began := d.Now()
			d.publish()
			d.takeCensus(began)
			mayShow = began.Add(min(max(showAtMost, showShare*d.Now().Sub(began)), showAtLeast))
			show.Reset(showAtLeast)
			continue
		case c := <-d.counted:
			d.takeIn(c)
			continue
		case <-d.askedAges():
			d.showAges()
			continue
		case r := <-d.Reload:
			d.reload(r)
		case <-stopping:
			d.Notify("STOPPING=1")
			d.say(slog.LevelInfo, "stopping")
			stopping = nil
			late = time.After(stopWithin)
			d.end = d.Now().Add(endWithin)
			d.publisher.close()
			in = engine.Stop{}
		case <-late:
			d.say(slog.LevelWarn, "stopping while an act is under way: its outcome is not known")
			return
		}
		now := d.Now()
		plan := d.driver.Step(in)
		d.notice(in, now)
		if plan.Stopped {
			d.takeLeave(late)
			return
		}
		timer.Reset(min(plan.Wake, d.tell(now), d.sayStalled(now)).Sub(d.Now()))
	}
}

// takeLeave waits until the receivers were told what was left to say.
func (d *watch) takeLeave(late <-chan time.Time) {
	select {
	case <-d.publisher.ended:
	case <-late:
	}
}

// tell keeps the service manager's status line up to date, to the second, and
// returns when there is more to tell.
func (d *watch) tell(now sock.Instant) sock.Instant {
	next := d.tally.toldAt.Add(time.Second)
	switch {
	case !d.ready || d.tally.done == d.tally.told:
		return math.MaxInt64
	case now < next:
		return next
	}
	d.tally.told, d.tally.toldAt = d.tally.done, now
	d.Notify("STATUS=" + d.status())
	return math.MaxInt64
}

// say has a line written to the log, which may block: not here.
func (d *watch) say(level slog.Level, text string, attrs ...slog.Attr) {
	d.log.say(level, text, attrs...)
}

// Record has everything written and told that the plan says.
func (d *watch) Record(p *engine.Plan) {
	now := d.Now()
	// What is done to single sockets is told by itself.
	p.Transitions = slices.DeleteFunc(p.Transitions, func(t engine.Transition) bool { return len(t.When) == 0 && t.Takes })
	at := time.Now()
	records := recordsOf(p, d.Netns, now, at)
	d.recorder.add(p, records)
	d.log.add(at, p.Notes, records)
	d.account(p, records)
	d.alarm(p, now, at)
}

// The engine bounds what is under way of each kind: no send on these waits.

// Count has the counters read.
func (d *watch) Count() { d.counts <- struct{}{} }

// Scan has the socket table read.
func (d *watch) Scan(s *engine.Scan) {
	d.scanStall = stall{since: d.Now()}
	d.scans <- s
}

// Lookup has the kernel asked for single sockets.
func (d *watch) Lookup(ids []sock.ID) { d.asks <- ids }

// Act has actions done.
func (d *watch) Act(actions []engine.Action) {
	d.killing(d.Now())
	d.acts <- actions
}

// Resolve has holders found by a walk through /proc.
func (d *watch) Resolve(inodes []uint32) { d.resolves <- inodes }

// Read has holders found by new descriptors.
func (d *watch) Read(inodes []uint32) { d.reads <- inodes }

// Sample has the CPU usage of processes read.
func (d *watch) Sample(processes []spin.Process) { d.samples <- processes }

// account counts what was done, for those who watch.
func (d *watch) account(p *engine.Plan, records []journal.Record) {
	for i := range p.Report {
		if a := &p.Report[i]; a.Kind.Destructive && a.Result == engine.Done {
			d.tally.done++
		}
	}
	for _, late := range p.Late {
		d.board.lateness.Observe(late)
	}
	d.board.done(records)
}

// alarm has the receivers told how alarms stand.
func (d *watch) alarm(p *engine.Plan, now sock.Instant, at time.Time) {
	if len(p.Alerts) > 0 {
		d.publisher.publish(update{alerts: p.Alerts, now: now, at: at})
	}
}

// rule puts a checked set of rules in force; standIn: in the place of those of a
// file that could not be read.
func (d *watch) rule(set *rules.Set, fallback bool) {
	within := *set
	if d.Board != nil {
		within.Settings.CPUBudget *= 1 - censusShare
	}
	now := d.Now()
	d.ruled.Store(int64(now))
	// What ends with the old rules is told to their receivers.
	d.driver.Step(engine.RulesChanged{Program: match.Compile(&within), Fallback: fallback})
	d.publisher.publish(update{rules: set})
	d.board.rule(set)
	d.set, d.destroys, d.budget = set, destructive(set), set.Settings.CPUBudget
	d.enabled = slices.ContainsFunc(set.Rules, func(r rules.Rule) bool { return r.Enabled })
	if !d.enabled {
		d.beReady() // there will be no scan
	}
	d.tellAccess()
	if d.Capabilities.Kill != "" && d.destroys && !d.warned {
		d.warned = true
		d.say(slog.LevelError, "sockdog watches, and says what it would do: "+d.Capabilities.Kill, slog.String("cure", d.Cure))
	}
}

// destructive reports whether any rule wants to take something away.
func destructive(set *rules.Set) bool {
	for _, r := range set.Rules {
		for _, a := range r.Then {
			if r.Enabled && !r.DryRun && a.Kind.Destructive {
				return true
			}
		}
	}
	return false
}

// reload puts new rules in force, or keeps the old ones and says why.
func (d *watch) reload(r Reload) {
	d.Notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicUsec()))
	d.board.loaded(r.Err, r.Again)
	switch {
	case r.Err != nil:
		d.say(slog.LevelError, "the rules were not reloaded: those in force stay in force; sockdog check shows the mistakes", slog.String("error", d.board.file.Error))
	case r.Again:
		d.say(slog.LevelInfo, "the rules were read again: they say what they said before")
	default:
		before := d.set
		d.rule(r.Rules, false)
		d.say(slog.LevelInfo, "rules reloaded", d.changes(before)...)
	}
	if d.ready {
		d.Notify("READY=1\nSTATUS=" + d.status())
	}
	d.publish() // who has just edited the file looks now
}

// notice takes note of what was read. The daemon is ready once it scanned the
// table, or at the counters where no rule wants more.
func (d *watch) notice(in engine.Input, now sock.Instant) {
	switch in := in.(type) {
	case engine.ActionsDone:
		d.killed(now)
	case engine.ScanDone:
		d.scanned(now)
		d.tally.scanned = in.Cost
		d.board.durations.Observe(now.Sub(in.Sent))
		if in.Err == nil {
			d.beReady()
		}
	case examined:
		d.unnamed = in.note
		d.tellAccess()
	case engine.CountersRead:
		if !d.ready && in.OK && d.engine.Overview(now).Wanted == 0 {
			d.beReady()
		}
	}
}

// beReady tells the service manager once that the daemon has begun.
func (d *watch) beReady() {
	if d.ready {
		return
	}
	d.ready = true
	d.publish()
	d.Notify("READY=1\nSTATUS=" + d.status())
	d.say(slog.LevelInfo, "watching", d.whatWatches()...)
}

// status is the service manager's status line.
func (d *watch) status() string {
	text := fmt.Sprintf("%s, %s watched, %d killed, last scan took %s of CPU",
		number(len(d.set.Rules), "rule"), number(d.engine.Watched(), "socket"), d.tally.done, d.tally.scanned.Round(10*time.Microsecond))
	if d.board.file.OK {
		return text
	}
	mistake, _, _ := strings.Cut(d.board.file.Error, "\n")
	return "rules NOT in force: " + mistake + "; " + text
}
