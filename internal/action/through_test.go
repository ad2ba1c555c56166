package action

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

func TestMain(m *testing.M) {
	switch os.Getenv(pidEnv) {
	case "program":
		programOfContainer()
	case "beside":
		signalOne()
	default:
		nstest.Main(m)
	}
}

// processes duplicate descriptors, and write down of whom. What they hand out is a pipe.
type processes struct {
	diary  *[]string
	answer map[int]error // by PID
	opened []int
}

func (p *processes) Open(h *sock.Holder, inode uint32, cookie uint64) (int, error) {
	*p.diary = append(*p.diary, fmt.Sprintf("open %d of %d", cookie, h.PID))
	if err := p.answer[h.PID]; err != nil {
		return -1, err
	}
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 100)
	p.opened = append(p.opened, fd)
	return fd, err
}

func (p *processes) Forget() { *p.diary = append(*p.diary, "forget") }

// The way through who holds the socket is open before the last question, and closed after
// the act.
func TestThrough(t *testing.T) {
	broken := errors.New("no memory")
	tests := []struct {
		name    string
		cookie  uint64
		holders []int
		refuse  map[int]error
		fails   error // the act itself
		diary   []string
		want    engine.Outcome // without Act, At and Last
	}{
		{"done", 1, []int{7}, nil, nil, []string{"open 1 of 7", "ask for 1 from 1 on", "through 1"}, engine.Outcome{}},
		{"the act fails", 1, []int{7}, nil, broken, []string{"open 1 of 7", "ask for 1 from 1 on", "through 1"}, engine.Outcome{Err: broken}},
		{"an LSM forbids the act", 1, []int{7}, nil, unix.EPERM, []string{"open 1 of 7", "ask for 1 from 1 on", "through 1"}, engine.Outcome{Err: unix.EPERM}},
		{"not connected any more", 1, []int{7}, nil, sock.ErrGone, []string{"open 1 of 7", "ask for 1 from 1 on", "through 1"}, engine.Outcome{Err: sock.ErrGone, Gone: true}},
		{"it ended by itself", ended, []int{7}, nil, nil, []string{"open 1001 of 7", "ask for 1 from 1001 on"}, engine.Outcome{Err: sock.ErrGone, Gone: true}},
		{"it ended by itself, with its process", ended, []int{7}, map[int]error{7: sock.ErrNotHeld}, nil, []string{"open 1001 of 7", "ask for 1 from 1001 on"}, engine.Outcome{Err: sock.ErrGone, Gone: true}},
		{"it came alive", awake, []int{7}, nil, nil, []string{"open 1003 of 7", "ask for 1 from 1003 on"}, engine.Outcome{Changed: "it came alive"}},
		{"the process gave it away", 1, []int{7}, map[int]error{7: sock.ErrNotHeld}, nil, []string{"open 1 of 7", "ask for 1 from 1 on"}, engine.Outcome{Changed: match.HolderChanged}},
		{"nobody is known to hold it", 1, nil, nil, nil, []string{"ask for 1 from 1 on"}, engine.Outcome{Changed: match.HolderChanged}},
		{"another of them lets it", 1, []int{7, 8}, map[int]error{7: sock.ErrRefused}, nil, []string{"open 1 of 7", "open 1 of 8", "ask for 1 from 1 on", "through 1"}, engine.Outcome{}},
		{"refused by one, given away by another", 1, []int{7, 8}, map[int]error{7: sock.ErrRefused, 8: sock.ErrNotHeld}, nil, []string{"open 1 of 7", "open 1 of 8", "ask for 1 from 1 on"}, engine.Outcome{Err: sock.ErrRefused, Refused: true}},
		{"an old kernel", 1, []int{7}, map[int]error{7: unix.ENOSYS}, nil, []string{"open 1 of 7", "ask for 1 from 1 on"}, engine.Outcome{Err: unix.ENOSYS, Never: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var diary []string
			x := killer(kernel{&diary, nil}, 0)
			p := &processes{diary: &diary, answer: test.refuse}
			x.Descriptors = p
			x.Kinds = []*Kind{{Kind: rules.Kill, Through: func(fd int, a *engine.Action) error {
				diary = append(diary, fmt.Sprint("through ", a.Socket.ID.Cookie))
				if fd != p.opened[len(p.opened)-1] {
					t.Errorf("through descriptor %d, not %v", fd, p.opened)
				}
				return test.fails
			}}}
			all := actions(1)
			all[0].Socket.ID.Cookie, all[0].Via = test.cookie, rules.ViaHolder
			for _, pid := range test.holders {
				all[0].Holders = append(all[0].Holders, sock.Holder{PID: pid})
			}
			got := x.Do(all)[0]
			byErrno := cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) })
			if diff := cmp.Diff(test.want, got, byErrno, cmpopts.IgnoreFields(engine.Outcome{}, "Act", "At", "Last")); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			want := append(append([]string{fmt.Sprintf("intend 1 from %d on", test.cookie)}, test.diary...), "forget")
			if diff := cmp.Diff(want, diary); diff != "" {
				t.Errorf("in this order (-want +got):\n%s", diff)
			}
			for _, fd := range p.opened {
				if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
					t.Errorf("descriptor %d is left open", fd)
				}
			}
		})
	}
}

