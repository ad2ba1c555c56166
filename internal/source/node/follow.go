package node

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// mostPlaces is for how many stuck sockets the table has room at most. A place takes memory
// while it is used.
const mostPlaces = 65536

const (
	// retryAfter is after what time a table that failed, or was full, is tried again.
	retryAfter = time.Minute
	// mostFlagging bounds the threads that have the table follow older connections, but for
	// those that are known to wait in the kernel for the lock of a socket.
	mostFlagging = 4
)

// follower has the table follow connections. All but the atomic fields is the
// maintenance's own.
type follower struct {
	programs *events.Programs // nil: there are none
	absent   error            // why there are none, or they have failed
	said     bool             // absent was
	cgroup   string           // to attach to; empty: there is none

	wanted   atomic.Uint32 // states that rules ask for
	beyond   atomic.Bool   // rules ask for states that the table does not tell all of
	covered  atomic.Uint32 // those that the table tells now; 0: the programs are not attached
	tended   atomic.Uint32 // the wanted states by which the programs were attached, or not
	attached atomic.Uint64 // counts up when the programs begin to be detached
	changed  changed       // what is tended, or which namespaces are followed
	period   atomic.Uint64 // counts up when what namespaces are followed is to be found out anew
	began    atomic.Int64  // the period: an instant
	full     atomic.Bool   // the table had no room for a socket

	retry sock.Instant  // not before
	lost  atomic.Uint64 // that the maintenance knows of
}

// ErrNoEvents is why a source that must have events cannot be opened.
var ErrNoEvents = errors.New("events cannot be had as a source of sockets")

// load loads the programs. Where they cannot be had, that is an error only if they must.
func (f *follower) load(c *Config) error {
	if f.absent = c.Unfit; f.absent == nil {
		f.programs, f.absent = events.Load(min(cmp.Or(c.Places, mostPlaces), mostPlaces))
	}
	if f.cgroup = c.Cgroup; f.cgroup == "" && f.absent == nil {
		f.cgroup, f.absent = events.CgroupRoot()
	}
	if f.absent == nil && c.Kind == Events { // others attach when a rule asks for what the table tells
		f.absent = f.tryAttach()
	}
	if f.absent != nil && c.Kind == Events {
		return fmt.Errorf("%w: %w", ErrNoEvents, f.absent)
	}
	return nil
}

// tryAttach attaches the programs for a moment.
func (f *follower) tryAttach() error {
	if err := f.programs.Attach(f.cgroup); err != nil {
		return err
	}
	return f.programs.Detach()
}

func (f *follower) close() {
	if f.programs != nil {
		f.programs.Close()
	}
}

// table returns the table; nil: it tells nothing now.
func (s *Source) table() *events.Table {
	if s.follower.covered.Load() == 0 {
		return nil
	}
	return s.follower.programs.Table()
}

// tend attaches and detaches the programs, and sees to it that the table follows the
// connections of each namespace.
func (s *Source) tend(now sock.Instant) {
	f := &s.follower
	if f.absent != nil && !f.said {
		f.said = true
		s.say(slog.LevelInfo, "sockets come from sock_diag; events cannot be had", slog.String("reason", f.absent.Error()))
		s.tellVerdict(f.absent)
	}
	if !f.usable() {
		return
	}
	before := f.stands()
	if err := s.failed.Swap(nil); err != nil && f.covered.Load() != 0 {
		s.stopFollowing(*err, now)
	}
	wanted, covered := ssfilter.StateSet(f.wanted.Load()), ssfilter.StateSet(f.covered.Load())
	switch {
	case wanted == 0 && covered != 0:
		s.stopFollowing(nil, now)
	case wanted&^covered != 0 && now >= f.retry:
		s.startFollowing(wanted|covered, now)
	}
	if f.covered.Load() != 0 {
		s.tellLoss(now)
		s.followAll()
	}
	f.tended.Store(uint32(wanted))
	if f.stands() != before { // who waits for that waits no longer than if nothing had been tended
		f.changed.tell()
	}
}

