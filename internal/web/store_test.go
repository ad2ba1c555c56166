package web

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sockdog/sockdog/internal/status"
)

// TestStore: who looks is shown something fresh, as soon as the loop turns, and
// what there is where it does not.
func TestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewStore()
		took := func(want *status.Status, at time.Duration) {
			t.Helper()
			began := time.Now()
			if got := b.Current(); got != want || time.Since(began) != at {
				t.Errorf("shown %v after %v, want %v after %v", got, time.Since(began), want, at)
			}
		}
		took(nil, waitFor)
		<-b.Asked() // which was kept for the loop
		first := &status.Status{Time: time.Now()}
		b.Show(first)
		time.Sleep(freshFor - 1)
		took(first, 0)
		select {
		case <-b.Asked():
			t.Error("the loop is asked for what is fresh")
		default:
		}
		time.Sleep(time.Nanosecond)
		took(first, waitFor) // the loop hangs
		<-b.Asked()
		took(first, 0) // and nobody waits for it again, or asks it
		select {
		case <-b.Asked():
			t.Error("the loop is asked again before it has shown anything")
		default:
		}
		b.Show(first)

		second := &status.Status{Time: time.Now()}
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { took(second, 100*time.Millisecond) })
		}
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		second.Time = time.Now()
		<-b.Asked() // once for all of them
		b.Show(second)
		all.Wait()
		select {
		case <-b.Asked():
			t.Error("the loop is asked again by who is shown what it made")
		default:
		}
	})
}
