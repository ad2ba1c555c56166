// Package examples holds rules files for the usual leaks. Each is run here, by the
// daemon itself, against sockets that it must heal and sockets that it must leave
// alone; only its time bounds are shortened.
package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/daemon/daemontest"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/pidfd"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules"
)

// fileEnv names the example that this process is to run: the daemon never
// touches sockets of its own, so it cannot be the process that leaks.
const fileEnv = "SOCKDOG_EXAMPLE"

func TestMain(m *testing.M) {
	if file := os.Getenv(fileEnv); file != "" {
		if err := watch(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	nstest.Main(m)
}

// bound stands for every time bound of the examples. It is long beside the rests
// that a busy machine makes in the traffic of healthy sockets.
const bound = 2 * time.Second

// watch runs the daemon on an example.
func watch(file string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	set, err := rules.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	for i := range set.Rules {
		r := &set.Rules[i]
		r.For = min(r.For, bound)
		for i := range r.Match {
			m := &r.Match[i]
			for _, d := range []*time.Duration{&m.InStateFor, &m.IdleFor, &m.StalledFor, &m.SilentFor} {
				*d = min(*d, bound)
			}
		}
	}
	now, err := sock.Clock()
	if err != nil {
		return err
	}
	open := func() (*sockdiag.Conn, error) { return sockdiag.Open(now, nil) }
	finder := holders.NewFinder("/proc", nil)
	return daemon.Run(ctx, daemon.Options{
		Log: slog.New(slog.NewJSONHandler(os.Stdout, nil)), Now: now, Precision: sockdiag.Precision(),
		Source: daemontest.SourceOf(open, func() (daemon.Counters, error) { return counters.Open() }),
		Holders: daemon.Holders{
			FindHolders: finder.Find, FindNew: finder.FindNew,
			ReadUsage: func(pid int) (holders.Usage, error) { return holders.ReadUsage("/proc", pid) },
		},
		Kinds: action.Kinds(), Rules: set, Descriptors: &pidfd.Opener{Root: "/proc"}, ServiceManager: daemon.ServiceManager{Notify: func(string) {}},
	})
}

// examples are the files, with what each must heal and leave alone. What is
// healthy is made first: what would kill by age alone kills it first.
var examples = map[string]struct {
	meet     func(w *world) // nil: it is run elsewhere
	logged   []string       // rules that must act on a socket each, where none may be killed
	warnings int            // of check --lint
}{
	"postgres-close-wait.yaml": {meet: func(w *world) {
		w.keep("towards another port", w.closeWait(5433), unix.BPF_TCP_CLOSE_WAIT)
		w.keep("idle in the pool", w.pair("127.0.0.1", 5432).Client, unix.BPF_TCP_ESTABLISHED)
		upload := w.half(w.pair("127.0.0.1", 5432))
		w.stream(upload.Client, upload.Server)
		w.keep("still sending", upload.Client, unix.BPF_TCP_CLOSE_WAIT)
		w.heal(w.closeWait(5432), unix.BPF_TCP_CLOSE_WAIT)
		w.heal(w.closeWait(5432), unix.BPF_TCP_CLOSE_WAIT)
	}},
	"fin-not-rst.yaml": {meet: func(w *world) {
		w.keep("towards another port", w.closeWait(8444), unix.BPF_TCP_CLOSE_WAIT)
		w.keep("idle in the pool", w.pair("127.0.0.1", 8443).Client, unix.BPF_TCP_ESTABLISHED)
		w.heal(w.closeWait(8443), unix.BPF_TCP_CLOSE_WAIT)
		polite := w.half(w.pair("127.0.0.1", 8443))
		w.heal(polite.Client, unix.BPF_TCP_CLOSE_WAIT)
		w.work = append(w.work, func() error {
			if alive(polite.Client) {
				return nil
			}
			if err := polite.Server.Receive(1); err != io.EOF {
				return fmt.Errorf("the peer reads %w, not the end of the stream", err)
			}
			return nil
		})
	}},
	// That the kernel then ends what nobody answers, internal/daemon tests.
	"vanished-clients.yaml": {
		meet: func(w *world) {
			w.keep("on another port", w.pair("127.0.0.1", 8081).Server, unix.BPF_TCP_ESTABLISHED)
			busy := w.pair("127.0.0.1", 8080)
			w.stream(busy.Server, busy.Client)
			w.keep("in use", busy.Server, unix.BPF_TCP_ESTABLISHED)
			own := w.pair("127.0.0.1", 8080)
			w.check(own.Server.Keepalive())
			w.keep("with keepalives of its own", own.Server, unix.BPF_TCP_ESTABLISHED)
			w.keep("idle", w.pair("127.0.0.1", 8080).Server, unix.BPF_TCP_ESTABLISHED)
		},
		logged: []string{"ask-silent-clients"},
	},
	"tell-a-chat.yaml": {meet: func(w *world) {
		w.keep("towards another port", w.closeWait(5433), unix.BPF_TCP_CLOSE_WAIT)
		w.heal(w.closeWait(5432), unix.BPF_TCP_CLOSE_WAIT)
	}},
	"server-close-wait.yaml": {meet: func(w *world) {
		address(w.t, "10.0.0.7")
		departed := func(addr string, port uint16, unread int) nstest.Socket {
			p := w.pair(addr, port)
			w.check(p.Client.Send(unread))
			w.check(p.Client.Close())
			return p.Server
		}
		w.keep("a handler that hangs", departed("127.0.0.1", 8080, 10), unix.BPF_TCP_CLOSE_WAIT)
		w.keep("from a load balancer", departed("10.0.0.7", 8080, 0), unix.BPF_TCP_CLOSE_WAIT)
		w.keep("on another port", departed("127.0.0.1", 8081, 0), unix.BPF_TCP_CLOSE_WAIT)
		w.heal(departed("127.0.0.1", 8080, 0), unix.BPF_TCP_CLOSE_WAIT)
		read := departed("127.0.0.1", 8080, 0)
		w.readEOF(read)
		w.heal(read, unix.BPF_TCP_CLOSE_WAIT)
	}},
	"dead-backend.yaml": {meet: func(w *world) {
		slow := w.pair("127.0.0.1", 8080)
		w.check(slow.Client.Send(1))
		w.keep("a request that waits for its answer", slow.Client, unix.BPF_TCP_ESTABLISHED)
		w.keep("dead, on another port", w.stalled(9090), unix.BPF_TCP_ESTABLISHED)
		w.keep("idle", w.pair("127.0.0.1", 8443).Client, unix.BPF_TCP_ESTABLISHED)
		w.heal(w.stalled(8080), unix.BPF_TCP_ESTABLISHED)
		w.heal(w.stalled(8443), unix.BPF_TCP_ESTABLISHED)
	}},
	"idle-backend.yaml": {meet: func(w *world) {
		address(w.t, "10.20.3.4")
		w.keep("another backend", w.pair("127.0.0.1", 9000).Client, unix.BPF_TCP_ESTABLISHED)
		busy := w.pair("10.20.3.4", 9000)
		w.stream(busy.Server, busy.Client)
		w.keep("receiving", busy.Client, unix.BPF_TCP_ESTABLISHED)
		dead := w.pair("10.20.3.4", 9000)
		w.check(dead.Server.Deafen())
		w.check(dead.Client.Send(1))
		w.keep("waiting for an acknowledgement", dead.Client, unix.BPF_TCP_ESTABLISHED)
		w.heal(w.pair("10.20.3.4", 9000).Client, unix.BPF_TCP_ESTABLISHED)
	}},
	"hung-backend.yaml": {meet: func(w *world) {
		address(w.t, "10.30.3.4")
		w.keep("another backend", w.pair("127.0.0.1", 9000).Client, unix.BPF_TCP_ESTABLISHED)
		download := w.pair("10.30.3.4", 9000)
		w.stream(download.Server, download.Client)
		w.keep("receiving", download.Client, unix.BPF_TCP_ESTABLISHED)
		dead := w.pair("10.30.3.4", 9000)
		w.check(dead.Server.Deafen())
		w.check(dead.Client.Send(1))
		w.keep("waiting for an acknowledgement", dead.Client, unix.BPF_TCP_ESTABLISHED)
		unread := w.pair("10.30.3.4", 9000)
		w.check(unread.Server.Send(1))
		w.keep("not read", unread.Client, unix.BPF_TCP_ESTABLISHED)
		hung := w.pair("10.30.3.4", 9000)
		w.check(hung.Client.Keepalive()) // which its kernel answers
		w.check(hung.Client.Send(1))
		w.heal(hung.Client, unix.BPF_TCP_ESTABLISHED)
	}, warnings: 1}, // that what has nothing to say looks the same
	"half-closed.yaml": {meet: func(w *world) {
		download := w.pair("127.0.0.1", 7001)
		w.check(download.Client.CloseWrite())
		w.stream(download.Server, download.Client)
		w.keep("downloading", download.Client, unix.BPF_TCP_FIN_WAIT2)
		elsewhere := w.pair("127.0.0.1", 6999)
		w.check(elsewhere.Client.CloseWrite())
		w.keep("on another port", elsewhere.Client, unix.BPF_TCP_FIN_WAIT2)
		waiting := w.pair("127.0.0.1", 7002)
		w.check(waiting.Client.CloseWrite())
		w.heal(waiting.Client, unix.BPF_TCP_FIN_WAIT2)
		first := w.pair("127.0.0.1", 7003)
		w.check(first.Server.Deafen())
		w.check(first.Client.CloseWrite())
		w.heal(first.Client, unix.BPF_TCP_FIN_WAIT1)
		last := w.half(w.pair("127.0.0.1", 7004))
		w.check(last.Server.Deafen())
		w.check(last.Client.CloseWrite())
		w.heal(last.Client, unix.BPF_TCP_LAST_ACK)
	}},
	"first-dry-run.yaml": {
		meet: func(w *world) {
			w.keep("forgotten", w.closeWait(6379), unix.BPF_TCP_CLOSE_WAIT)
		},
		logged:   []string{"redis-close-wait"},
		warnings: 1, // that it is a dry run
	},
	"short-of-resources.yaml": {
		meet: func(w *world) {
			w.keep("not accepting", w.overflow(), unix.BPF_TCP_LISTEN)
		},
		logged: []string{"connections-dropped", "connections-dropped"}, // pending and firing
	},
	// It is run in internal/e2e: to know for certain who holds a socket takes a /proc that can be read
	// as a whole.
	"leaky-worker.yaml": {},
	// What signals, and what sets the range of ports, internal/daemon tests.
	"restart-worker.yaml": {},
	"ports-run-out.yaml":  {warnings: 1}, // what the setting really does
	"watch-only.yaml": {
		meet: func(w *world) {
			read := w.closeWait(5432)
			w.readEOF(read)
			w.keep("forgotten", read, unix.BPF_TCP_CLOSE_WAIT)
			w.keep("not looked at", w.closeWait(5432), unix.BPF_TCP_CLOSE_WAIT)
			hanging := w.pair("127.0.0.1", 5432)
			w.check(hanging.Server.Send(10))
			w.check(hanging.Server.CloseWrite())
			w.keep("hanging", hanging.Client, unix.BPF_TCP_CLOSE_WAIT)
			w.keep("dead peer", w.stalled(5432), unix.BPF_TCP_ESTABLISHED)
			listener, err := nstest.Listen(nstest.V4)
			w.check(err)
			at, err := listener.Local()
			w.check(err)
			gaveUp, err := nstest.Connect(at)
			w.check(err)
			w.check(gaveUp.Close())
			w.keep("not accepting", listener, unix.BPF_TCP_LISTEN)
		},
		logged: []string{"forgotten", "not-looked-at", "hanging", "not-accepting", "dead-peer"},
	},
}

func TestLint(t *testing.T) {
	for file, e := range examples {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		warnings, err := rules.Lint(bytes.NewReader(text))
		if err != nil || len(warnings) != e.warnings {
			t.Errorf("%s: %d warnings, want %d: %v %v", file, len(warnings), e.warnings, err, warnings)
		}
	}
}

func TestExamples(t *testing.T) {
	nstest.Need(t)
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if _, ok := examples[file]; !ok && !strings.HasSuffix(file, unitTests) {
			t.Errorf("%s is not run by any test", file)
		}
	}
	for file, e := range examples {
		if e.meet == nil {
			continue
		}
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			nstest.Isolate(t)
			w := &world{t: t}
			e.meet(w)
			dog := w.start(file)
			w.await("heal what is stuck", func() bool { return !slices.ContainsFunc(w.stuck, alive) })
			w.await("act on every socket", func() bool { return len(dog.acts(t)) >= len(w.stuck)+len(e.logged) })
			dog.cmd.Process.Signal(syscall.SIGTERM)
			w.await("end", dog.ended)
			if err := <-dog.exit; err != nil {
				t.Fatalf("the daemon: %v", err)
			}
			if len(w.stuck) == 0 {
				want := slices.Sorted(slices.Values(e.logged))
				if diff := cmp.Diff(want, dog.acts(t)); diff != "" {
					t.Errorf("rules that acted, once for each socket (-want +got):\n%s", diff)
				}
			}
			for _, k := range w.healthy {
				if got := state(k.s); got != k.state {
					t.Errorf("%s: in TCP state %d, and was in %d", k.name, got, k.state)
				}
			}
		})
	}
}