// A kill through the descriptor resets the connection, whatever its state, and leaves the
// program an unconnected socket.
func TestKillThrough(t *testing.T) {
	nstest.Need(t)
	for name, state := range map[string]func(p nstest.Pair) error{
		"established": func(nstest.Pair) error { return nil },
		"close-wait": func(p nstest.Pair) error {
			return errors.Join(p.Server.CloseWrite(), p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
		},
		"fin-wait-2": func(p nstest.Pair) error {
			return errors.Join(p.Client.CloseWrite(), p.Client.Await(unix.BPF_TCP_FIN_WAIT2))
		},
		"established, and unread": func(p nstest.Pair) error { return p.Server.Send(10) },
	} {
		t.Run(name, func(t *testing.T) {
			p := pair(t)
			if err := state(p); err != nil {
				t.Fatal(err)
			}
			before, err1 := p.Client.Cookie()
			if err := kill.Through(int(p.Client), nil); err != nil {
				t.Fatal(err)
			}
			if err := p.Client.Await(unix.BPF_TCP_CLOSE); err != nil {
				t.Error(err)
			}
			if after, err2 := p.Client.Cookie(); err1 != nil || err2 != nil || after != before {
				t.Errorf("its cookie was %d, and is %d", before, after)
			}
			if err := p.Server.Await(unix.BPF_TCP_CLOSE); err != nil {
				t.Errorf("the peer got no RST: %v", err)
			}
		})
	}
}

// A keepalive sets what the rule says, tells what was set before, and its timer is armed.
func TestKeepaliveThrough(t *testing.T) {
	nstest.Need(t)
	for _, test := range []struct {
		name    string
		options map[string]any
		before  string
		want    string
	}{
		{"the defaults", nil,
			"SO_KEEPALIVE=0 TCP_KEEPIDLE=7200 TCP_KEEPINTVL=75 TCP_KEEPCNT=9 TCP_USER_TIMEOUT=0",
			"SO_KEEPALIVE=1 TCP_KEEPIDLE=60 TCP_KEEPINTVL=10 TCP_KEEPCNT=6 TCP_USER_TIMEOUT=0"},
		{"the kernel's bounds", map[string]any{"idle": 32767 * time.Second, "interval": 32767 * time.Second, "count": 127, "user_timeout": (1<<31 - 1) * time.Millisecond},
			"SO_KEEPALIVE=0 TCP_KEEPIDLE=7200 TCP_KEEPINTVL=75 TCP_KEEPCNT=9 TCP_USER_TIMEOUT=0",
			"SO_KEEPALIVE=1 TCP_KEEPIDLE=32767 TCP_KEEPINTVL=32767 TCP_KEEPCNT=127 TCP_USER_TIMEOUT=2147483647"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := pair(t)
			a := engine.Action{Options: test.options}
			if err := keepalive.Through(int(p.Client), &a); err != nil {
				t.Fatal(err)
			}
			after, err := keepaliveBefore(int(p.Client))
			if err != nil || a.Before != test.before || after != test.want {
				t.Errorf("was %s and is %s (%v), want %s and %s", a.Before, after, err, test.before, test.want)
			}
		})
	}
}

// pair is a connection over the loopback device.
func pair(t *testing.T) nstest.Pair {
	t.Helper()
	l, err := nstest.Listen(nstest.V4)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := nstest.NewPair(l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// A shutdown sends the FIN, after which each end reads the end of the stream, and what the
// peer has to say last still arrives.
func TestShutdownThrough(t *testing.T) {
	nstest.Need(t)
	t.Run("close-wait", func(t *testing.T) {
		p := pair(t)
		if err := errors.Join(p.Server.CloseWrite(), p.Client.Await(unix.BPF_TCP_CLOSE_WAIT), p.Server.Deafen()); err != nil {
			t.Fatal(err)
		}
		if err := shutdown.Through(int(p.Client), nil); err != nil {
			t.Fatal(err)
		}
		if err := p.Client.Await(unix.BPF_TCP_LAST_ACK); err != nil {
			t.Error(err)
		}
		if err := errors.Join(p.Server.Hear(), p.Client.Await(unix.BPF_TCP_CLOSE)); err != nil {
			t.Error(err)
		}
		if err := shutdown.Through(int(p.Client), nil); !errors.Is(err, sock.ErrGone) {
			t.Errorf("once it is closed: %v", err)
		}
	})
	t.Run("established", func(t *testing.T) {
		p := pair(t)
		if err := shutdown.Through(int(p.Client), nil); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.Client.Await(unix.BPF_TCP_FIN_WAIT2), p.Server.Await(unix.BPF_TCP_CLOSE_WAIT)); err != nil {
			t.Error(err)
		}
		for _, end := range []nstest.Socket{p.Client, p.Server} {
			if err := end.Receive(1); !errors.Is(err, io.EOF) {
				t.Errorf("an end reads %v, not the end of the stream", err)
			}
		}
		if err := p.Client.Send(1); !errors.Is(err, unix.EPIPE) {
			t.Errorf("the program writes: %v", err)
		}
	})
}
