package why_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/why"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

var update = flag.Bool("update", false, "write the golden files anew")

// kill stands for the action, which is not this package's.
var kinds = []*rules.Kind{{Name: "kill", On: rules.OnSocket, Destructive: true, Needs: rules.Destroy}}

var now = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)

// host makes up what is read of one.
type host struct {
	why.Input
	inode uint32
}

func newHost() *host {
	h := &host{Input: why.Input{Now: now, Whole: true}}
	h.Latest = why.Reading{Holders: map[uint32][]sock.Holder{}, Processes: map[int]why.Process{}, Overflows: map[uint32]uint64{}}
	return h
}

// runs adds a process, with descriptors used of a limit.
func (h *host) runs(holder sock.Holder, used int, limit uint64) []sock.Holder {
	h.Latest.Processes[holder.PID] = why.Process{Holder: holder, Known: limit > 0, Used: used, Limit: limit}
	return []sock.Holder{holder}
}

func java() sock.Holder { return sock.Holder{PID: 812, Start: 5, Comm: "java", Exe: "java"} }

// has adds sockets that are so held; the i-th is changed for its part.
func (h *host) has(n int, state ssfilter.State, local, peer string, holders []sock.Holder, change func(i int, s *why.Socket)) {
	for i := range n {
		s := why.Socket{Age: track.Age{InState: time.Hour, Idle: time.Hour, Known: true, Exact: true}}
		s.State, s.Src, s.Dst = state, netip.MustParseAddrPort(local), netip.MustParseAddrPort(peer)
		h.inode++
		s.Inode, s.UID, s.ID.Netns, s.ID.Cookie = h.inode, 1000, 4026531840, uint64(h.inode)
		if change != nil {
			change(i, &s)
		}
		h.Latest.Sockets = append(h.Latest.Sockets, s)
		if s.Inode != 0 && holders != nil {
			h.Latest.Holders[s.Inode] = holders
		}
	}
}

func (h *host) listens(at string, queue, limit uint32, holders []sock.Holder) {
	s := sock.Socket{RQueue: queue, WQueue: limit}
	s.State, s.Src = ssfilter.Listening, netip.MustParseAddrPort(at)
	h.inode++
	s.Inode, s.ID.Netns = h.inode, 4026531840
	h.Latest.Listening = append(h.Latest.Listening, s)
	h.Latest.Holders[s.Inode] = holders
}

// every gives sockets ages at regular intervals, the newest first.
func every(gap, newest time.Duration) func(int, *why.Socket) {
	return func(i int, s *why.Socket) { s.InState = newest + time.Duration(i)*gap }
}

func unread(_ int, s *why.Socket) { s.RQueue = 1 }

