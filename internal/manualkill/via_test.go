package manualkill_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/manualkill"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/pidfd"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// noDestroy is a kernel that destroys nothing.
type noDestroy struct {
	*sockdiag.Conn
	asked int
}

func (k *noDestroy) Destroy(sock.ID) error {
	k.asked++
	return unix.EOPNOTSUPP
}

// Through the process that holds it, a socket is killed that the kernel does not destroy; who
// does not hold it any more, or is not known, keeps it.
func TestViaHolder(t *testing.T) {
	unsupported := match.Capabilities{rules.Destroy: errors.ErrUnsupported}
	for _, test := range []struct {
		name         string
		via          rules.Via
		capabilities match.Capabilities
		holders      func(t *testing.T, found engine.HoldersFound) engine.HoldersFound // beside what /proc tells
		before       func(c target) error
		meanwhile    func(c target) error
		result       engine.Result
		reason       string
		reached      rules.Via
		alive        bool
	}{
		{name: "held", via: rules.ViaHolder, result: engine.Done, reached: rules.ViaHolder},
		{name: "by any way, of a kernel without SOCK_DESTROY", via: rules.ViaAny, capabilities: unsupported, result: engine.Done, reached: rules.ViaHolder},
		{name: "by any way, of another kernel", via: rules.ViaAny, result: engine.Failed, reason: unix.EOPNOTSUPP.Error(), reached: rules.ViaKernel, alive: true},
		{
			name: "by the kernel's way alone", via: rules.ViaKernel, capabilities: unsupported,
			result: engine.Failed, reason: errors.ErrUnsupported.Error(), alive: true,
		},
		{
			name: "held by another by now", via: rules.ViaHolder, holders: byAnother,
			result: manualkill.LeftAlone, reason: "the process that held it does not any more", alive: true,
		},
		{
			name: "held by the second of two alone", via: rules.ViaHolder, result: engine.Done, reached: rules.ViaHolder,
			holders: func(t *testing.T, found engine.HoldersFound) engine.HoldersFound {
				other := byAnother(t, found)
				for inode := range found.Holders {
					other.Holders[inode] = append(other.Holders[inode], found.Holders[inode]...)
				}
				return other
			},
		},
		{
			name: "nobody knows by whom", via: rules.ViaHolder,
			holders: func(*testing.T, engine.HoldersFound) engine.HoldersFound { return engine.HoldersFound{} },
			result:  manualkill.LeftAlone, reason: "not every process could be read: another may hold it", alive: true,
		},
		{
			name: "held by the kernel", via: rules.ViaHolder,
			holders: func(*testing.T, engine.HoldersFound) engine.HoldersFound { return engine.HoldersFound{Complete: true} },
			result:  manualkill.LeftAlone, reason: "held by the kernel", alive: true,
		},
		{
			name: "in use meanwhile", via: rules.ViaHolder, alive: true,
			before: func(c target) error { return first(c.Server.CloseWrite(), c.Client.Await(unix.BPF_TCP_CLOSE_WAIT)) },
			meanwhile: func(c target) error {
				return first(c.Client.Send(100), c.Server.Receive(100), unqueued(c.Client))
			},
			result: manualkill.LeftAlone, reason: "in use: it made progress meanwhile",
		},
		{
			name: "closed by its program meanwhile", via: rules.ViaHolder,
			meanwhile: func(c target) error { return c.Client.Close() },
			result:    engine.Gone, reason: "it ended by itself",
		},
		{
			name: "descriptors that cannot be duplicated", via: rules.ViaHolder, capabilities: match.Capabilities{rules.Descriptor: unix.EPERM},
			result: engine.Failed, reason: unix.EPERM.Error(), alive: true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Isolate(t)
			listener := must(nstest.Listen(nstest.V4))(t)
			defer listener.Close()
			pair := must(nstest.NewPair(listener))(t)
			c := target{pair, listener}
			before := closeServer
			if test.before != nil {
				before = test.before
			}
			check(t, before(c))
			inode := must(pair.Client.Inode())(t)
			at := must(listener.Local())(t)

			now := must(sock.Clock())(t)
			kernel := &noDestroy{Conn: must(sockdiag.Open(now, nil))(t)}
			defer kernel.Close()
			r := &manualkill.Request{
				Query:        sock.Query{States: ssfilter.Of(ssfilter.CloseWait), Where: ssfilter.Ports(ssfilter.Dst, ssfilter.PortRange{First: at.Port(), Last: at.Port()})},
				Capabilities: test.capabilities, Via: test.via, Precision: sockdiag.Precision(),
				Descriptors: func() action.Descriptors { return &pidfd.Opener{Root: "/proc"} },
			}
			targets, _, err := r.Find(kernel, now)
			check(t, err)
			if len(targets) != 1 {
				t.Fatalf("%d sockets selected, want the client's alone", len(targets))
			}
			if want := test.via == rules.ViaHolder || test.via == rules.ViaAny && test.capabilities != nil; r.NeedsHolders() != want {
				t.Errorf("asks for holders: %v", r.NeedsHolders())
			}
			found := engine.HoldersFound{Holders: map[uint32][]sock.Holder{inode: {self(t)}}, Complete: true}
			if test.holders != nil {
				found = test.holders(t, found)
			}
			r.Resolve(manualkill.Pending(targets), found)
			if test.meanwhile != nil {
				check(t, test.meanwhile(c))
			}
			files := len(must(os.ReadDir("/proc/self/fd"))(t))
			r.Destroy(t.Context(), manualkill.Pending(targets), kernel, nil)
			if left := len(must(os.ReadDir("/proc/self/fd"))(t)); left != files {
				t.Errorf("%d descriptors, %d before", left, files)
			}
			if got := targets[0]; got.Result != test.result || got.Reason != test.reason || got.Via != test.reached {
				t.Errorf("%s by way of %q: %q; want %s by way of %q: %q", got.Result, got.Via, got.Reason, test.result, test.reached, test.reason)
			}
			if kernel.asked > 0 != (test.reached == rules.ViaKernel) {
				t.Errorf("the kernel was told %d times to destroy it", kernel.asked)
			}
			left, _, err := r.Find(kernel, now)
			check(t, err)
			if alive := len(left) == 1; alive != test.alive {
				t.Errorf("alive %v, want %v", alive, test.alive)
			}
		})
	}
}

