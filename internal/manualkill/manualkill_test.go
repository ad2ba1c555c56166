package manualkill

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// second is the instant at which the fake kernel answers everything.
const second = sock.Instant(time.Second)

// clock stands still: the answers are fresh.
func clock() sock.Instant { return second }

// stuck is a socket in CLOSE_WAIT that its program has forgotten an hour ago.
func stuck(cookie uint64) sock.Socket {
	const hour = time.Hour
	return sock.Socket{
		Conn: ssfilter.Conn{
			State: ssfilter.CloseWait,
			Src:   netip.MustParseAddrPort("127.0.0.1:40000"), Dst: netip.MustParseAddrPort("127.0.0.1:5432"),
		},
		ID:     sock.ID{Family: unix.AF_INET, SPort: [2]byte{1, 1}, DPort: [2]byte{1, 2}, Cookie: cookie},
		Inode:  uint32(cookie),
		RQueue: 1,
		Info: sock.Info{
			Has:          ^sock.Has(0),
			LastDataSent: 2 * hour, LastDataRecv: hour, LastAckRecv: hour,
			BytesAcked: 100, BytesReceived: 100, SegsIn: 10,
		},
	}
}

func with(s sock.Socket, change func(s *sock.Socket)) sock.Socket {
	change(&s)
	return s
}

// kernel holds sockets, and lets a test stand between two questions.
type kernel struct {
	sockets map[uint64]sock.Socket
	asked   int
	scans   int
	onAsk   func(k *kernel)
	askErr  func(id sock.ID) error
	destroy func(k *kernel, id sock.ID) error
}

func (k *kernel) Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	k.scans++
	for _, s := range k.sockets {
		if q.States.Has(s.State) && (q.Where == nil || q.Where.Eval(&s.Conn) != ssfilter.False) {
			each(&s, second)
		}
	}
	return nil
}

func (k *kernel) ScanMPTCP(sock.Query, func(*sock.Socket, sock.Instant)) (known bool, err error) {
	return true, nil
}

func (k *kernel) Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	k.asked++
	if k.onAsk != nil {
		k.onAsk(k)
	}
	answers = answers[:0]
	for _, id := range ids {
		a := sock.Answer{ID: id, Sent: second, Got: second}
		s, there := k.sockets[id.Cookie]
		a.Socket, a.Gone = s, !there
		if k.askErr != nil {
			a.Err = k.askErr(id)
		}
		answers = append(answers, a)
	}
	return answers, nil
}

func (k *kernel) Destroy(id sock.ID) error {
	if k.destroy != nil {
		return k.destroy(k, id)
	}
	delete(k.sockets, id.Cookie)
	return nil
}

func (k *kernel) Close() error { return nil }

func refuse(errno unix.Errno) func(*kernel, sock.ID) error {
	return func(*kernel, sock.ID) error { return errno }
}

// request means every socket but listening ones.
func request() *Request {
	return &Request{Query: sock.Query{States: ssfilter.AllStates &^ ssfilter.Of(ssfilter.Listening)}, Precision: 20 * time.Millisecond, Self: 1}
}

type conclusion struct {
	Result engine.Result
	Reason string
}

