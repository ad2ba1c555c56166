package track

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestDelta: what a further answer says of a connection at rest is a Delta of what is
// known, which makes it known; anything else takes more.
func TestDelta(t *testing.T) {
	first := full(ssfilter.Established)
	c := Begin(&first, TimesOf(&first, start, start, jiffy), start)
	was := c.Pack()
	same, _ := was.Delta(&was)
	for _, test := range []struct {
		name         string
		change       func(*sock.Socket) // a minute later
		ok, segments bool
	}{
		{"nothing happened", func(s *sock.Socket) { s.Info.LastAckRecv += time.Minute }, true, true},
		{"a probe was answered", func(s *sock.Socket) { s.Info.SegsIn++; s.Info.LastAckRecv = 0; s.Retrans = 1 }, true, true},
		{"progress", func(s *sock.Socket) { s.Info.SegsIn++; s.Info.BytesAcked++; s.Info.LastAckRecv = 0 }, true, false},
		{"in use", func(s *sock.Socket) { s.WQueue = 1 }, false, false},
		{"closed by its program", func(s *sock.Socket) { s.Inode = 0 }, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, now := first, start.Add(time.Minute)
			s.Info.LastDataRecv += time.Minute
			test.change(&s)
			c := was.Unpack()
			c.Update(&s, TimesOf(&s, now, now, jiffy), now)
			is := c.Pack()
			d, ok := was.Delta(&is)
			if ok != test.ok {
				t.Fatalf("told by a Delta %t, want %t", ok, test.ok)
			}
			if !ok {
				return
			}
			if only := d.OnlySegments(same, jiffy); only != test.segments {
				t.Errorf("only segments came in %t, want %t", only, test.segments)
			}
			if got := was; got != is {
				if got.Apply(&d); got != is {
					t.Errorf("made %+v, want %+v", got, is)
				}
			}
		})
	}
}