// self is this process, as one that holds sockets.
func self(t *testing.T) sock.Holder {
	t.Helper()
	return sock.Holder{PID: os.Getpid(), Comm: "manualkill.test", Start: must(holders.ReadStart("/proc", os.Getpid()))(t)}
}

// byAnother says that a process holds the sockets which never did.
func byAnother(t *testing.T, found engine.HoldersFound) engine.HoldersFound {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	other := engine.HoldersFound{Holders: map[uint32][]sock.Holder{}, Complete: true}
	for inode := range found.Holders {
		other.Holders[inode] = []sock.Holder{{PID: cmd.Process.Pid, Comm: "sleep", Start: must(holders.ReadStart("/proc", cmd.Process.Pid))(t)}}
	}
	return other
}

// What would be done says by which way; what no process holds cannot be reached.
func TestViaHolderOfNobody(t *testing.T) {
	nstest.Isolate(t)
	leak := must(nstest.CloseWait(nstest.V4, nstest.ClientSide, 1))(t)
	defer leak.Close()
	now := must(sock.Clock())(t)
	kernel := must(sockdiag.Open(now, nil))(t)
	defer kernel.Close()
	r := &manualkill.Request{Query: sock.Query{States: ssfilter.Of(ssfilter.CloseWait, ssfilter.FinWait2)}, Via: rules.ViaHolder, DryRun: true}
	var targets []*manualkill.Target
	var err error
	for len(targets) < 2 { // the peer's acknowledgement may be on its way
		targets, _, err = r.Find(kernel, now)
		check(t, err)
	}
	inode := must(leak.Stuck[0].Inode())(t)
	r.Resolve(manualkill.Pending(targets), engine.HoldersFound{Holders: map[uint32][]sock.Holder{inode: {self(t)}}, Complete: true})
	r.Destroy(t.Context(), manualkill.Pending(targets), kernel, nil)
	got := map[ssfilter.State]manualkill.Target{}
	for _, target := range targets {
		got[target.Socket.State] = *target
	}
	if held := got[ssfilter.CloseWait]; held.Result != engine.Would || held.Via != rules.ViaHolder {
		t.Errorf("held by a process: %s, by way of %q", held.Result, held.Via)
	}
	if closed := got[ssfilter.FinWait2]; closed.Result != manualkill.LeftAlone || closed.Reason != "no process has a descriptor of it, by which alone it could be reached" {
		t.Errorf("closed by its program: %s: %s", closed.Result, closed.Reason)
	}
}
