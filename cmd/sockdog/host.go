package main

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/counters"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
)

// procRoot is where the processes are found.
const procRoot = "/proc"

// host is what this kernel and these privileges allow.
type host struct {
	now          func() sock.Instant
	precision    time.Duration
	cgroups      *cgroup.Tree
	release      string
	capabilities sockdiag.Capabilities
	raised       error // why CAP_NET_ADMIN could not be raised
}

// openHost finds out by trying, on sockets of its own.
func openHost() (*host, error) {
	now, err := sock.Clock()
	if err != nil {
		return nil, err
	}
	h := &host{now: now, precision: sockdiag.Precision(), cgroups: cgroup.New()}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		h.release = unix.ByteSliceToString(name.Release[:])
	}
	probed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the capability ends with the thread
		h.raised = sockdiag.RaiseNetAdmin()
		kernel, err := sockdiag.Open(h.now, h.cgroups)
		if err == nil {
			h.capabilities, err = kernel.Probe()
			kernel.Close()
		}
		probed <- err
	}()
	if err := <-probed; err != nil {
		return nil, fmt.Errorf("the kernel's socket table cannot be read: %w", err)
	}
	return h, nil
}

// openKernel opens a netlink socket for the calling thread, which it gives
// CAP_NET_ADMIN if anything allows it: to destroy, and on kernels before 6.14 to
// see which sockets are MPTCP subflows.
func (h *host) openKernel() (daemon.Kernel, error) {
	_ = sockdiag.RaiseNetAdmin() // the probe has told what follows from an error
	return sockdiag.Open(h.now, h.cgroups)
}

func (h *host) options(log *slog.Logger) daemon.Options {
	finder := holders.NewFinder(procRoot)
	return daemon.Options{
		Log: log, Now: h.now, Precision: h.precision, Netns: netnsName(),
		Kinds:        action.Kinds(),
		OpenKernel:   h.openKernel,
		OpenCounters: func() (daemon.Counters, error) { return counters.Open() },
		FindHolders:  finder.Find, FindNew: finder.FindNew, WalkAt: finder.At,
		ReadUsage:    func(pid int) (holders.Usage, error) { return holders.ReadUsage(procRoot, pid) },
		Examine:      func() (holders.Access, error) { return holders.Examine(procRoot) },
		Capabilities: h.engineCapabilities(), Cure: h.cure(), MaxTracks: boundMemory(),
	}
}

// engineAble is what the engine must know of the host.
func (h *host) engineCapabilities() engine.Capabilities {
	var capabilities engine.Capabilities
	if h.capabilities.Destroy != nil {
		capabilities.Kill = h.why(h.capabilities.Destroy)
	}
	if h.capabilities.DestroyTimeWait != nil {
		capabilities.KillTimeWait = h.whyTimeWait()
	}
	if !orphansEnd(h.release) {
		capabilities.KillOrphan = "closed by its program, and kernels before 6.11 would leak it for ever"
	}
	return capabilities
}

// orphansEnd reports whether the kernel frees an orphan that is destroyed:
// commit bac76cf89816 (tcp: fix forever orphan socket caused by tcp_abort), in
// 6.11. It cannot be tried out without leaking one.
func orphansEnd(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 6 || major == 6 && minor >= 11
}

// cure is what to do where sockets cannot be destroyed.
func (h *host) cure() string {
	switch {
	case h.capabilities.Destroy == nil:
		return ""
	case errors.Is(h.capabilities.Destroy, unix.EOPNOTSUPP):
		return "a kernel built with CONFIG_INET_DIAG_DESTROY=y"
	case errors.Is(h.capabilities.Destroy, unix.EPERM) && h.raised == nil:
		return "run it in the user namespace that owns this network namespace: outside the container, or without userns"
	case errors.Is(h.capabilities.Destroy, unix.EPERM):
		_, cure := readPrivileges().missing()
		return cure
	case errors.Is(h.capabilities.Destroy, unix.EADDRINUSE):
		return "free a local port, and start sockdog again: `sockdog list --group-by process state all state bound-inactive` shows who holds how many"
	default:
		return "start sockdog again when that is mended"
	}
}

// whyTimeWait is why for the sockets in time-wait: where others can be destroyed,
// EOPNOTSUPP means that the kernel is older than 6.0, not how it was built.
func (h *host) whyTimeWait() string {
	if h.capabilities.Destroy == nil && errors.Is(h.capabilities.DestroyTimeWait, unix.EOPNOTSUPP) {
		return "this kernel cannot destroy sockets in time-wait: Linux 6.0 and later can"
	}
	return h.why(h.capabilities.DestroyTimeWait)
}

// why puts what the kernel said of a destroy into words.
func (h *host) why(err error) string {
	switch {
	case errors.Is(err, unix.EPERM) && h.raised != nil:
		return "kill is not permitted: " + h.raised.Error()
	case errors.Is(err, unix.EPERM):
		return "kill is not permitted: CAP_NET_ADMIN does not reach this network namespace, which another user namespace owns"
	case errors.Is(err, unix.EOPNOTSUPP):
		return "this kernel cannot destroy sockets: it was built without CONFIG_INET_DIAG_DESTROY"
	default:
		return err.Error()
	}
}

// netnsName is the inode of this network namespace, as lsns(8) and ip-netns(8)
// show it, or "" where /proc does not tell.
func netnsName() string {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return ""
	}
	return strconv.FormatUint(st.Ino, 10)
}
