package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
)

// A leak that comes back three times within an hour after it was healed is said, once; what
// was stuck before the first kill is no return.
func TestLeakReturns(t *testing.T) {
	for _, test := range []struct {
		name  string
		every time.Duration
		want  int
	}{{"every ten minutes", 10 * time.Minute, 1}, {"every half an hour", 30 * time.Minute, 0}} {
		t.Run(test.name, func(t *testing.T) {
			b := newPrograms(t, 0.1)
			for i := range uint64(5) {
				at := time.Duration(i) * test.every
				for c := range uint64(3) {
					b.add(1+10*i+c, -at-time.Duration(c)*time.Second)
				}
			}
			b.rule(set(killing("r")))
			b.until(30 * time.Second)
			if n := b.noted(LeakReturns); n != 0 {
				t.Errorf("one leak is said to return: %v", b.notes)
			}
			b.until(4*test.every + time.Minute)
			if n := b.noted(LeakReturns, "pid=101"); n != test.want || len(b.e.Overview(b.now).Rules[0].Leakers) != test.want {
				t.Errorf("said %d times, want %d: %v", n, test.want, b.notes)
			}
			b.until(4*test.every + 2*time.Hour)
			if all := b.e.Overview(b.now).Rules[0].Leakers; len(all) != 0 {
				t.Errorf("two hours later: %v", all)
			}
		})
	}
}

// What becomes of the descriptors of killed sockets is counted.
func TestDescriptorsOfKilled(t *testing.T) {
	for _, test := range []struct {
		name    string
		partial bool
		want    Descriptors
	}{
		{"all of /proc can be read", false, Descriptors{Closed: 2, Open: 1}},
		{"a process cannot", true, Descriptors{Open: 1, Unknown: 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.many(1, 3, time.Minute)
			b.add(9, time.Minute, func(s *sim.Socket) { s.Inode = 0 })
			b.rule(set(killing("r")))
			b.until(5 * time.Second)
			b.partial = test.partial
			holders := b.holders
			b.holders = func(inode uint32) []sock.Holder {
				if inode == 1 {
					return holders(inode)
				}
				return nil
			}
			b.until(time.Minute)
			if got := b.e.Overview(b.now).Rules[0].Descriptors; got != test.want {
				t.Errorf("counted %+v, want %+v", got, test.want)
			}
		})
	}
}