// standing is what a scan that waits for the table goes by, beside which namespaces are followed.
type standing struct {
	tended, covered uint32
	period          uint64
	full            bool
}

func (f *follower) stands() standing {
	return standing{f.tended.Load(), f.covered.Load(), f.period.Load(), f.full.Load()}
}

// verdict is an error with what the kernel's verifier says of a program that it refuses.
type verdict interface {
	error
	Log() string
}

var _ verdict = (*events.LoadError)(nil)

// tellVerdict tells developers what the verifier says.
func (s *Source) tellVerdict(err error) {
	var refused verdict
	if errors.As(err, &refused) && refused.Log() != "" {
		s.say(slog.LevelDebug, "the kernel's verifier refuses an eBPF program", slog.String("error", refused.Error()), slog.String("log", refused.Log()))
	}
}

// usable reports whether there are programs, and something to attach them to.
func (f *follower) usable() bool { return f.programs != nil && f.cgroup != "" }

const (
	// awaitTime bounds how long scans wait for the table to follow all connections of a
	// namespace. That takes a pass over all sockets of the host for each namespace, once,
	// as a scan by sock_diag would.
	awaitTime = 20 * time.Second
	// awaitPatience is how long a scan waits while none comes to be followed: the pass
	// waits for the lock of a socket, perhaps.
	awaitPatience = 2 * time.Second
)

// awaitTable waits until the table tells all that the query asks for, where it soon will:
// when sockdog starts, and when a namespace appears, a scan by sock_diag would cost as much
// as it takes to have the connections followed.
func (s *Source) awaitTable(q *sock.Query) {
	for {
		changed := s.follower.changed.next()
		if !s.soon(q) {
			return
		}
		timeout := time.NewTimer(awaitPatience)
		select {
		case <-changed:
			timeout.Stop()
		case <-timeout.C:
			return
		case <-s.done:
			timeout.Stop()
			return
		}
	}
}

// soon reports whether the table will soon tell all that the query asks for, and does not
// yet.
func (s *Source) soon(q *sock.Query) bool {
	f := &s.follower
	wanted := f.wanted.Load()
	if !f.usable() || f.full.Load() || q.States&^(tableStates&ssfilter.StateSet(wanted)) != 0 {
		return false
	}
	if f.tended.Load() != wanted {
		return true
	}
	if s.tells(q) != q.States || f.programs.WhyNoFlag() != nil {
		return false
	}
	period, since := f.period.Load(), s.config.Now().Add(-awaitTime)
	return slices.ContainsFunc(s.namespaces(), func(n *namespace) bool {
		return n.tried.Load() != period && !n.locked.Load() && max(n.appeared, sock.Instant(f.began.Load())) > since
	})
}

// changed tells those who wait that something has changed.
type changed struct {
	sync.Mutex
	c chan struct{}
}

// next is closed by the next tell.
func (c *changed) next() <-chan struct{} {
	c.Lock()
	defer c.Unlock()
	if c.c == nil {
		c.c = make(chan struct{})
	}
	return c.c
}

func (c *changed) tell() {
	c.Lock()
	defer c.Unlock()
	if c.c != nil {
		close(c.c)
		c.c = nil
	}
}

// startFollowing attaches the programs, or has the table tell further states.
func (s *Source) startFollowing(states ssfilter.StateSet, now sock.Instant) {
	f := &s.follower
	err := f.programs.Table().Want(states)
	if err == nil && f.covered.Load() == 0 {
		err = s.attach()
	}
	if err != nil {
		s.stopFollowing(err, now)
		return
	}
	s.followAnew(now)
	f.covered.Store(uint32(states))
	f.full.Store(false)
	f.absent, f.said = nil, false
	s.because(nil)
	s.say(slog.LevelInfo, "sockets come from events", slog.String("states", states.String()))
}

func (s *Source) attach() (err error) {
	f := &s.follower
	if err = f.programs.Attach(f.cgroup); err == nil {
		var lost uint64
		lost, err = f.programs.Table().Lost()
		f.lost.Store(lost)
	}
	return err
}

