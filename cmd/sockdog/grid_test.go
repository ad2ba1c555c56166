package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// sightings are sockets to print: wide, unknown and in a backlog.
func sightings(t *testing.T) *crowd {
	t.Helper()
	var c crowd
	c.clear()
	add := func(state ssfilter.State, src, dst string, inode, rqueue uint32, age engine.Age) {
		s := sock.Socket{Inode: inode, RQueue: rqueue, UID: 1000}
		s.State, s.Src, s.Dst, s.ID.Cookie = state, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst), 7
		c.add(&s, age)
	}
	exact := func(d time.Duration) engine.Age { return engine.Age{InState: d, Idle: d, Known: true, Exact: true} }
	add(ssfilter.CloseWait, "10.0.0.1:40000", "10.0.0.2:5432", 11, 1, exact(90*time.Minute))
	add(ssfilter.CloseWait, "10.0.0.1:40001", "10.0.0.2:5432", 0, 1, exact(5*time.Second))
	add(ssfilter.Established, "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:443", "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535", 12, 0,
		engine.Age{InState: time.Minute, Idle: 1230 * time.Millisecond, Known: true})
	add(ssfilter.SynSent, "10.0.0.1:40002", "10.0.0.3:5432", 13, 0, engine.Age{})
	c.holders = map[uint32][]sock.Holder{11: {{PID: 1, Comm: "java"}, {PID: 20, Comm: "java"}}, 12: {{PID: 300, Comm: "\x1b[2Jx\n"}}}
	return &c
}

// printed is the table of a crowd, oldest first.
func printed(t *testing.T, c *crowd, columns []*column, headings bool, fit int) string {
	t.Helper()
	o, err := parseOrder("age", false)
	if err != nil {
		t.Fatal(err)
	}
	g := newGrid(columns, headings)
	for _, page := range c.pages {
		g.add(g.cells(c, page))
	}
	var b strings.Builder
	if err := g.print(&b, sorted(o, c), headings, fit); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestGrid(t *testing.T) {
	tests := []struct {
		name     string
		columns  []*column
		headings bool
		fit      int
		want     string
	}{
		{
			name: "all there is", columns: columnsOf("state", "recv-q", "local", "peer", "age", "verdict"), headings: true,
			want: `
STATE        RECV-Q  LOCAL                                      PEER                                            AGE    VERDICT
CLOSE-WAIT   1       10.0.0.1:40000                             10.0.0.2:5432                                   1h30m  eof-unread
ESTABLISHED  0       [2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:443  [2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535  ≥1m0s  -
CLOSE-WAIT   1       10.0.0.1:40001                             10.0.0.2:5432                                   5s     in-backlog
SYN-SENT     0       10.0.0.1:40002                             10.0.0.3:5432                                   -      -
`,
		},
		{
			name: "no headings", columns: append(columnsOf("dport", "idle", "uid"), holderColumn),
			want: `
5432   1h30m   1000  java[1]+1
65535  ≥1.23s  1000  �[2Jx�[300]
5432   5s      -     -
5432   -       1000  -
`,
		},
		{
			name: "a narrow terminal", columns: columnsOf("state", "local", "peer", "age"), headings: true, fit: 70,
			want: `
STATE        LOCAL                     PEER                      AGE
CLOSE-WAIT   10.0.0.1:40000            10.0.0.2:5432             1h30m
ESTABLISHED  [2001:db8:a…:eeee:1]:443  [2001:db8:a…:ffff]:65535  ≥1m0s
CLOSE-WAIT   10.0.0.1:40001            10.0.0.2:5432             5s
SYN-SENT     10.0.0.1:40002            10.0.0.3:5432             -
`,
		},
		{
			name: "one of 80 columns", columns: usual, headings: true, fit: 80,
			want: `
STATE        LOCAL                    PEER                     AGE    VERDICT
CLOSE-WAIT   10.0.0.1:40000           10.0.0.2:5432            1h30m  eof-unread
ESTABLISHED  [2001:db8:a…eeee:1]:443  [2001:db8:a…ffff]:65535  ≥1m0s  -
CLOSE-WAIT   10.0.0.1:40001           10.0.0.2:5432            5s     in-backlog
SYN-SENT     10.0.0.1:40002           10.0.0.3:5432            -      -
`,
		},
		{
			name: "one of 60 columns", columns: usual, headings: true, fit: 60,
			want: `
STATE        PEER                          AGE    VERDICT
CLOSE-WAIT   10.0.0.2:5432                 1h30m  eof-unread
ESTABLISHED  [2001:db8:aaa…ee:ffff]:65535  ≥1m0s  -
CLOSE-WAIT   10.0.0.2:5432                 5s     in-backlog
SYN-SENT     10.0.0.3:5432                 -      -
`,
		},
		{
			name: "one that is too narrow for anything", columns: columnsOf("state", "peer"), headings: true, fit: 10,
			want: `
STATE        PEER
CLOSE-WAIT   10.0.0.2:5432
ESTABLISHED  [2001:db8:…fff]:65535
CLOSE-WAIT   10.0.0.2:5432
SYN-SENT     10.0.0.3:5432
`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := "\n" + printed(t, sightings(t), test.columns, test.headings, test.fit)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
		})
	}
}

