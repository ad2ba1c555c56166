package daemon

import (
	"log/slog"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Options are the daemon's surroundings.
type Options struct {
	Log       *slog.Logger
	Now       func() sock.Instant
	Precision time.Duration
	Host      string // its name
	Version   string

	Source Source
	Netns  uint32 // inode of the network namespace that is watched alone; 0: several are, or it is not known
	// NetnsName returns the name that ip-netns(8) has for a network namespace, by its
	// inode, or ""; nil: none has one. Any goroutine calls it.
	NetnsName func(inode uint32) string
	// Stuck tells of the sockets whose ages the source knows; nil: of none.
	Stuck engine.Stuck
	// SourceState returns how the source does; nil: that is not shown.
	SourceState func() status.Source
	// SourceLog gives the source what it says a line for the log with, before anything
	// is opened; nil: it says nothing.
	SourceLog func(say Say)
	Holders

	Kinds        []*action.Kind // of actions that rules may name
	Capabilities match.Capabilities
	Cures        map[rules.Capability]string // what to do about what is missing of those
	Descriptors  action.Descriptors          // nil: none of other processes can be duplicated
	Sysctls      action.Sysctls
	MaxTracks    int // as in engine.Config

	Rules  *rules.Set
	File   status.RulesFile // where Rules come from; with an Error, what it says is not in force
	Reload <-chan Reload    // nil: the rules never change

	Paused *status.Pause        // nothing is acted on at the start; nil: it is
	Pauses <-chan *status.Pause // what takes its place later, with nil for none, or one whose time is over; nil: nothing ever
	Resets <-chan RuleReset     // nil: nobody ever resets a rule
	// FetchProbe asks a service whether it is well. It ends within seconds.
	FetchProbe func(url string) error

	StatusStore StatusStore     // nil: nobody wants to know how things stand
	Ages        Ages            // nil: nobody wants to know of ages
	Page        string          // URL of the page that shows it; empty: none
	Problems    status.Problems // that are known before it begins

	State
	ServiceManager
}

// Source is where sockets come from, and what counts them. A socket says which network
// namespace it is in. Each function is called on the locked thread that alone uses what
// it returns.
type Source struct {
	OpenScanner   func() (Scanner, error)
	OpenLookup    func() (Lookup, error)
	OpenDestroyer func() (Destroyer, error)
	OpenCounters  func() (Counters, error)
	// Want tells the source in which states the rules in force want sockets; nil: it does
	// not ask.
	Want func(states ssfilter.StateSet)
	// Countable returns the states whose sockets the source counts for little; nil: all.
	Countable func() ssfilter.StateSet
}

// Say adds a line about sockdog itself to the log, without waiting for its reader.
type Say func(level slog.Level, text string, attrs ...slog.Attr)

// Scanner reads the socket table. A scan is whole, or an error.
type Scanner interface {
	Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error
	// InUserSpace says why the last scan was not left to the kernel as a whole; ""
	// if it was.
	InUserSpace() string
	Close() error
}

// Lookup asks for single sockets.
type Lookup interface {
	Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error)
	Close() error
}

// Destroyer asks for a socket once more, and destroys it.
type Destroyer interface {
	action.Kernel
	Close() error
}

// Counters reads the counters of what is watched.
type Counters interface {
	Read() (sock.Counters, error)
	// Ports are those that connect(2) chooses from in each network namespace, by its
	// inode; one of which they are not known is absent.
	Ports() (map[uint32]sock.Ports, error)
	// Pressure is what is short that all sockets share.
	Pressure() (sock.Pressure, error)
	// InUse counts the full sockets; false: that is not known.
	InUse() (uint64, bool, error)
	Close()
}

// Holders is how it is found out who holds sockets.
type Holders struct {
	FindHolders func(inodes map[uint32]struct{}) (holders.Found, error)
	FindNew     func(inodes map[uint32]struct{}) (holders.Found, error) // as holders.Finder does
	WalkAt      func() int                                              // the process that FindHolders reads; 0: none
	ReadUsage   func(pid int) (holders.Usage, error)
	AskCmdlines func(patterns []string) error // as holders.Finder does
	Hung        func() string                 // as holders.Finder does
	// ReadDescriptors is how many a process has, and may have.
	ReadDescriptors func(h sock.Holder) (holders.Descriptors, error)
	// ReadSockets is which descriptors of a process are sockets, by inode.
	ReadSockets func(pid int) (map[uint32][]int, error)
	ProcRoot    string // where processes are found
	// Contained reports whether this is a PID namespace of its own.
	Contained func() bool
}

// State is what outlives the daemon.
type State struct {
	StateDir string // where it is, for the log; empty: there is none
	Journal  Journal
	Store    Store
	Restored engine.Restored
}

// Journal is the record of all actions on disk.
type Journal interface {
	// NextSeq is the Seq of an intent that is about to be appended. It does not wait
	// for the disk.
	NextSeq() uint64
	Append(records []journal.Record) error
}

// Store keeps first-seen times, spent limits, firing groups and stopped rules on disk.
type Store interface {
	Put(memories []sock.Memory) error
	Forget(keys []sock.Key) error
	Spend(spent []sock.Spent) error
	Keep(groups []sock.Group) error
	KeepStops(stops []sock.RuleStop) error
}

// StatusStore is where it is shown how things stand.
type StatusStore interface {
	// Show puts up a status, which is not changed after. It must not wait.
	Show(s *status.Status)
	// Turned says that the loop turns, where there is no need of a status. It must not wait.
	Turned()
	// Asked is ready when somebody looks, and what is shown has grown old.
	Asked() <-chan struct{}
}

// ServiceManager is told how the daemon does (sd_notify(3)).
type ServiceManager struct {
	Notify func(state string)
	// Ready is called when rules are in force and one scan is done, and again after each reload, with which
	// rules are in force instead of the file's; empty: those are. Nil: nobody waits for that.
	Ready         func(instead string)
	WatchdogEvery time.Duration // how often it wants a sign of life; 0: never
}

// RuleReset is that somebody lets a rule act again that has stopped itself.
type RuleReset struct {
	Rule, By string
	Done     chan<- RuleResetDone // has room for it
}

// RuleResetDone says what came of it.
type RuleResetDone struct {
	Was   bool     // the rule had stopped itself
	Rules []string // those that there are, where there is none of that name; nil: there is
}

// Reload is a new set of rules, checked, or why there is none.
type Reload struct {
	Rules *rules.Set
	Err   error
	// Again says that somebody asked and the file says what it said before.
	Again bool
}
