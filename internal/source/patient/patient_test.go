package patient

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
)

// lockedTable is a kernel that waits for the locks of some sockets.
type lockedTable struct {
	mu    sync.Mutex
	locks map[uint64]chan struct{}
	open  int // of them in use
	asked []string
}

type lockedKernel struct{ *lockedTable }

func (k lockedKernel) Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	answers = answers[:0]
	for _, id := range ids {
		k.mu.Lock()
		k.asked = append(k.asked, fmt.Sprint(id.Cookie))
		lock := k.locks[id.Cookie]
		k.mu.Unlock()
		if lock != nil {
			<-lock
		}
		answers = append(answers, sock.Answer{ID: id, Got: 1})
	}
	return answers, nil
}

func (k lockedKernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open--
	return nil
}

func (t *lockedTable) kernel() (Connection, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open++
	return lockedKernel{t}, nil
}

func idsOf(cookies ...uint64) (ids []sock.ID) {
	for _, c := range cookies {
		ids = append(ids, sock.ID{Cookie: c})
	}
	return ids
}

// said is what became of each question, as its cookie or an error.
func said(answers []sock.Answer, err error) []string {
	var all []string
	for _, a := range answers {
		switch {
		case errors.Is(a.Err, errLocked):
			all = append(all, fmt.Sprintf("%d locked", a.ID.Cookie))
		case a.Err == nil && a.Got == 1:
			all = append(all, fmt.Sprint(a.ID.Cookie))
		default:
			all = append(all, fmt.Sprintf("%d %v", a.ID.Cookie, a.Err))
		}
	}
	if err != nil {
		all = append(all, err.Error())
	}
	return all
}

// A socket whose lock a program holds keeps nobody from asking for the others.
func TestLockedSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := &lockedTable{locks: map[uint64]chan struct{}{3: make(chan struct{})}}
		q, err := Open(table.kernel)
		check := func(what string, got []string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		check("while nothing is locked", said(q.Lookup(idsOf(1, 2), nil)), "1", "2")
		began := time.Now()
		check("with one that is", said(q.Lookup(idsOf(1, 2, 3, 4, 5), nil)), "no answer within 5s")
		if took := time.Since(began); took != patience {
			t.Errorf("it took %v, want %v", took, patience)
		}
		time.Sleep(patience) // the probe finds out which
		synctest.Wait()
		if n := q.Locked(); n != 1 {
			t.Errorf("%d sockets are taken for locked, want 1", n)
		}
		began = time.Now()
		check("once that is known", said(q.Lookup(idsOf(5, 3, 1, 6), nil)), "5", "3 locked", "1", "6")
		check("about it alone", said(q.Lookup(idsOf(3), nil)), "3 locked")
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v, want no time", took)
		}
		close(table.locks[3])
		table.mu.Lock()
		delete(table.locks, 3)
		table.mu.Unlock()
		synctest.Wait()
		check("once the lock is free", said(q.Lookup(idsOf(1, 3), nil)), "1", "3")
		q.Close()
		synctest.Wait()
		if table.open != 0 || q.Locked() != 0 {
			t.Errorf("%d netlink sockets are left open, %d sockets locked", table.open, q.Locked())
		}
	})
}

// However many are locked, the threads that wait for them are bounded.
func TestLockedSocketsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := &lockedTable{locks: make(map[uint64]chan struct{})}
		lock := make(chan struct{})
		var all []uint64
		for cookie := uint64(1); cookie <= 100; cookie++ {
			table.locks[cookie] = lock
			all = append(all, cookie)
		}
		q, err := Open(table.kernel)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			q.Lookup(idsOf(all...), nil)
			q.Lookup(idsOf(1000), nil) // not locked
			time.Sleep(time.Second)
		}
		if table.open > mostStuck+2 {
			t.Errorf("%d threads wait, want %d at most", table.open, mostStuck+2)
		}
		close(lock)
		synctest.Wait()
		table.mu.Lock()
		clear(table.locks)
		table.mu.Unlock()
		if answers, err := q.Lookup(idsOf(all...), nil); err != nil || len(answers) != len(all) || answers[0].Err != nil {
			t.Errorf("once they are free: %v", said(answers, err))
		}
		q.Close()
		synctest.Wait()
		if table.open != 0 {
			t.Errorf("%d netlink sockets are left open", table.open)
		}
	})
}

// However many sockets a program locks, the others are asked for: at once those that
// were in no question with them, and those that were as soon as threads are free to
// tell them apart.
func TestManyLockedSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := &lockedTable{locks: make(map[uint64]chan struct{})}
		var all []uint64
		for cookie := uint64(1); cookie <= 100; cookie++ {
			if cookie <= 20 {
				table.locks[cookie] = make(chan struct{})
			}
			all = append(all, cookie)
		}
		q, err := Open(table.kernel)
		if err != nil {
			t.Fatal(err)
		}
		unlock := func(from, to uint64) {
			table.mu.Lock()
			defer table.mu.Unlock()
			for cookie := from; cookie <= to; cookie++ {
				close(table.locks[cookie])
				delete(table.locks, cookie)
			}
		}
		q.Lookup(idsOf(all...), nil)
		for range 200 {
			if answers, err := q.Lookup(idsOf(1000), nil); err != nil || len(answers) != 1 || answers[0].Err != nil {
				t.Fatalf("asked for a socket that was in no question with them: %v", said(answers, err))
			}
			time.Sleep(time.Second)
		}
		unlock(2, 20) // the first holds the first question up as before
		time.Sleep(time.Minute)
		answers, err := q.Lookup(idsOf(all...), nil)
		locked := 0
		for _, a := range answers {
			if a.Err != nil {
				locked++
			}
		}
		if err != nil || len(answers) != len(all) || locked != 1 {
			t.Errorf("%d of %d are without an answer, want the one that is locked: %v", locked, len(answers), err)
		}
		unlock(1, 1)
		q.Close()
		synctest.Wait()
		if table.open != 0 {
			t.Errorf("%d netlink sockets are left open", table.open)
		}
	})
}

// The thread of a question that does not end goes on to read what it was asked.
func TestQuestionLeftBehindIsNotWrittenTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := &lockedTable{locks: map[uint64]chan struct{}{1: make(chan struct{}), 3: make(chan struct{})}}
		q, err := Open(table.kernel)
		if err != nil {
			t.Fatal(err)
		}
		q.Lookup(idsOf(1), nil)
		q.Lookup(idsOf(1, 2, 3, 4), nil) // without the first
		q.Lookup(idsOf(1, 5, 6, 7, 8), nil)
		close(table.locks[1])
		close(table.locks[3])
		synctest.Wait()
		table.mu.Lock()
		defer table.mu.Unlock()
		times := 0
		for _, cookie := range table.asked {
			if cookie == "4" {
				times++
			}
		}
		if times != 2 { // by that thread, and alone
			t.Errorf("4 was asked for %d times, want twice: %v", times, table.asked)
		}
		q.Close()
	})
}
