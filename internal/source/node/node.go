// Package node is the source of sockets of a whole node, or of one network namespace:
// by a table of those that are stuck, which eBPF keeps (package events), and by sock_diag
// in each namespace for all that the table does not tell. It decides nothing about sockets.
package node

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Kind is where sockets come from.
type Kind string

// The kinds.
const (
	Auto     Kind = "auto" // events where they can be had
	SockDiag Kind = "sock_diag"
	Events   Kind = "events"
)

// Config is what a Source needs of its surroundings.
type Config struct {
	Now      func() sock.Instant
	All      bool // every network namespace of the host, and not only this one
	Kind     Kind
	ProcRoot string
	Cgroup   string // whose connections the table follows, and of all below; empty: the root of cgroup v2
	Places   int    // of the table; 0: mostPlaces
	Unfit    error  // why events are not to be had here; nil: that is tried

	// OpenConn opens a netlink socket in a namespace.
	OpenConn func(*netns.Namespace) (*sockdiag.Conn, error)
	// Say is told what changes about the source.
	Say func(level slog.Level, message string, attrs ...slog.Attr)
}

// Source is where sockets come from. Its scanners, lookups, destroyers and counters each
// belong to one thread; they share what is known of the namespaces, and the table.
type Source struct {
	config Config
	finder *netns.Finder
	own    *namespace

	mu      sync.RWMutex
	inodes  map[uint32]*namespace
	cookies map[uint64]*namespace // by Namespace.Cookie, where the kernel has one
	leftOut error                 // what could not be found or entered
	few     bool                  // that is few

	cache     cache
	follower  follower
	unknown   unknown
	facts     facts
	checks    checks
	ownerless atomic.Bool           // the last pass for owners failed
	failed    atomic.Pointer[error] // why the table could not be read
	blind     bool                  // namespaces could not be found, when it was last tried
	lacking   bool                  // nor all be seen, as was said

	wake    chan struct{} // the maintenance has something to do
	done    chan struct{}
	closing sync.Once
	running sync.WaitGroup
}

// facts are what is told of a source.
type facts struct {
	sync.Mutex
	reason string // why the table tells nothing; empty: it does, or nobody asks
	lost   uint64 // entries for which the table had no room
	missed uint64 // sockets that the table lacked, and a check found
}

