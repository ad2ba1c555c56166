// Package patient asks a source for single sockets, and waits no longer than its
// patience for the kernel: a program that holds the lock of a socket must not keep
// the others from being asked for.
package patient

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// patience is how long the kernel may take over a batch of questions. It
	// waits for the lock of each socket (tcp_get_info), and a program that is stopped
	// in a page fault while it sends holds that of its own, for ever if it must.
	patience = 5 * time.Second
	// mostStuck bounds the threads that wait in the kernel for such a lock, and
	// mostProbing those of them that find out which sockets are locked: however many
	// a program holds the locks of, a thread is left to ask for the sockets of others.
	mostStuck   = 32
	mostProbing = mostStuck / 2
)

// Connection asks for single sockets, and is used by one thread.
type Connection interface {
	Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error)
	Close() error
}

// Lookup asks for single sockets, and waits no longer than its patience. Where
// a question does not end, its thread is left behind, and the sockets in it are
// asked for one by one, so that only those that are locked stay without an answer.
type Lookup struct {
	open   func() (Connection, error)
	thread thread // nil: to be started
	picked []sock.ID

	stuck  atomic.Int32 // threads whose question has not ended
	closed atomic.Bool

	mu     sync.Mutex
	locked map[sock.Key]struct{} // sockets that are not asked for
}

// thread is one that asks, with a connection of its own, until it is closed.
type thread chan *question

type question struct {
	ids     []sock.ID
	answers []sock.Answer
	err     error
	done    chan struct{}
}

// Open opens a first connection; open is called on the locked thread that alone uses
// what it returns.
func Open[C Connection](open func() (C, error)) (*Lookup, error) {
	l := &Lookup{open: func() (Connection, error) { return open() }, locked: make(map[sock.Key]struct{})}
	var err error
	if l.thread, err = l.start(); err != nil {
		return nil, err
	}
	return l, nil
}

// start starts a thread.
func (l *Lookup) start() (thread, error) {
	t := make(thread, 1)
	opened := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // as for every worker
		connection, err := l.open()
		opened <- err
		if err != nil {
			return
		}
		defer connection.Close()
		for a := range t {
			a.answers, a.err = connection.Lookup(a.ids, a.answers)
			close(a.done)
		}
	}()
	return t, <-opened
}

// Lookup is that of a connection, with an error where the kernel does not answer in time. A
// socket that is known to be locked is not asked for: its answer is an error.
func (l *Lookup) Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	free := l.free(ids)
	if len(free) == len(ids) {
		return l.ask(&l.thread, mostStuck, ids, answers)
	}
	given, err := l.ask(&l.thread, mostStuck, free, nil)
	if err != nil {
		l.picked = nil // the thread that was left behind goes on to read it
	}
	answers = answers[:0]
	for i := range ids {
		if len(given) > 0 && given[0].ID == ids[i] {
			answers, given = append(answers, given[0]), given[1:]
		} else {
			answers = append(answers, sock.Answer{ID: ids[i], Err: errLocked})
		}
	}
	return answers, err
}

var errLocked = errors.New("the kernel waits for the program that holds the socket's lock")

// free are those of ids that are not known to be locked.
func (l *Lookup) free(ids []sock.ID) []sock.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.locked) == 0 {
		return ids
	}
	l.picked = l.picked[:0]
	for i := range ids {
		if _, locked := l.locked[ids[i].Key()]; !locked {
			l.picked = append(l.picked, ids[i])
		}
	}
	return l.picked
}

// ask has the thread by ask, which it starts where there is none and fewer than most are
// stuck, and leaves it behind where that does not end.
func (l *Lookup) ask(by *thread, most int32, ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	if *by == nil {
		if l.stuck.Load() >= most {
			return nil, fmt.Errorf("%w: %d threads wait for the kernel already", errFull, most)
		}
		var err error
		if *by, err = l.start(); err != nil {
			*by = nil
			return nil, err
		}
	}
	a := &question{ids: ids, answers: answers, done: make(chan struct{})}
	*by <- a
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-a.done:
		return a.answers, a.err
	case <-timer.C:
	}
	close(*by)
	*by = nil
	l.leave(a)
	return nil, fmt.Errorf("no answer within %v", patience)
}

var errFull = errors.New("not asked")

// leave takes the sockets of a question that does not end for locked, until it has
// ended after all; those of several are tried one by one.
func (l *Lookup) leave(a *question) {
	ids := append([]sock.ID(nil), a.ids...) // the caller's memory goes on to be used
	l.stuck.Add(1)
	l.mu.Lock()
	for i := range ids {
		l.locked[ids[i].Key()] = struct{}{}
	}
	l.mu.Unlock()
	go func() {
		<-a.done
		l.stuck.Add(-1)
		l.unlock(ids)
	}()
	if len(ids) > 1 {
		go l.probe(ids, a.done)
	}
}

// probe asks for sockets one by one and frees those that the kernel tells of, until
// the question has ended that they were in.
func (l *Lookup) probe(ids []sock.ID, ended <-chan struct{}) {
	var own thread
	defer func() { own.end() }()
	for i := 0; i < len(ids) && !l.closed.Load(); i++ {
		_, err := l.ask(&own, mostProbing, ids[i:i+1:i+1], nil)
		switch {
		case errors.Is(err, errFull):
			select {
			case <-ended:
				return
			case <-time.After(patience):
			}
			i-- // it may be free, and its kill must not wait for all the others
		case err == nil:
			l.unlock(ids[i : i+1])
		}
	}
}

// unlock has sockets asked for again.
func (l *Lookup) unlock(ids []sock.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range ids {
		delete(l.locked, ids[i].Key())
	}
}

// Locked returns how many sockets cannot be asked for. Any goroutine may call it.
func (l *Lookup) Locked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.locked)
}

// Close ends the thread that asks; one that was left behind ends with its question.
func (l *Lookup) Close() error {
	l.closed.Store(true)
	l.thread.end()
	return nil
}

func (t thread) end() {
	if t != nil {
		close(t)
	}
}
