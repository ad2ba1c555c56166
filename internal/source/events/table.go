package events

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Covered are the states that events tell of. TIME_WAIT and what the kernel has of FIN_WAIT_2
// after the program closed its descriptor are minisockets, and SYN_RECV is a request: these
// have no events, and a socket that becomes a minisocket leaves the table. Established
// sockets are many, and entering that state is no sign of being stuck.
var Covered = ssfilter.Of(ssfilter.SynSent, ssfilter.FinWait1, ssfilter.FinWait2, ssfilter.CloseWait, ssfilter.LastAck, ssfilter.Closing)

// Entry is what the table has of a socket.
type Entry struct {
	ID              sock.ID // Netns is 0: see NetnsCookie
	NetnsCookie     uint64  // SO_NETNS_COOKIE of its network namespace; 0: this kernel does not tell
	State           ssfilter.State
	Entered         sock.Instant // 0: it was in the state already when it was found
	Acked, Received uint64       // bytes, when it entered the state
}

// Table is what the programs know of sockets in the wanted states, wherever on the host they
// are below the cgroup that is attached to. Its methods may be called by several goroutines.
type Table struct {
	programs *Programs
	places   int

	reading sync.Mutex
	keys    []uint64
	values  []value

	wanting      sync.Mutex
	wanted, kept ssfilter.StateSet
}

// value is struct entry of bpf/events.bpf.c.
type value struct {
	entered, netnsCookie, acked, received uint64
	src, dst                              [16]byte
	iface                                 uint32
	sport, dport                          [2]byte
	family, state                         uint8
	_                                     [6]byte
}

func (v *value) entry(cookie uint64, e *Entry) {
	*e = Entry{
		ID:          sock.ID{Family: v.family, SPort: v.sport, DPort: v.dport, Src: v.src, Dst: v.dst, Iface: v.iface, Cookie: cookie},
		NetnsCookie: v.netnsCookie,
		State:       ssfilter.State(v.state),
		Entered:     sock.Instant(v.entered),
		Acked:       v.acked,
		Received:    v.received,
	}
}

// Places is how many sockets the table can hold.
func (t *Table) Places() int { return t.places }

// Want says which states sockets are entered in from now on; those that are not covered
// are left out. A socket that is in one of them already is entered by FlagOlder alone.
func (t *Table) Want(states ssfilter.StateSet) error {
	t.wanting.Lock()
	defer t.wanting.Unlock()
	wanted := states & Covered
	// What is in the table must be taken out when it leaves its state, also of states that
	// are wanted no more: so a state is kept before it is wanted.
	kept := t.kept | wanted
	for _, now := range [][2]ssfilter.StateSet{{t.wanted, kept}, {wanted, kept}} {
		err := t.programs.use(func(fds *descriptors) error {
			var first uint32
			return update(fds.states, &first, &now)
		})
		if err != nil {
			return fmt.Errorf("set the wanted states: %w", err)
		}
		t.wanted, t.kept = now[0], now[1]
	}
	return nil
}

func (t *Table) wants() ssfilter.StateSet {
	t.wanting.Lock()
	defer t.wanting.Unlock()
	return t.wanted
}

// batch is how many entries are read at first in one system call: a reader's memory.
const batch = 1024

// Read hands over all sockets in the wanted states. After an error they are not all, and none
// may be believed to be missing. The callback must not keep its argument, nor call Read.
//
// Nothing changes the table's buckets, and the kernel copies each as it is at one instant
// (__htab_map_lookup_and_delete_batch): who is in the table throughout is read exactly once,
// who comes or goes meanwhile once or not at all. Different sockets are read at different
// instants.
func (t *Table) Read(each func(*Entry)) error {
	wanted := t.wants()
	var e Entry
	return t.programs.use(func(fds *descriptors) error {
		return t.read(fds, func(cookie uint64, v *value) {
			if wanted.Has(ssfilter.State(v.state)) {
				v.entry(cookie, &e)
				each(&e)
			}
		})
	})
}

func (t *Table) read(fds *descriptors, each func(cookie uint64, v *value)) error {
	t.reading.Lock()
	defer t.reading.Unlock()
	if t.keys == nil {
		t.keys, t.values = make([]uint64, batch), make([]value, batch)
	}
	var bucket uint32 // where the next batch begins
	var in pointer    // nil: at the first
	for {
		attr := mapBatch{in: in, out: to(&bucket), keys: to(&t.keys[0]), values: to(&t.values[0]), count: uint32(len(t.keys)), fd: uint32(fds.entries)}
		_, err := bpf(unix.BPF_MAP_LOOKUP_BATCH, &attr)
		if errors.Is(err, unix.ENOSPC) { // one bucket has more
			t.keys, t.values = make([]uint64, 2*len(t.keys)), make([]value, 2*len(t.keys))
			continue
		}
		last := errors.Is(err, unix.ENOENT)
		if err != nil && !last {
			return fmt.Errorf("read the table of sockets: %w", err)
		}
		for i, cookie := range t.keys[:attr.count] {
			each(cookie, &t.values[i])
		}
		if last {
			return nil
		}
		in = to(&bucket)
	}
}

// Get returns what the table has of one socket, in whatever state it was ever wanted.
func (t *Table) Get(cookie uint64) (e Entry, ok bool, err error) {
	err = t.programs.use(func(fds *descriptors) error {
		// The kernel copies a value without a lock, and a place that was freed meanwhile
		// may be filled with another socket's. So the value is read until it is the same
		// twice: a freed place is not found again.
		var before value
		for ok = false; ; ok = true {
			var v value
			switch err := lookup(fds.entries, &cookie, &v); {
			case errors.Is(err, unix.ENOENT):
				ok = false
				return nil
			case err != nil:
				return err
			}
			if ok && v == before {
				v.entry(cookie, &e)
				return nil
			}
			before = v
		}
	})
	if err != nil {
		return Entry{}, false, fmt.Errorf("look a socket up in the table: %w", err)
	}
	return e, ok, nil
}

// Lost counts the events that the table could not take: nearly always because it was full,
// else because the kernel had no memory for it. A socket may then be missing in it, or
// stand there with a state that it has left.
func (t *Table) Lost() (events uint64, err error) {
	err = t.programs.use(func(fds *descriptors) error {
		var first uint32
		return lookup(fds.lost, &first, &events)
	})
	if err != nil {
		return 0, fmt.Errorf("read how many events were lost: %w", err)
	}
	return events, nil
}