// Open opens a source: it finds the namespaces and loads the programs. With Kind Events, it
// fails where these cannot be had.
func Open(c Config) (*Source, error) {
	self, err := netns.Self()
	if err != nil {
		return nil, err
	}
	var finder *netns.Finder // nil: none is looked for, which takes /proc
	if c.All {
		if finder, err = netns.NewFinder(c.ProcRoot, self); err != nil {
			return nil, errors.Join(err, self.Close())
		}
	}
	s := &Source{
		config: c, finder: finder, unknown: newUnknown(),
		inodes: make(map[uint32]*namespace), cookies: make(map[uint64]*namespace),
		cache: newCache(), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.own = s.add(self)
	if c.All {
		err = s.discover()
	}
	if err == nil && c.Kind != SockDiag {
		err = s.follower.load(&c)
	}
	if err != nil {
		s.tellVerdict(err)
		s.Close()
		return nil, err
	}
	s.because(s.follower.absent)
	return s, nil
}

// Start begins to look after the namespaces and the table, until Close.
func (s *Source) Start() { s.running.Go(s.maintain) }

// Want says which states rules ask for. The programs are attached only where one of them is
// in the table.
func (s *Source) Want(states ssfilter.StateSet) {
	s.follower.wanted.Store(uint32(states & events.Covered))
	s.follower.beyond.Store(states&^tableStates != 0)
	s.kick()
}

// kick has the maintenance look what there is to do.
func (s *Source) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close ends the maintenance. Connections that a worker holds end with it.
func (s *Source) Close() {
	s.closing.Do(func() { close(s.done) })
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.inodes {
		n.leave()
	}
	s.own.leave()
	s.follower.close()
	if s.finder != nil {
		_ = s.finder.Close() // it was read only
	}
}

// NeedsCapBPF reports whether threads need CAP_BPF to read the table, as old kernels want.
func (s *Source) NeedsCapBPF() bool {
	return s.follower.programs != nil && s.follower.programs.NeedsCapBPF()
}

// State is how things stand with a source.
type State struct {
	Kind       Kind
	Reason     string // why it is not Events; empty: it is, or no rule asks for what events tell
	Namespaces int
	Older      int    // namespaces of which the table does not follow all connections yet
	LeftOut    error  // what of other namespaces cannot be seen, and why
	Cure       string // what gives sockdog the sight of them; empty: nothing that is known here
	Few        bool   // that is a few processes' namespaces, at most
	Lost       uint64 // entries for which the table had no room
	Missed     uint64 // sockets that the table lacked, and a check found
}

// State returns how things stand.
func (s *Source) State() State {
	s.facts.Lock()
	st := State{Kind: SockDiag, Reason: s.facts.reason, Lost: s.facts.lost, Missed: s.facts.missed}
	s.facts.Unlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	st.Namespaces, st.LeftOut, st.Few = len(s.inodes), s.leftOut, s.few
	if s.leftOut != nil {
		st.Cure = leftOutCure
	}
	locked := 0
	for _, n := range s.inodes {
		if n.locked.Load() {
			locked++
		}
	}
	if locked > 0 {
		st.LeftOut, st.Few = errors.Join(st.LeftOut, fmt.Errorf("%d network namespaces cannot be scanned: %w", locked, errLocked)), false
	}
	if s.follower.covered.Load() == 0 {
		return st
	}
	st.Kind = Events
	for _, n := range s.inodes {
		if !s.follows(n) {
			st.Older++
		}
	}
	return st
}

// Name is what `ip netns` calls a namespace, by its inode; "": it has no name.
func (s *Source) Name(inode uint32) string {
	if names := s.names(inode); len(names) > 0 {
		return names[0]
	}
	return ""
}

// names are all that it has.
func (s *Source) names(inode uint32) []string {
	if s.finder == nil {
		return nil
	}
	return s.finder.Names(inode)
}

// Find returns the inode of the namespace that has that name for `ip netns`, or where that is empty
// that inode. Found is false where there is none.
func (s *Source) Find(name string, inode uint32) (of uint32, found bool) {
	for _, n := range s.namespaces() {
		if name == "" && n.Inode == inode || name != "" && slices.Contains(s.names(n.Inode), name) {
			return n.Inode, true
		}
	}
	return 0, false
}

// Only gives up all namespaces but these, by their inodes: what hangs in the others is no
// matter then. It is called before Start, and before anything is opened.
func (s *Source) Only(inodes []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.inodes {
		if slices.Contains(inodes, n.Inode) {
			continue
		}
		delete(s.inodes, n.Inode)
		delete(s.cookies, n.Cookie)
		if n != s.own { // which shows whether sock_diag is to be had at all
			n.leave()
		}
	}
}

// Inode is that of the namespace that is watched alone; 0: others are watched, too.
func (s *Source) Inode() uint32 {
	if s.config.All {
		return 0
	}
	return s.own.Inode
}

// namespaces returns those there are now.
func (s *Source) namespaces() []*namespace {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*namespace, 0, len(s.inodes))
	for _, n := range s.inodes {
		all = append(all, n)
	}
	return all
}

// namespace returns one by its inode; where it is gone, one that says so.
func (s *Source) namespace(inode uint32) *namespace {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := s.inodes[inode]; n != nil {
		return n
	}
	return &namespace{left: true}
}

func (s *Source) add(n *netns.Namespace) *namespace {
	added := &namespace{Namespace: n, open: s.config.OpenConn, appeared: s.config.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inodes[n.Inode] = added
	if n.Cookie != 0 {
		s.cookies[n.Cookie] = added
	}
	return added
}

// remove gives up a namespace that is gone.
func (s *Source) remove(gone *netns.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.inodes[gone.Inode]
	if n == nil || n.Namespace != gone {
		return
	}
	delete(s.inodes, n.Inode)
	delete(s.cookies, n.Cookie)
	n.leave()
}

// discover takes in which namespaces there are.
func (s *Source) discover() error {
	found, err := s.finder.Find()
	for _, n := range found.Gone {
		s.remove(n)
	}
	for _, n := range found.Appeared {
		s.add(n)
	}
	for _, n := range s.namespaces() {
		n.call(s.names(n.Inode))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leftOut, s.few = found.LeftOut(), found.Few()
	return err
}

// say says what changes about the source.
func (s *Source) say(level slog.Level, message string, attrs ...slog.Attr) {
	s.config.Say(level, message, attrs...)
}