var cases = map[string]func(h *host){
	// What the issue of every night looks like.
	"pool": func(h *host) {
		h.has(212, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", h.runs(java(), 512, 4096), every(15*time.Second, 3*time.Second))
	},
	"pool-stopped": func(h *host) {
		h.has(12, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", h.runs(java(), 512, 4096), every(time.Minute, 20*time.Hour))
	},
	"pool-bound": func(h *host) { // keepalives hide the ages
		h.has(3, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", h.runs(java(), 4096, 4096), func(_ int, s *why.Socket) { s.Exact = false })
	},
	"watched": func(h *host) {
		held := h.runs(java(), 100, 4096)
		h.has(10, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", held, nil)
		h.has(3, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.9:6379", held, nil)
		before := h.Latest
		before.Processes = map[int]why.Process{812: before.Processes[812]}
		h.has(2, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", held, nil)
		h.runs(java(), 102, 4096)
		h.Before, h.Watched = &before, 30*time.Second
	},
	"early": func(h *host) { // and half-closed ones, which only a watch tells from them
		held := h.runs(java(), 100, 4096)
		h.has(2, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", held, every(time.Second, 20*time.Millisecond))
		before := h.Latest
		before.Sockets = append([]why.Socket(nil), before.Sockets...)
		h.Latest.Sockets[0].Info.BytesAcked = 1
		h.Before, h.Watched = &before, time.Second
	},
	"workers": func(h *host) { // one of several equal ones
		for pid := range 3 {
			held := h.runs(sock.Holder{PID: 10 + pid, Start: 1, Comm: "php-fpm"}, 20, 1024)
			h.has(1+40*(pid/2), ssfilter.CloseWait, "10.0.0.2:9000", "10.0.0.9:40000", held, unread)
		}
		h.listens("0.0.0.0:9000", 0, 511, []sock.Holder{{PID: 10, Start: 1, Comm: "php-fpm"}})
	},
	"verdicts": func(h *host) {
		held := h.runs(sock.Holder{PID: 7, Start: 1, Comm: "nginx", Owner: &sock.Owner{Unit: sock.Fact{Text: "nginx.service", Known: true}}}, 100, 1024)
		at, peer := "10.0.0.2:443", "10.0.0.9:40000"
		h.listens("10.0.0.2:443", 0, 511, held)
		h.has(2, ssfilter.CloseWait, at, peer, held, unread)
		h.has(3, ssfilter.CloseWait, at, peer, held, nil)
		h.has(4, ssfilter.CloseWait, at, "10.0.0.8:1", held, func(i int, s *why.Socket) {
			s.RQueue, s.Dst = 100, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 4000)
		})
		h.has(5, ssfilter.CloseWait, at, peer, held, func(_ int, s *why.Socket) { s.WQueue, s.Idle = 10, time.Second })
		h.has(6, ssfilter.CloseWait, at, peer, held, func(_ int, s *why.Socket) { s.WQueue = 10 })
		h.has(1, ssfilter.CloseWait, at, peer, held, func(_ int, s *why.Socket) { s.Idle = time.Second }) // it sends on
		h.has(7, ssfilter.Established, at, peer, held, func(_ int, s *why.Socket) { s.RQueue = 10 })
		h.has(8, ssfilter.FinWait2, at, peer, held, nil)
		h.has(9, ssfilter.LastAck, at, peer, nil, func(_ int, s *why.Socket) { s.WQueue, s.Inode, s.UID = 1, 0, 0 })
		h.has(1, ssfilter.Established, at, peer, held, nil) // which is a healthy one
	},
	"acceptor": func(h *host) {
		held := h.runs(sock.Holder{PID: 9, Start: 1, Comm: "gunicorn"}, 30, 1024)
		threads := 0
		p := h.Latest.Processes[9]
		p.Accepting = &threads
		h.Latest.Processes[9] = p
		h.listens("0.0.0.0:8080", 6, 5, held)
		h.Latest.Overflows[4026531840] = 40
		backlog := func(_ int, s *why.Socket) { s.Inode, s.UID = 0, 0 }
		h.has(4, ssfilter.CloseWait, "10.0.0.2:8080", "10.0.0.9:40000", nil, backlog)
		h.has(2, ssfilter.Established, "10.0.0.2:8080", "10.0.0.9:40000", nil, backlog)
		before := h.Latest
		before.Overflows = map[uint32]uint64{4026531840: 10}
		h.Before, h.Watched = &before, time.Minute
	},
	"acceptors": func(h *host) { // a queue that is filling up, with threads that do accept
		held := h.runs(sock.Holder{PID: 9, Start: 1, Comm: "apache2"}, 30, 1024)
		threads := 3
		p := h.Latest.Processes[9]
		p.Accepting = &threads
		h.Latest.Processes[9] = p
		h.listens("[::]:80", 400, 511, held)
		h.listens("[::]:81", 2, 511, held)
	},
	"acceptor-forked": func(h *host) { // a socket that a master has made, and leaves to its children
		var held []sock.Holder
		for pid := range 6 {
			held = append(held, h.runs(sock.Holder{PID: 70 + pid, Start: 1, Comm: "apache2"}, 30, 1024)...)
			p := h.Latest.Processes[70+pid]
			p.Accepting = new(pid / 5)
			h.Latest.Processes[70+pid] = p
		}
		h.listens("[::]:80", 400, 511, held)
		unknown := h.runs(sock.Holder{PID: 79, Start: 1, Comm: "apache2"}, 30, 1024)
		h.listens("[::]:81", 300, 511, append(held[:1:1], unknown...))
	},
	"acceptors-apart": func(h *host) { // workers with a queue each on one port (SO_REUSEPORT), of which one is stuck
		for pid := range 3 {
			held := h.runs(sock.Holder{PID: 60 + pid, Start: 1, Comm: "unicorn"}, 30, 1024)
			h.listens("0.0.0.0:8080", uint32(3*(pid%2)), 128, held)
			h.listens("10.0.0.2:9090", uint32(2*(1-pid%2)), 128, held)
		}
		backlog := func(_ int, s *why.Socket) { s.Inode, s.UID = 0, 0 }
		h.has(3, ssfilter.CloseWait, "10.0.0.2:8080", "10.0.0.9:40000", nil, backlog)
		h.has(4, ssfilter.CloseWait, "10.0.0.2:9090", "10.0.0.9:40000", nil, backlog) // in two queues, and nobody can tell which
	},
	"dead": func(h *host) {
		p := why.Process{Holder: java(), Netns: 4026531840, Known: true, Used: 4000, Limit: 4096, Dead: 3900}
		h.Latest.Processes[812] = p
		before := h.Latest
		p.Dead, p.Used = 3880, 3980
		before.Processes = map[int]why.Process{812: p}
		h.Before, h.Watched = &before, time.Minute
	},
	"kills": func(h *host) { // after which not every descriptor was closed
		h.Latest.Processes[812] = why.Process{Holder: java(), Netns: 4026531840, Known: true, Used: 200, Limit: 4096, Dead: 9}
		h.Kills = []why.Kills{{Rule: "postgres-close-wait", Closed: 3, Open: 9}, {Rule: "closes", Closed: 7}, {Rule: "some", Open: 1, Unknown: 2}, {Rule: "logs"}}
	},
	"notes": func(h *host) {
		held := h.runs(java(), 100, 4096)
		h.has(20, ssfilter.Established, "10.0.0.2:40000", "10.3.0.7:5432", held, nil)
		h.has(19, ssfilter.Established, "10.0.0.2:40000", "10.3.0.8:5432", held, nil) // too few to tell
		h.has(1000, ssfilter.TimeWait, "10.0.0.2:40000", "10.3.0.7:80", nil, func(_ int, s *why.Socket) { s.Inode, s.UID = 0, 0 })
		h.has(3, ssfilter.SynSent, "10.0.0.2:40000", "10.9.9.9:443", held, nil)
	},
	"mptcp": func(h *host) {
		h.has(2, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", h.runs(java(), 100, 4096), func(_ int, s *why.Socket) { s.MPTCP = true })
	},
	"mptcp-connections": func(h *host) { // what they are is told by them, and not by their subflows
		held := h.runs(java(), 100, 4096)
		h.has(2, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", held, func(_ int, s *why.Socket) { s.MPTCP = true })
		subflows := h.Latest.Sockets
		connections := func(n int, peer string, change func(int, *why.Socket)) {
			h.has(n, ssfilter.CloseWait, "10.0.0.2:40000", peer, held, func(i int, s *why.Socket) {
				s.MPTCP, s.Age = true, track.Age{}
				change(i, s)
			})
		}
		h.Latest.Sockets = nil
		connections(5, "10.3.0.7:5432", func(int, *why.Socket) {})
		connections(4, "10.3.0.7:5433", func(_ int, s *why.Socket) { s.RQueue = 768 })
		connections(3, "10.3.0.7:5434", func(_ int, s *why.Socket) { s.WQueue = 768 })
		connections(2, "10.3.0.7:5435", func(_ int, s *why.Socket) { s.State = ssfilter.Established })
		h.Latest.MPTCP, h.Latest.HasMPTCP, h.Latest.Sockets = h.Latest.Sockets, true, subflows
	},
	"kernel": func(h *host) { // which holds some itself
		roots := func(_ int, s *why.Socket) { s.UID = 0 }
		h.has(2, ssfilter.CloseWait, "10.0.0.2:800", "10.3.0.7:2049", nil, roots)
		h.listens("0.0.0.0:2049", 60, 64, nil)
		h.has(1, ssfilter.CloseWait, "10.0.0.2:800", "10.3.0.7:5432", nil, nil) // which is on its way to another process
	},
	"unseen": func(h *host) {
		h.has(5, ssfilter.CloseWait, "10.0.0.2:40000", "[fe80::1]:22", nil, func(_ int, s *why.Socket) { s.Iface, s.Device = 2, "eth0" })
		h.has(2, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", nil, nil)
		h.listens("0.0.0.0:8080", 2, 128, nil)
		h.Latest.Listening[0].UID = 33
		h.has(2, ssfilter.CloseWait, "10.0.0.2:8080", "10.0.0.9:40000", nil, func(_ int, s *why.Socket) { s.Inode, s.UID = 0, 0 })
		h.Unseen, h.Cure = "7 of 9 processes cannot be read, the first is init[1]: the sockets that those hold have no known holder", "CAP_SYS_PTRACE"
		h.Left = []string{"1 process hung when read, the first is 77: its dead sockets are not known."}
	},
	"settled": func(h *host) { // not all processes can be read, and of one container it does not matter
		h.Unseen, h.Cure = "those outside of this PID namespace are not shown: the sockets that those hold have no known holder", "hostPID: true"
		known, other := &sock.Owner{ContainerID: sock.Fact{Text: strings.Repeat("ab", 32), Known: true}}, &sock.Owner{}
		h.Latest.Settled = map[*sock.Owner]bool{known: true}
		sure := h.runs(sock.Holder{PID: 20, Start: 1, Comm: "app", Owner: known}, 20, 1024)
		h.has(3, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", sure, nil)
		perhaps := sock.Holder{PID: 21, Start: 1, Comm: "app", Owner: other}
		h.has(2, ssfilter.CloseWait, "10.0.0.2:41000", "10.3.0.7:5433", h.runs(perhaps, 20, 1024), nil)
		h.has(1, ssfilter.CloseWait, "10.0.0.2:42000", "10.3.0.7:5434", append(sure, perhaps), nil)
	},
	"exact": func(h *host) { // who holds sockets is known by a pass over all descriptors
		h.Unseen, h.Cure = "1 of 9 processes cannot be read, the first is init[1]: the sockets that those hold have no known holder", "CAP_SYS_PTRACE"
		h.Latest.Exact = true
		h.has(3, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", h.runs(sock.Holder{PID: 20, Start: 1, Comm: "app"}, 20, 1024), nil)
		h.has(2, ssfilter.CloseWait, "10.0.0.2:41000", "10.3.0.7:2049", nil, nil)
	},
	"pods": func(h *host) {
		h.Several = true
		pod := &sock.Owner{Pod: "payments/orders-7f", Container: "app", PodUID: sock.Fact{Text: "0c36e1a2-0000-4000-8000-000000000001", Known: true}, ContainerID: sock.Fact{Text: strings.Repeat("ab", 32), Known: true}}
		bare := &sock.Owner{ContainerID: sock.Fact{Text: strings.Repeat("cd", 32), Known: true}}
		unit := &sock.Owner{Unit: sock.Fact{Text: "redis.service", Known: true}}
		for i, at := range []*sock.Owner{pod, bare, unit, nil} {
			held := h.runs(sock.Holder{PID: 20 + i, Start: 1, Comm: "app", Owner: at}, 20, 1024)
			h.has(4-i, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", held, func(_ int, s *why.Socket) { s.ID.Netns = uint32(4026530000 + i) })
		}
		dead := sock.Holder{PID: 31, Start: 1, Comm: "app"}
		h.Latest.Processes[31] = why.Process{Holder: dead, Netns: 4026530009, Dead: 8}
		named := h.runs(sock.Holder{PID: 30, Start: 1, Comm: "app"}, 20, 1024)
		h.has(9, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", named, func(_ int, s *why.Socket) { s.ID.Netns, s.NetnsNames = 4026530009, "/blue/" })
	},
	"names": func(h *host) { // which try to govern a terminal, a shell and YAML
		for i, comm := range []string{"\x1b[2Jevil", "a\n- b: *c", "<script>", "kworker/0:1", "[x]{y}", "///", "café", "\xff\xfe", "#: \"'"} {
			held := h.runs(sock.Holder{PID: 40 + i, Start: 1, Comm: comm}, 20, 1024)
			h.has(20-i, ssfilter.CloseWait, "10.0.0.2:40000", fmt.Sprintf("10.3.0.7:%d", 5432+i), held, nil)
		}
	},
	"shared": func(h *host) {
		a, b := sock.Holder{PID: 50, Start: 1, Comm: "master"}, sock.Holder{PID: 51, Start: 1, Comm: "worker"}
		h.runs(a, 20, 1024)
		h.runs(b, 20, 1024)
		h.has(3, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", []sock.Holder{a, b}, nil)
	},
	"many": func(h *host) {
		for i := range 70 {
			held := h.runs(sock.Holder{PID: 100 + i, Start: 1, Comm: "curl"}, 20, 1024)
			h.has(1, ssfilter.CloseWait, "10.0.0.2:40000", fmt.Sprintf("10.3.0.7:%d", 5000+i), held, nil)
		}
	},
	"ssh": func(h *host) {
		held := h.runs(sock.Holder{PID: 100, Start: 1, Comm: "sshd"}, 20, 1024)
		h.has(1, ssfilter.CloseWait, "10.0.0.2:22", "10.3.0.7:40000", held, nil)
		h.listens("0.0.0.0:22", 0, 128, held)
	},
	"elsewhere": func(h *host) { h.Elsewhere = true },
	"nothing": func(h *host) {
		h.has(3, ssfilter.Established, "10.0.0.2:40000", "10.3.0.7:5432", h.runs(java(), 100, 4096), func(_ int, s *why.Socket) { s.Idle = time.Second })
	},
}

// TestExplain holds every word to a golden file.
func TestExplain(t *testing.T) {
	for name, fill := range cases {
		t.Run(name, func(t *testing.T) {
			h := newHost()
			fill(h)
			var text, object, file bytes.Buffer
			report := why.Explain(&h.Input)
			for _, err := range []error{report.Print(&text, 100), report.PrintJSON(&object), report.PrintRules(&file, kinds)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			golden(t, name+".txt", text.Bytes())
			golden(t, name+".json", object.Bytes())
			golden(t, name+".yaml", file.Bytes())
			checkRules(t, file.String())
			if i := strings.IndexFunc(text.String()+object.String()+file.String(), func(r rune) bool { return r != '\n' && (r < ' ' || r == 0x7f) }); i >= 0 {
				t.Errorf("a control character at byte %d", i)
			}
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// checkRules holds a file to what is promised of it: it is good, and all that check --lint
// says is that dry_run is on.
func checkRules(t *testing.T, file string) {
	t.Helper()
	warnings, err := rules.Lint(strings.NewReader(file), kinds...)
	if err != nil {
		t.Fatalf("the rules are bad: %v\n%s", err, file)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0].Msg, "dry_run is on for all rules") {
		t.Errorf("lint says %v of\n%s", warnings, file)
	}
	lifted := strings.Replace(file, "dry_run: true", "dry_run: false", 1)
	if warnings, err := rules.Lint(strings.NewReader(lifted), kinds...); err != nil || len(warnings) > 0 {
		t.Errorf("without dry_run, lint says %v, %v", warnings, err)
	}
}

// FuzzRules: whatever names there are, the rules are good, and mean the program or nothing.
func FuzzRules(f *testing.F) {
	f.Add("java", "shop.service", "payments/orders", "blue", "/system.slice/shop.service", true)
	f.Add("*", "a?b", "*/*", "..", "/", false)
	f.Add("\x1b]0;x\a", "\n", "x: y", "#", "\x00", true)
	f.Fuzz(func(t *testing.T, comm, unit, pod, netns, cgroup string, several bool) {
		h := newHost()
		h.Several = several
		at := &sock.Owner{Unit: sock.Fact{Text: unit, Known: true}, Pod: pod}
		held := h.runs(sock.Holder{PID: 1, Start: 1, Comm: comm, Owner: at}, 1, 2)
		h.has(2, ssfilter.CloseWait, "10.0.0.2:40000", "10.3.0.7:5432", held, func(_ int, s *why.Socket) { s.NetnsNames, s.Cgroup = "/"+netns+"/", cgroup })
		var file bytes.Buffer
		if err := why.Explain(&h.Input).PrintRules(&file, kinds); err != nil {
			t.Fatal(err)
		}
		checkRules(t, file.String())
	})
}