// TestOutcome has one socket come to its outcome.
func TestOutcome(t *testing.T) {
	noAnswer := errors.New("no answer")
	live := with(stuck(1), func(s *sock.Socket) { s.State = ssfilter.Established })
	busy := with(stuck(1), func(s *sock.Socket) { s.WQueue = 7 })
	// It is seen by the first question, the recheck, and changed before the second.
	change := func(f func(k *kernel)) func(*kernel) {
		return func(k *kernel) {
			if k.asked == 1 {
				f(k)
			}
		}
	}
	becomes := func(f func(s *sock.Socket)) func(*kernel) {
		return change(func(k *kernel) { k.sockets[1] = with(k.sockets[1], f) })
	}
	tests := []struct {
		name   string
		socket sock.Socket
		order  func(o *Request)
		kernel func(k *kernel)
		want   conclusion
	}{
		{name: "stuck", socket: stuck(1), want: conclusion{engine.Done, ""}},
		{name: "dry run", socket: stuck(1), order: func(o *Request) { o.DryRun = true }, want: conclusion{engine.Would, ""}},
		{
			name: "dry run where it could not", socket: stuck(1),
			order: func(o *Request) {
				o.DryRun, o.Capabilities = true, match.Capabilities{rules.Destroy: errors.New("not permitted")}
			}, want: conclusion{engine.Would, "not permitted"},
		},
		{name: "not permitted", socket: stuck(1), order: func(o *Request) { o.Capabilities = match.Capabilities{rules.Destroy: errors.New("not permitted")} }, want: conclusion{engine.Failed, "not permitted"}},
		{
			name: "protected", socket: stuck(1),
			order: func(o *Request) {
				o.InUse = true
				o.Protect = []rules.Match{{States: ssfilter.AllStates, Where: ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: 5432, Last: 5432})}}
			},
			want: conclusion{LeftAlone, "protected"},
		},
		{
			name: "protected by a process, and nobody has looked for it", socket: stuck(1),
			order: func(o *Request) {
				o.Protect = []rules.Match{{States: ssfilter.AllStates, Processes: []string{"sshd"}}}
			},
			want: conclusion{LeftAlone, "protected"},
		},
		{
			name: "in an accept queue", socket: with(stuck(1), func(s *sock.Socket) { s.Inode = 0 }),
			order: func(o *Request) { o.InUse = true }, want: conclusion{LeftAlone, "in an accept queue"},
		},
		{
			name: "a subflow", socket: with(stuck(1), func(s *sock.Socket) { s.MPTCP = true }),
			order: func(o *Request) { o.InUse = true }, want: conclusion{LeftAlone, "an MPTCP subflow"},
		},
		{name: "something to send", socket: busy, want: conclusion{LeftAlone, "in use: something is left to send"}},
		{name: "something to send, in a failover", socket: busy, order: func(o *Request) { o.InUse = true }, want: conclusion{engine.Done, ""}},
		{
			name: "half-closed, between two segments",
			socket: with(stuck(1), func(s *sock.Socket) {
				s.Info.LastDataSent, s.Info.LastAckRecv = 50*time.Millisecond, 50*time.Millisecond
			}),
			want: conclusion{LeftAlone, "in use: it sent data within the last second"},
		},
		{
			name: "a request just answered, and the answer forgotten",
			socket: with(stuck(1), func(s *sock.Socket) {
				s.Info.LastDataSent, s.Info.LastDataRecv, s.Info.LastAckRecv = 60*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
			}),
			want: conclusion{engine.Done, ""},
		},
		{
			name: "just connected, and never used",
			socket: with(stuck(1), func(s *sock.Socket) {
				s.Info = sock.Info{Has: ^sock.Has(0), BytesAcked: 1}
			}),
			want: conclusion{engine.Done, ""},
		},
		{name: "live", socket: live, want: conclusion{LeftAlone, "may be in use: established is a live state"}},
		{name: "live, and idle", socket: live, order: func(o *Request) { o.Idle = time.Minute }, want: conclusion{engine.Done, ""}},
		{name: "live, in a failover", socket: live, order: func(o *Request) { o.InUse = true }, want: conclusion{engine.Done, ""}},
		{
			name: "old, and seen to be in use", socket: with(stuck(1), func(s *sock.Socket) { s.Info.LastAckRecv = time.Second }),
			order: func(o *Request) {
				s := stuck(1)
				o.OlderThan = time.Minute
				o.Memories = map[sock.Key]*sock.Memory{{Cookie: 1}: {
					Key: sock.Key{Cookie: 1}, ID: s.ID.Sum(), State: s.State, Entered: second.Add(-time.Hour), Quiet: second.Add(-time.Second),
					Acked: 100, Received: 100, SegsIn: 10,
				}}
			},
			want: conclusion{LeftAlone, "in use: it made progress within 1m0s"},
		},
		{name: "it ends before its turn", socket: stuck(1), kernel: func(k *kernel) {
			k.onAsk = change(func(k *kernel) { delete(k.sockets, 1) })
		}, want: conclusion{engine.Gone, "it ended by itself"}},
		{name: "it ends in its turn", socket: stuck(1), kernel: func(k *kernel) {
			k.destroy = func(*kernel, sock.ID) error { return sock.ErrGone }
		}, want: conclusion{engine.Gone, "it ended by itself"}},
		{name: "another state", socket: stuck(1), kernel: func(k *kernel) {
			k.onAsk = becomes(func(s *sock.Socket) { s.State, s.Inode = ssfilter.LastAck, 0 })
		}, want: conclusion{engine.Changed, "in last-ack by now"}},
		{name: "another state, which is meant as well", socket: live, order: func(o *Request) { o.InUse = true }, kernel: func(k *kernel) {
			k.onAsk = becomes(func(s *sock.Socket) { s.State = ssfilter.CloseWait })
		}, want: conclusion{LeftAlone, "in close-wait by now, which is selected too"}},
		{name: "another state, of which the age was bounded", socket: stuck(1), order: func(o *Request) { o.OlderThan = time.Minute }, kernel: func(k *kernel) {
			k.onAsk = becomes(func(s *sock.Socket) { s.State = ssfilter.Closing })
		}, want: conclusion{engine.Changed, "in closing by now"}},
		{
			// The kernel takes "not" of what it does not know for true.
			name:   "a filter that the answer leaves open",
			socket: stuck(1), order: func(o *Request) { o.InUse, o.Query.Where = true, expr("not cgroup = /a") },
			want: conclusion{LeftAlone, "whether the filter means it cannot be known"},
		},
		{
			name:   "autobound, which a scan alone tells",
			socket: with(stuck(1), func(s *sock.Socket) { s.Autobound = ssfilter.True }), order: func(o *Request) { o.Query.Where = expr("autobound") },
			kernel: func(k *kernel) { k.onAsk = becomes(func(s *sock.Socket) { s.Autobound = ssfilter.Unknown }) },
			want:   conclusion{engine.Done, ""},
		},
		{name: "connected anew", socket: stuck(1), kernel: func(k *kernel) {
			k.onAsk = becomes(func(s *sock.Socket) { s.Info.BytesReceived = 0 })
		}, want: conclusion{engine.Changed, "another connection by now"}},
		{
			name: "another mark", socket: with(stuck(1), func(s *sock.Socket) { s.Mark, s.HasMark = 5, true }),
			order:  func(o *Request) { o.Query.Where = expr("fwmark = 5") },
			kernel: func(k *kernel) { k.onAsk = becomes(func(s *sock.Socket) { s.Mark = 6 }) },
			want:   conclusion{engine.Changed, "the filter does not mean it any more"},
		},
		{name: "progress meanwhile", socket: stuck(1), kernel: func(k *kernel) {
			k.onAsk = becomes(func(s *sock.Socket) { s.Info.BytesAcked++ })
		}, want: conclusion{LeftAlone, "in use: it made progress meanwhile"}},
		{
			name: "progress meanwhile, in a failover", socket: stuck(1), order: func(o *Request) { o.InUse = true },
			kernel: func(k *kernel) { k.onAsk = becomes(func(s *sock.Socket) { s.Info.BytesAcked++ }) },
			want:   conclusion{engine.Done, ""},
		},
		{name: "something to send by now", socket: stuck(1), kernel: func(k *kernel) {
			k.onAsk = becomes(func(s *sock.Socket) { s.Info.NotSent = 1 })
		}, want: conclusion{LeftAlone, "in use: something is left to send"}},
		{name: "no answer", socket: stuck(1), kernel: func(k *kernel) {
			k.askErr = func(sock.ID) error { return noAnswer }
		}, want: conclusion{engine.Failed, "asking for it again failed: no answer"}},
		{name: "the kernel cannot", socket: stuck(1), kernel: func(k *kernel) { k.destroy = refuse(unix.EOPNOTSUPP) }, want: conclusion{engine.Failed, "operation not supported"}},
		{name: "still there", socket: stuck(1), kernel: func(k *kernel) {
			k.destroy = func(*kernel, sock.ID) error { return nil }
		}, want: conclusion{engine.Unconfirmed, "the kernel still shows it"}},
		{name: "destroyed, and connected anew", socket: stuck(1), kernel: func(k *kernel) {
			k.destroy = func(k *kernel, _ sock.ID) error {
				k.sockets[1] = with(k.sockets[1], func(s *sock.Socket) { s.State = ssfilter.Established })
				return nil
			}
		}, want: conclusion{engine.Done, ""}},
		{name: "destroyed, and no answer", socket: stuck(1), kernel: func(k *kernel) {
			k.askErr = func(sock.ID) error { // but to the first question
				if k.asked > 1 {
					return noAnswer
				}
				return nil
			}
		}, want: conclusion{engine.Unconfirmed, "whether it is gone could not be asked: no answer"}},
		{name: "still there", socket: stuck(1), kernel: func(k *kernel) {
			k.destroy = func(*kernel, sock.ID) error { return nil }
		}, want: conclusion{engine.Unconfirmed, "the kernel still shows it"}},
		{name: "the answer lost, and gone", socket: stuck(1), kernel: func(k *kernel) {
			k.destroy = func(k *kernel, id sock.ID) error { delete(k.sockets, id.Cookie); return sock.ErrUnconfirmed }
		}, want: conclusion{engine.Done, ""}},
		{name: "the answer lost, and connected anew", socket: stuck(1), kernel: func(k *kernel) {
			k.destroy = func(k *kernel, _ sock.ID) error {
				k.sockets[1] = with(k.sockets[1], func(s *sock.Socket) { s.State = ssfilter.Established })
				return sock.ErrUnconfirmed
			}
		}, want: conclusion{engine.Unconfirmed, "the kernel's answer was lost"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			k := &kernel{sockets: map[uint64]sock.Socket{1: test.socket}}
			o := request()
			if test.order != nil {
				test.order(o)
			}
			if test.kernel != nil {
				test.kernel(k)
			}
			targets := find(t, o, k)
			if len(targets) != 1 {
				t.Fatalf("%d sockets selected, want 1", len(targets))
			}
			o.Destroy(t.Context(), Pending(targets), k, nil)
			if diff := cmp.Diff(test.want, conclusion{targets[0].Result, targets[0].Reason}); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

func expr(text string) ssfilter.Expr {
	x, err := ssfilter.ParseExpr(text)
	if err != nil {
		panic(err)
	}
	return x
}

func find(t *testing.T, o *Request, k Kernel) []*Target {
	t.Helper()
	targets, _, err := o.Find(k, clock)
	if err != nil {
		t.Fatal(err)
	}
	return targets
}

// TestFind has the bounds on the age select.
func TestFind(t *testing.T) {
	socket := with(stuck(1), func(s *sock.Socket) {
		s.Info.LastAckRecv, s.Info.LastDataRecv = 10*time.Minute, 5*time.Minute
	})
	probing := with(socket, func(s *sock.Socket) { s.Timer, s.Info.LastAckRecv = sock.TimerKeepalive, 15*time.Second })
	tests := []struct {
		name   string
		order  func(o *Request)
		socket sock.Socket
		found  bool
		passed Passed
	}{
		{"no bound", func(o *Request) {}, socket, true, Passed{}},
		{"old enough", func(o *Request) { o.OlderThan = 9 * time.Minute }, socket, true, Passed{}},
		{"a kernel's clock that may be late", func(o *Request) { o.OlderThan = 10 * time.Minute }, socket, false, Passed{Young: 1}},
		{"idle enough", func(o *Request) { o.Idle = 4 * time.Minute }, socket, true, Passed{}},
		{"not idle that long", func(o *Request) { o.Idle = 6 * time.Minute }, socket, false, Passed{Young: 1}},
		{"something queued is not idle", func(o *Request) { o.Idle = time.Minute }, with(socket, func(s *sock.Socket) { s.WQueue = 1 }), false, Passed{Young: 1}},
		{"an age that nobody knows", func(o *Request) { o.OlderThan = time.Minute }, with(socket, func(s *sock.Socket) { s.Info = sock.Info{} }), false, Passed{Unjudged: 1}},
		{"keepalives", func(o *Request) { o.OlderThan = 2 * time.Minute }, probing, false, Passed{Unjudged: 1}},
		{"keepalives, and too young all the same", func(o *Request) { o.OlderThan = 6 * time.Minute }, probing, false, Passed{Young: 1}},
		{"keepalives, and old enough all the same", func(o *Request) { o.OlderThan = 10 * time.Second }, probing, true, Passed{}},
		{"keepalives, and idle", func(o *Request) { o.Idle = 2 * time.Minute }, probing, false, Passed{Unjudged: 1}},
		{"keepalives, and not idle all the same", func(o *Request) { o.Idle = 6 * time.Minute }, probing, false, Passed{Young: 1}},
		{"keepalives, and not idle, whatever its age", func(o *Request) { o.OlderThan, o.Idle = 2*time.Minute, 6*time.Minute }, probing, false, Passed{Young: 1}},
		{
			"keepalives, in an accept queue", func(o *Request) { o.OlderThan = 2 * time.Minute },
			with(probing, func(s *sock.Socket) { s.Inode = 0 }), false, Passed{Young: 1},
		},
		{
			"in time-wait", func(o *Request) { o.OlderThan = time.Minute },
			with(probing, func(s *sock.Socket) {
				s.State, s.Timer, s.Expires, s.Info = ssfilter.TimeWait, sock.TimerTimeWait, 50*time.Second, sock.Info{}
			}),
			false, Passed{Young: 1},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := request()
			test.order(o)
			targets, passed, err := o.Find(&kernel{sockets: map[uint64]sock.Socket{1: test.socket}}, clock)
			if err != nil {
				t.Fatal(err)
			}
			if found := len(targets) == 1; found != test.found || passed != test.passed {
				t.Errorf("%d found and passed over %+v, want found %v, passed over %+v", len(targets), passed, test.found, test.passed)
			}
		})
	}
}

// A scan that comes upon a socket twice tells of it once.
func TestFindOnce(t *testing.T) {
	targets, _, err := request().Find(twice{&kernel{sockets: map[uint64]sock.Socket{1: stuck(1), 2: stuck(2)}}}, clock)
	if err != nil || len(targets) != 2 {
		t.Errorf("%d targets, %v; want 2", len(targets), err)
	}
}

type twice struct{ *kernel }

func (k twice) Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	return errors.Join(k.kernel.Scan(q, each), k.kernel.Scan(q, each))
}

