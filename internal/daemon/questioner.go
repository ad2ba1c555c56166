package daemon

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// askPatience is how long the kernel may take over a batch of questions. It
	// waits for the lock of each socket (tcp_get_info), and a program that is stopped
	// in a page fault while it sends holds that of its own, for ever if it must.
	askPatience = 5 * time.Second
	// mostStuck bounds the threads that wait in the kernel for such a lock, and
	// mostProbing those of them that find out which sockets are locked: however many
	// a program holds the locks of, a thread is left to ask for the sockets of others.
	mostStuck   = 32
	mostProbing = mostStuck / 2
)

// questioner asks for single sockets, and waits no longer than its patience. Where
// a question does not end, its thread is left behind, and the sockets in it are
// asked for one by one, so that only those that are locked stay without an answer.
type questioner struct {
	open     func() (Kernel, error)
	patience time.Duration
	thread   *askThread // nil: to be started
	picked   []sock.ID

	mu     sync.Mutex
	locked map[uint64]struct{} // cookies of sockets that are not asked for
	stuck  int                 // threads whose question has not ended
	closed bool
}

// askThread is a thread that asks, with a kernel of its own.
type askThread struct {
	questions chan *question // closed: the thread ends
}

type question struct {
	ids     []sock.ID
	answers []sock.Answer
	err     error
	done    chan struct{}
}

func newQuestioner(open func() (Kernel, error)) (*questioner, error) {
	q := &questioner{open: open, patience: askPatience, locked: make(map[uint64]struct{})}
	var err error
	q.thread, err = q.start()
	return q, err
}

// start starts a thread.
func (q *questioner) start() (*askThread, error) {
	t := &askThread{questions: make(chan *question, 1)}
	opened := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // as for every worker
		kernel, err := q.open()
		opened <- err
		if err != nil {
			return
		}
		defer kernel.Close()
		for a := range t.questions {
			a.answers, a.err = kernel.Lookup(a.ids, a.answers)
			close(a.done)
		}
	}()
	return t, <-opened
}

// Ask is Kernel.Ask, with an error where the kernel does not answer in time. A
// socket that is known to be locked is not asked for: its answer is an error.
func (q *questioner) Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	free := q.free(ids)
	if len(free) == len(ids) {
		return q.ask(&q.thread, mostStuck, ids, answers)
	}
	given, err := q.ask(&q.thread, mostStuck, free, nil)
	if err != nil {
		q.picked = nil // the thread that was left behind goes on to read it
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
func (q *questioner) free(ids []sock.ID) []sock.ID {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.locked) == 0 {
		return ids
	}
	q.picked = q.picked[:0]
	for i := range ids {
		if _, locked := q.locked[ids[i].Cookie]; !locked {
			q.picked = append(q.picked, ids[i])
		}
	}
	return q.picked
}

// ask has a thread ask, which it starts where there is none and fewer than most are
// stuck, and leaves it behind where that does not end.
func (q *questioner) ask(thread **askThread, most int, ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	if *thread == nil {
		if q.isFull(most) {
			return nil, fmt.Errorf("%w: %d threads wait for the kernel already", errFull, most)
		}
		var err error
		if *thread, err = q.start(); err != nil {
			*thread = nil
			return nil, err
		}
	}
	a := &question{ids: ids, answers: answers, done: make(chan struct{})}
	(*thread).questions <- a
	timer := time.NewTimer(q.patience)
	defer timer.Stop()
	select {
	case <-a.done:
		return a.answers, a.err
	case <-timer.C:
	}
	close((*thread).questions)
	*thread = nil
	q.leave(a)
	return nil, fmt.Errorf("no answer within %v", q.patience)
}

var errFull = errors.New("not asked")

func (q *questioner) isFull(most int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stuck >= most
}

// leave takes the sockets of a question that does not end for locked, until it has
// ended after all; those of several are tried one by one.
func (q *questioner) leave(a *question) {
	ids := append([]sock.ID(nil), a.ids...) // the caller's memory goes on to be used
	q.mu.Lock()
	q.stuck++
	for i := range ids {
		q.locked[ids[i].Cookie] = struct{}{}
	}
	q.mu.Unlock()
	go func() {
		<-a.done
		q.mu.Lock()
		defer q.mu.Unlock()
		q.stuck--
		for i := range ids {
			delete(q.locked, ids[i].Cookie)
		}
	}()
	if len(ids) > 1 {
		go q.probe(ids, a.done)
	}
}

// probe asks for sockets one by one and frees those that the kernel tells of, until
// the question has ended that they were in.
func (q *questioner) probe(ids []sock.ID, ended <-chan struct{}) {
	var thread *askThread
	defer func() {
		if thread != nil {
			close(thread.questions)
		}
	}()
	for i := 0; i < len(ids) && !q.isClosed(); i++ {
		_, err := q.ask(&thread, mostProbing, ids[i:i+1:i+1], nil)
		switch {
		case errors.Is(err, errFull):
			select {
			case <-ended:
				return
			case <-time.After(q.patience):
			}
			i-- // it may be free, and its kill must not wait for all the others
			continue
		case err != nil:
			continue
		}
		q.mu.Lock()
		delete(q.locked, ids[i].Cookie)
		q.mu.Unlock()
	}
}

func (q *questioner) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// lockedNow is how many sockets cannot be asked for.
func (q *questioner) lockedNow() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.locked)
}

// close ends the thread that asks; one that was left behind ends with its question.
func (q *questioner) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	if q.thread != nil {
		close(q.thread.questions)
	}
}
