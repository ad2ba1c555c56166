package daemon

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

func (k lockedKernel) Ask(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
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

func (lockedKernel) InUserSpace() string                                     { return "" }
func (lockedKernel) Look(sock.Query, func(*sock.Socket, sock.Instant)) error { return nil }
func (lockedKernel) Destroy(_ []sock.ID, outcomes []error) ([]error, error)  { return outcomes, nil }
func (t *lockedTable) kernel() (Kernel, error) {
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
		q, err := newQuestioner(table.kernel)
		check := func(what string, got []string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		check("while nothing is locked", said(q.Ask(idsOf(1, 2), nil)), "1", "2")
		began := time.Now()
		check("with one that is", said(q.Ask(idsOf(1, 2, 3, 4, 5), nil)), "no answer within 5s")
		if took := time.Since(began); took != askPatience {
			t.Errorf("it took %v, want %v", took, askPatience)
		}
		time.Sleep(askPatience) // the probe finds out which
		synctest.Wait()
		if n := q.lockedNow(); n != 1 {
			t.Errorf("%d sockets are taken for locked, want 1", n)
		}
		began = time.Now()
		check("once that is known", said(q.Ask(idsOf(5, 3, 1, 6), nil)), "5", "3 locked", "1", "6")
		check("about it alone", said(q.Ask(idsOf(3), nil)), "3 locked")
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v, want no time", took)
		}
		close(table.locks[3])
		table.mu.Lock()
		delete(table.locks, 3)
		table.mu.Unlock()
		synctest.Wait()
		check("once the lock is free", said(q.Ask(idsOf(1, 3), nil)), "1", "3")
		q.close()
		synctest.Wait()
		if table.open != 0 || q.lockedNow() != 0 {
			t.Errorf("%d netlink sockets are left open, %d sockets locked", table.open, q.lockedNow())
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
		q, err := newQuestioner(table.kernel)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			q.Ask(idsOf(all...), nil)
			q.Ask(idsOf(1000), nil) // not locked
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
		if answers, err := q.Ask(idsOf(all...), nil); err != nil || len(answers) != len(all) || answers[0].Err != nil {
			t.Errorf("once they are free: %v", said(answers, err))
		}
		q.close()
		synctest.Wait()
		if table.open != 0 {
			t.Errorf("%d netlink sockets are left open", table.open)
		}
	})
}