// stopFollowing detaches the programs: because of an error, or because nobody asks for what
// the table tells. The scans go on by sock_diag.
func (s *Source) stopFollowing(because error, now sock.Instant) {
	f := &s.follower
	f.covered.Store(0)
	f.attached.Add(1)
	_ = f.programs.Detach() // what is not attached cannot be
	s.because(because)
	if because == nil {
		s.say(slog.LevelInfo, "sockets come from sock_diag; no rule needs events")
		return
	}
	f.retry = now.Add(retryAfter)
	if f.absent == nil || f.absent.Error() != because.Error() {
		s.say(slog.LevelWarn, "sockets come from sock_diag; events have failed", slog.String("error", because.Error()))
	}
	f.absent, f.said = because, true
}

// fail has the maintenance look why the table could not be read, and say so.
func (s *Source) fail(err error) {
	if !errors.Is(err, errNoTable) && !errors.Is(err, errLost) { // of these it knows, or will when it looks
		s.failed.Store(&err)
	}
	s.kick()
}

// because notes why the table tells nothing.
func (s *Source) because(err error) {
	s.facts.Lock()
	defer s.facts.Unlock()
	s.facts.reason = ""
	if err != nil {
		s.facts.reason = err.Error()
	}
}

// tellLoss says when the table had no room for a socket, and has what it lacks looked for
// once there is room again; and when the programs are not attached any more.
func (s *Source) tellLoss(now sock.Instant) {
	f := &s.follower
	lost, err := f.programs.Table().Lost()
	switch err := errors.Join(err, f.programs.Attached()); {
	case err != nil:
		s.stopFollowing(err, now)
		return
	case lost != f.lost.Load():
		s.facts.Lock()
		s.facts.lost += lost - f.lost.Load()
		s.facts.Unlock()
		if !f.full.Load() {
			s.say(slog.LevelWarn, "the table of events is full; scans go on by sock_diag", slog.Int("places", f.programs.Table().Places()))
		}
		f.full.Store(true)
		f.retry = now.Add(retryAfter)
		s.followAnew(now)
		f.lost.Store(lost) // after: who has read it knows that nothing is followed
	case f.full.Load() && now >= f.retry:
		f.full.Store(false) // the older connections are entered, or are lost again
	}
}

// follows reports whether the table tells of all connections of the namespace, those too
// that are older than it.
func (s *Source) follows(n *namespace) bool {
	return s.follower.covered.Load() != 0 && n.followed.Load() == s.follower.period.Load()
}

// followAnew begins a period: no namespace is followed until it was found out anew.
func (s *Source) followAnew(now sock.Instant) {
	s.follower.began.Store(int64(now))
	s.follower.period.Add(1)
}

// followAll has the table follow the connections of each namespace that are older than it.
func (s *Source) followAll() {
	f := &s.follower
	if f.full.Load() || f.programs.WhyNoFlag() != nil {
		return
	}
	period, all, flagging := f.period.Load(), s.namespaces(), 0
	for _, n := range all {
		if n.flagging.Load() && !n.locked.Load() {
			flagging++
		}
	}
	for _, n := range all {
		if n.tried.Load() == period || flagging >= mostFlagging || !n.flagging.CompareAndSwap(false, true) {
			continue
		}
		flagging++
		go s.follow(n, period)
	}
}

// follow has the table follow the connections of a namespace. The thread may wait in the
// kernel for the lock of a socket; nobody waits for it for long.
func (s *Source) follow(n *namespace, period uint64) {
	runtime.LockOSThread() // it ends with the goroutine
	defer s.kick()
	defer s.follower.changed.tell()
	defer n.flagging.Store(false)
	defer n.tried.Store(period)
	if n.empty() {
		n.followed.Store(period)
		return
	}
	var refused int
	err := n.Do(func() (err error) {
		_, refused, err = s.follower.programs.FlagOlder()
		return err
	})
	if err == nil && refused == 0 {
		n.followed.Store(period)
		return
	}
	attrs := append(n.label(), slog.Int("refused", refused))
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	s.say(slog.LevelDebug, "connections that are older than the table are not followed; the namespace is scanned by sock_diag", attrs...)
}
