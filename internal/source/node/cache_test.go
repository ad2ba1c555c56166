package node

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestCacheKeepsTheNewest: an answer is newer that came later, unless the segments tell that
// it was read before.
func TestCacheKeepsTheNewest(t *testing.T) {
	const start = sock.Instant(1000 * time.Second)
	answer := func(entered sock.Instant, segments uint32) *sock.Socket {
		s := &sock.Socket{ID: sock.ID{Cookie: 1}, Entered: entered, Info: sock.Info{SegsIn: segments}}
		s.State = ssfilter.CloseWait
		return s
	}
	for _, test := range []struct {
		name   string
		answer *sock.Socket
		got    time.Duration
		taken  bool
	}{
		{"later", answer(start, 11), time.Millisecond, true},
		{"later, and the counter has wrapped around", answer(start, 0x80000000), time.Millisecond, true},
		{"earlier", answer(start, 11), -time.Millisecond, false},
		{"a dump that came later and was read before", answer(start, 9), time.Millisecond, false},
		{"another connection", answer(start.Add(time.Second), 1), time.Millisecond, true},
	} {
		c := newCache()
		c.put(answer(start, 10), start)
		c.renew(test.answer, start.Add(test.got))
		var s sock.Socket
		if c.get(1, &s); (s == *test.answer) != test.taken {
			t.Errorf("%s: kept with %d segments", test.name, s.Info.SegsIn)
		}
	}
}
