package sockettable

import (
	"cmp"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// sightings are sockets to print: wide, unknown and in a backlog.
func sightings(t *testing.T) *Table {
	t.Helper()
	var table Table
	add := func(state ssfilter.State, src, dst string, inode, rqueue uint32, age track.Age) {
		s := sock.Socket{Inode: inode, RQueue: rqueue, UID: 1000}
		s.State, s.Src, s.Dst, s.ID.Cookie = state, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst), 7
		table.Add(&s, age)
	}
	exact := func(d time.Duration) track.Age { return track.Age{InState: d, Idle: d, Known: true, Exact: true} }
	add(ssfilter.CloseWait, "10.0.0.1:40000", "10.0.0.2:5432", 11, 1, exact(90*time.Minute))
	add(ssfilter.CloseWait, "10.0.0.1:40001", "10.0.0.2:5432", 0, 1, exact(5*time.Second))
	add(ssfilter.Established, "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:443", "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535", 12, 0,
		track.Age{InState: time.Minute, Idle: 1230 * time.Millisecond, Known: true})
	add(ssfilter.SynSent, "10.0.0.1:40002", "10.0.0.3:5432", 13, 0, track.Age{})
	table.Holders = map[uint32][]sock.Holder{11: {{PID: 1, Comm: "java"}, {PID: 20, Comm: "java"}}, 12: {{PID: 300, Comm: "\x1b[2Jx\n"}}}
	return &table
}

// printed is a table with some columns, the oldest first.
func printed(t *testing.T, table *Table, columns []*Column, headings bool, cells int) string {
	t.Helper()
	oldest, err := ParseOrder("age", false)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	table.sort(oldest)
	table.states, table.remarks = ssfilter.Of(ssfilter.CloseWait, ssfilter.Established), true
	if err := table.printSockets(&b, &View{Order: oldest, Headings: headings, Cells: cells}, columns); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What a socket is of Multipath TCP is told apart: a listener for it is nothing to mind.
func TestRemarkOfMPTCP(t *testing.T) {
	of := func(state ssfilter.State, connection bool) string {
		r := row{connection: connection, Socket: sock.Socket{MPTCP: true, Conn: ssfilter.Conn{State: state}}}
		return r.remark()
	}
	for got, want := range map[string]string{
		of(ssfilter.Listening, false): "mptcp-listener", of(ssfilter.Established, false): "subflow", of(ssfilter.CloseWait, true): "mptcp",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// -o wide has a column for pods where one is known.
func TestWideShowsPods(t *testing.T) {
	head := func(table *Table) string {
		t.Helper()
		var b strings.Builder
		if err := table.Print(&b, &View{Order: Order{By: columnsOf("age")[0]}, Wide: true, Headings: true}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	table := sightings(t)
	if got := head(table); strings.Contains(got, "POD") {
		t.Errorf("a column for pods where none is known:\n%s", got)
	}
	table.Holders[11][0].Owner = &sock.Owner{Pod: "payments/api-1\x1b[2J"}
	lines := strings.Split(head(table), "\n")
	if !strings.Contains(lines[0], "PROCESS  ") || !strings.Contains(lines[0], "  POD  ") || !strings.Contains(strings.Join(lines, "\n"), "java[1]+1    payments/api-1�[2J  -") {
		t.Errorf("no pod:\n%s", strings.Join(lines, "\n"))
	}
}

func TestTable(t *testing.T) {
	tests := []struct {
		name     string
		columns  []*Column
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
			if diff := gocmp.Diff(test.want, got); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTableOfMany: each row is there once and in its place, and the first as wide as
// the last.
func TestTableOfMany(t *testing.T) {
	const n = 12345
	got := strings.Fields(printed(t, tableOf(n), columnsOf("cookie"), false, 0))
	slices.SortFunc(got, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	for i := range n {
		if i >= len(got) || got[i] != strconv.Itoa(i+1) {
			t.Fatalf("%d lines of %d, and not each once", len(got), n)
		}
	}
}

// TestTableBrokenPipe: a reader who has seen enough ends it.
func TestTableBrokenPipe(t *testing.T) {
	oldest, _ := ParseOrder("age", false)
	if err := tableOf(12345).Print(&brokenPipe{lines: 2}, &View{Order: oldest}); !errors.Is(err, io.ErrClosedPipe) {
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

// Whatever there is to list, a table of 60 columns holds it: of one state, of all
// of them, with verdicts and without, by whatever it is sorted.
func TestTableFits60(t *testing.T) {
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
				var table Table
				for i := range 6 {
					s := sock.Socket{Inode: 1, RQueue: uint32(i)}
					s.State = test.states[i%len(test.states)]
					s.MPTCP = test.mptcp
					s.Src = netip.MustParseAddrPort("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:55555")
					s.Dst = netip.MustParseAddrPort("123.123.123.123:55555")
					table.Add(&s, track.Age{InState: 12*time.Hour + 59*time.Minute, Idle: time.Hour, Known: true})
				}
				o, err := ParseOrder(by, false)
				if err != nil {
					t.Fatal(err)
				}
				var b strings.Builder
				if err := table.Print(&b, &View{Order: o, Headings: true, Cells: 60}); err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(b.String()) {
					line = strings.TrimSuffix(line, "\n")
					if term.Width(line) > 60 || strings.HasSuffix(line, " ") {
						t.Errorf("%d cells: %q", term.Width(line), line)
					}
				}
				heads, _, _ := strings.Cut(b.String(), "\n")
				if got := strings.Join(strings.Fields(heads), " "); by == "age" && got != test.want {
					t.Errorf("columns %q, want %q", got, test.want)
				}
				if !strings.Contains(heads, strings.ToUpper(by)) {
					t.Errorf("sorted by %s, and the columns are %q", by, heads)
				}
			})
		}
	}
}

// Where several network namespaces are shown, each has the name that it goes by, or its
// inode; by that alone sockets are grouped and written as JSON.
func TestNamespaces(t *testing.T) {
	table := sightings(t)
	for i, r := range table.rows {
		r.ID.Netns = []uint32{4026531840, 4026532700, 4026532700, 0}[i]
		r.NetnsNames = []string{"/", "/blue/green/", "/blue/green/", ""}[i]
	}
	state := columnsOf("state")
	oldest, err := ParseOrder("age", false)
	if err != nil {
		t.Fatal(err)
	}
	view := View{Order: oldest, Netns: true}
	if got := view.columns(); got[0] != netnsColumn || !slices.Equal(got[1:], usual) {
		t.Errorf("columns %v, want netns and the usual", headsOf(got))
	}
	want := "4026531840  CLOSE-WAIT\nblue        ESTABLISHED\nblue        CLOSE-WAIT\n-           SYN-SENT\n"
	if diff := gocmp.Diff(want, printed(t, table, append([]*Column{netnsColumn}, state...), false, 0)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	var objects []string
	for _, r := range table.rows {
		l := table.listed(r)
		objects = append(objects, strings.TrimSpace(l.Netns+" "+l.NetnsName))
	}
	if diff := gocmp.Diff([]string{"4026531840", "4026532700 blue", "4026532700 blue", ""}, objects); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	keys, err := ParseKeys("netns")
	if err != nil {
		t.Fatal(err)
	}
	var groups strings.Builder
	if err := table.Print(&groups, &View{Keys: keys}); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff("2  4026532700  1  0  ≥1m0s\n1  4026531840  1  0  1h30m\n1  -           0  0  -\n", groups.String()); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
}