// A scan that failed found nothing, whatever it had found before.
func TestFindFails(t *testing.T) {
	targets, _, err := request().Find(broken{&kernel{sockets: map[uint64]sock.Socket{1: stuck(1)}}}, clock)
	if err == nil || targets != nil {
		t.Errorf("%v, %v; want an error alone", targets, err)
	}
}

type broken struct{ *kernel }

func (k broken) Scan(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error {
	k.kernel.Scan(q, each)
	return errors.New("cut short")
}

func TestResolve(t *testing.T) {
	tests := []struct {
		name    string
		owned   engine.HoldersFound
		want    conclusion
		protect []string // processes
	}{
		{"held by the protected", engine.HoldersFound{Complete: true, Holders: map[uint32][]sock.Holder{1: {{PID: 7, Comm: "java", Exe: "java"}, {PID: 8, Comm: "sshd", Exe: "sshd"}}}}, conclusion{LeftAlone, "protected"}, []string{"sshd"}},
		{"perhaps held by the protected", engine.HoldersFound{Holders: map[uint32][]sock.Holder{1: {{PID: 7, Comm: "java", Exe: "java"}}}}, conclusion{LeftAlone, "protected"}, []string{"sshd"}},
		{"held", engine.HoldersFound{Complete: true, Holders: map[uint32][]sock.Holder{1: {{PID: 7}}}}, conclusion{}, nil},
		{"held by another than the protected", engine.HoldersFound{Complete: true, Holders: map[uint32][]sock.Holder{1: {{PID: 7, Comm: "java", Exe: "java"}}}}, conclusion{}, []string{"sshd"}},
		{"held by nobody who can be seen", engine.HoldersFound{}, conclusion{}, nil},
		{"held by nobody", engine.HoldersFound{Complete: true}, conclusion{LeftAlone, "held by the kernel"}, nil},
		{"our own", engine.HoldersFound{Holders: map[uint32][]sock.Holder{1: {{PID: 1}}}}, conclusion{LeftAlone, "sockdog's own"}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := request()
			o.InUse = true
			for _, name := range test.protect {
				o.Protect = append(o.Protect, rules.Match{States: ssfilter.AllStates, Processes: []string{name}})
			}
			pending := Pending(find(t, o, &kernel{sockets: map[uint64]sock.Socket{1: stuck(1)}}))
			if diff := cmp.Diff(map[uint32]struct{}{1: {}}, Inodes(pending)); diff != "" {
				t.Errorf("inodes (-want +got):\n%s", diff)
			}
			o.Resolve(pending, test.owned)
			if diff := cmp.Diff(test.want, conclusion{pending[0].Result, pending[0].Reason}); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

// many is so many sockets, with cookies from 1 on.
func many(n int) map[uint64]sock.Socket {
	all := make(map[uint64]sock.Socket)
	for i := range uint64(n) {
		all[i+1] = stuck(i + 1)
	}
	return all
}

func resultsOf(targets []*Target) map[conclusion]int {
	results := make(map[conclusion]int)
	for _, t := range targets {
		results[conclusion{t.Result, t.Reason}]++
	}
	return results
}

// Where the privilege is missing, one batch finds that out for all.
func TestDenied(t *testing.T) {
	tried := 0
	k := &kernel{sockets: many(3 * batch), destroy: func(*kernel, sock.ID) error { tried++; return unix.EPERM }}
	o := request()
	targets := find(t, o, k)
	o.Destroy(t.Context(), Pending(targets), k, func() (Destroyer, error) { return nil, errors.New("no second one") })
	want := map[conclusion]int{
		{engine.Failed, "operation not permitted"}:            killBatch,
		{engine.Failed, "not tried: operation not permitted"}: 3*batch - killBatch,
	}
	if diff := cmp.Diff(want, resultsOf(targets)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if tried != killBatch {
		t.Errorf("%d tried, want %d", tried, killBatch)
	}
}

// What the kernel still shows is not confirmed, and the others of its batch are.
func TestConfirmed(t *testing.T) {
	const n = 3 * batch
	k := &kernel{sockets: many(n)}
	k.destroy = func(k *kernel, id sock.ID) error {
		if id.Cookie != 7 {
			delete(k.sockets, id.Cookie)
		}
		return nil
	}
	o := request()
	targets := find(t, o, k)
	o.Destroy(t.Context(), Pending(targets), k, func() (Destroyer, error) { return nil, errors.New("no second one") })
	want := map[conclusion]int{{engine.Done, ""}: n - 1, {engine.Unconfirmed, "the kernel still shows it"}: 1}
	if diff := cmp.Diff(want, resultsOf(targets)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if k.scans != 1 || k.asked != n/killBatch+n/batch {
		t.Errorf("%d scans and %d lookups, want 1, one for each few sockets and one for each batch", k.scans, k.asked)
	}
}

// Without other threads the first does it all.
func TestNoOtherThread(t *testing.T) {
	k := &kernel{sockets: many(5*batch + 1)}
	o := request()
	targets := find(t, o, k)
	o.Destroy(t.Context(), Pending(targets), k, func() (Destroyer, error) { return nil, errors.New("no second one") })
	if diff := cmp.Diff(map[conclusion]int{{engine.Done, ""}: 5*batch + 1}, resultsOf(targets)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

// An interruption ends the batch under way, and lets the rest live.
func TestInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	k := &kernel{sockets: many(3 * batch)}
	k.onAsk = func(k *kernel) {
		if k.asked == batch/killBatch+2 { // the second batch, before any of it is destroyed
			stop()
		}
	}
	o := request()
	targets := find(t, o, k)
	o.Destroy(ctx, Pending(targets), k, func() (Destroyer, error) { return nil, errors.New("no second one") })
	want := map[conclusion]int{{engine.Done, ""}: 2 * batch, {LeftAlone, "interrupted before its turn"}: batch}
	if diff := cmp.Diff(want, resultsOf(targets)); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if len(k.sockets) != batch {
		t.Errorf("%d sockets live on, want %d", len(k.sockets), batch)
	}
}

// Stopped between the question and the act, as by a SIGSTOP, a manual kill asks once
// more before it acts; where it always is, it acts on the freshest answer there is.
func TestStopped(t *testing.T) {
	tests := []struct {
		name  string
		stops int // after so many questions
		want  map[conclusion]int
	}{
		{"once", 1, map[conclusion]int{{engine.Done, ""}: 1, {LeftAlone, "in use: it made progress meanwhile"}: 1}},
		{"each time", 1000, map[conclusion]int{{engine.Done, ""}: 1, {LeftAlone, "in use: it made progress meanwhile"}: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			now := second
			k := &kernel{sockets: many(2)}
			o := request()
			targets, _, err := o.Find(k, func() sock.Instant { return now })
			if err != nil {
				t.Fatal(err)
			}
			k.onAsk = func(k *kernel) {
				if k.asked == 2 { // the first was answered before the stop
					k.sockets[2] = with(k.sockets[2], func(s *sock.Socket) { s.Info.BytesAcked++ })
				}
				if k.asked <= test.stops {
					now = now.Add(time.Minute)
				}
			}
			o.Destroy(t.Context(), Pending(targets), k, nil)
			if diff := cmp.Diff(test.want, resultsOf(targets)); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
		})
	}
}

// Reasons are told once for all that have them: none may hold what differs from
// socket to socket.
func TestReasonsAreGrouped(t *testing.T) {
	k := &kernel{sockets: map[uint64]sock.Socket{
		1: with(stuck(1), func(s *sock.Socket) { s.WQueue = 1 }),
		2: with(stuck(2), func(s *sock.Socket) { s.WQueue = 2 }),
	}}
	targets := find(t, request(), k)
	if len(resultsOf(targets)) != 1 || !strings.Contains(targets[0].Reason, "in use") {
		t.Errorf("outcomes %v", resultsOf(targets))
	}
}