func state(s nstest.Socket) uint8 {
	info, err := unix.GetsockoptTCPInfo(int(s), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.State
}

func alive(s nstest.Socket) bool { return state(s) != unix.BPF_TCP_CLOSE }

// await works with the healthy sockets until the condition holds.
func (w *world) await(what string, condition func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("the example did not %s", what)
		}
		for _, do := range w.work {
			w.check(do())
		}
	}
}

// dog is the daemon on an example, as a process of its own.
type dog struct {
	cmd  *exec.Cmd
	log  string     // file
	exit chan error // how it ended
}

func (d dog) ended() bool { return len(d.exit) > 0 }

func (w *world) start(file string) dog {
	t := w.t
	d := dog{cmd: exec.Command("/proc/self/exe"), log: filepath.Join(t.TempDir(), "log"), exit: make(chan error, 1)}
	log, err := os.Create(d.log)
	w.check(err)
	defer log.Close()
	d.cmd.Env = append(os.Environ(), fileEnv+"="+file)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.check(d.cmd.Start()) // from the thread of the test, into its namespace
	waited := make(chan struct{})
	go func() {
		d.exit <- d.cmd.Wait()
		close(waited)
	}()
	t.Cleanup(func() {
		d.cmd.Process.Kill() // an error means that it has ended
		<-waited
		if t.Failed() {
			text, _ := os.ReadFile(d.log)
			t.Logf("the daemon said:\n%s", text)
		}
	})
	return d
}

// acts are the rules that have acted, one name for each act.
func (d dog) acts(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(d.log)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range bytes.Lines(text) {
		var l struct{ Rule, Result string }
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // being written
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if l.Result != "" {
			names = append(names, l.Rule)
		}
	}
	slices.Sort(names)
	return names
}