// TestGridOfMany: more than a page and a block, each row once and in its place,
// and the first pages as wide as the last.
func TestGridOfMany(t *testing.T) {
	const n = 3*pageRows + 17
	c := crowdOf(n)
	rows := make([]int, n)
	for i := range rows {
		rows[i] = n - 1 - i
	}
	g := newGrid(columnsOf("cookie", "state"), false)
	for _, page := range c.pages {
		g.add(g.cells(c, page))
	}
	var b strings.Builder
	if err := g.print(&b, rows, false, 0); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range n {
		fmt.Fprintf(&want, "%-5d  ESTABLISHED\n", n-i)
	}
	if b.String() != want.String() {
		t.Errorf("the %d lines are not those of the cookies in order: they begin %.40q", n, b.String())
	}
}

// TestGridBrokenPipe: a reader who has seen enough ends it, and no thread is left.
func TestGridBrokenPipe(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c := crowdOf(3 * pageRows)
	g := newGrid(usual, true)
	for _, page := range c.pages {
		g.add(g.cells(c, page))
	}
	rows := make([]int, c.size)
	if err := g.print(&brokenPipe{lines: 2}, rows, true, 0); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("printed into a broken pipe: %v", err)
	}
}

// brokenPipe takes so many writes.
type brokenPipe struct{ lines int }

func (p *brokenPipe) Write(b []byte) (int, error) {
	if p.lines--; p.lines < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(b), nil
}

// crowdOf is n sockets in disorder.
func crowdOf(n int) *crowd {
	var c crowd
	c.clear()
	for i := range n {
		scattered := uint32(i) * 2654435761
		var addr [4]byte
		binary.BigEndian.PutUint32(addr[:], scattered)
		s := sock.Socket{Inode: scattered, RQueue: scattered % 3}
		s.State, s.ID.Cookie = ssfilter.Established, uint64(i+1)
		s.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(scattered))
		s.Dst = netip.AddrPortFrom(netip.AddrFrom4(addr), 5432)
		age := time.Duration(scattered%1e6) * time.Millisecond
		c.add(&s, engine.Age{InState: age, Idle: age, Known: true})
	}
	return &c
}

// BenchmarkTable prints what a busy proxy has, oldest first.
func BenchmarkTable(b *testing.B) {
	const n = 200_000
	c := crowdOf(n)
	by, err := parseOrder("age", false)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sort", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sorted(by, c)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/socket")
	})
	rows := sorted(by, c)
	b.Run("format", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g := newGrid(usual, true)
			for _, page := range c.pages {
				g.add(g.cells(c, page))
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/socket")
	})
	b.Run("print", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g := newGrid(usual, true)
			for _, page := range c.pages {
				g.add(g.cells(c, page))
			}
			if err := g.print(io.Discard, rows, true, 0); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/socket")
	})
	b.Run("add", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			crowdOf(n)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/socket")
	})
}

// Whatever there is to list, a table of 60 columns holds it: of one state, of all
// of them, with verdicts and without, by whatever it is sorted.
func TestGridFits60(t *testing.T) {
	for _, test := range []struct {
		name   string
		states []ssfilter.State
		mptcp  bool
		want   string // the headings
	}{
		{"of one state", []ssfilter.State{ssfilter.CloseWait}, false, "LOCAL PEER AGE VERDICT"},
		{"of one state without verdicts", []ssfilter.State{ssfilter.Established}, false, "STATE LOCAL PEER AGE"},
		{"of several without verdicts", []ssfilter.State{ssfilter.Established, ssfilter.SynSent}, false, "STATE LOCAL PEER AGE"},
		{"of several", []ssfilter.State{ssfilter.Established, ssfilter.CloseWait}, true, "STATE PEER AGE VERDICT"},
	} {
		for _, by := range []string{"age", "recv-q", "local", "verdict", "state"} {
			t.Run(test.name+" by "+by, func(t *testing.T) {
				var c crowd
				c.clear()
				for i := range 6 {
					s := sock.Socket{Inode: 1, RQueue: uint32(i)}
					s.State = test.states[i%len(test.states)]
					s.MPTCP = test.mptcp
					s.Src = netip.MustParseAddrPort("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:55555")
					s.Dst = netip.MustParseAddrPort("123.123.123.123:55555")
					c.add(&s, engine.Age{InState: 12*time.Hour + 59*time.Minute, Idle: time.Hour, Known: true})
				}
				o, err := parseOrder(by, false)
				if err != nil {
					t.Fatal(err)
				}
				g := newGrid(usual, true)
				g.kept = o.by
				g.same, g.empty = c.dull()
				for _, page := range c.pages {
					g.add(g.cells(&c, page))
				}
				var b strings.Builder
				if err := g.print(&b, sorted(o, &c), true, 60); err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(b.String()) {
					line = strings.TrimSuffix(line, "\n")
					if utf8.RuneCountInString(line) > 60 || strings.HasSuffix(line, " ") {
						t.Errorf("%d cells: %q", utf8.RuneCountInString(line), line)
					}
				}
				heads, _, _ := strings.Cut(b.String(), "\n")
				if got := strings.Join(strings.Fields(heads), " "); by == "age" && got != test.want {
					t.Errorf("columns %q, want %q", got, test.want)
				}
				if !strings.Contains(heads, o.by.head) {
					t.Errorf("sorted by %s, and the columns are %q", by, heads)
				}
			})
		}
	}
}
