// Package host finds out which boot and network namespace this is and what the kernel
// and the privileges allow, says what is missing and what cures it, opens netlink
// sockets, and drops what is not needed.
package host

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/cgroup"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/pidfd"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/rules"
)

// ProcRoot is where processes are found.
const ProcRoot = "/proc"

// Host is what this kernel and these privileges allow.
type Host struct {
	Now       func() sock.Instant
	Precision time.Duration // of the ages that the kernel tells
	Cgroups   *cgroup.Tree
	Netns     string // inode of this network namespace, as lsns(8) shows it; "": /proc does not tell
	Release   string // of the kernel

	// Probe alone finds out the following.
	Kernel sockdiag.Capabilities // what it does for us
	Raised error                 // why CAP_NET_ADMIN could not be raised
	Closed error                 // why descriptors of other processes cannot be duplicated
}

// New returns a host that has not been probed.
func New() (*Host, error) {
	now, err := sock.Clock()
	if err != nil {
		return nil, err
	}
	h := &Host{Now: now, Precision: sockdiag.Precision(), Cgroups: cgroup.New()}
	if inode := netns.Inode(); inode != 0 {
		h.Netns = strconv.FormatUint(uint64(inode), 10)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		h.Release = unix.ByteSliceToString(name.Release[:])
	}
	return h, nil
}

// Probe finds out what the host allows by trying, on sockets of its own.
func Probe() (*Host, error) {
	h, err := New()
	if err != nil {
		return nil, err
	}
	h.Closed = Descriptors().Probe()
	probed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the capability ends with the thread
		h.Raised = sockdiag.RaiseNetAdmin()
		kernel, err := sockdiag.Open(h.Now, h.Cgroups)
		if err == nil {
			h.Kernel, err = kernel.Probe()
			kernel.Close()
		}
		probed <- err
	}()
	if err := <-probed; err != nil {
		return nil, fmt.Errorf("the kernel's socket table cannot be read: %w", err)
	}
	return h, nil
}

// Descriptors duplicates descriptors of processes.
func Descriptors() *pidfd.Opener { return &pidfd.Opener{Root: ProcRoot} }

// BecomeTrial does not return in the child that Probe may start. It must be the first thing
// that the program's main does.
func BecomeTrial() { pidfd.BecomeTrial() }

// OpenIn opens a netlink socket in a network namespace.
func (h *Host) OpenIn(n *netns.Namespace) (*sockdiag.Conn, error) {
	return sockdiag.OpenIn(n, h.Now, h.Cgroups)
}

// OpenKernel opens a netlink socket for the calling thread, which it gives
// CAP_NET_ADMIN if anything allows it: to destroy, and on kernels before 6.14 to
// see which sockets are MPTCP subflows.
func (h *Host) OpenKernel() (*sockdiag.Conn, error) {
	_ = sockdiag.RaiseNetAdmin() // the probe has told what follows from an error
	return sockdiag.Open(h.Now, h.Cgroups)
}

// Capabilities returns what the engine must know of the host.
func (h *Host) Capabilities() match.Capabilities {
	capabilities := make(match.Capabilities)
	if h.Kernel.Destroy != nil {
		capabilities[rules.Destroy] = reason{h.WhyNotKill(), h.Kernel.Destroy}
	}
	if h.Closed != nil {
		why, _ := h.WhyClosed()
		capabilities[rules.Descriptor] = errors.New(why)
	}
	if h.Kernel.DestroyTimeWait != nil {
		capabilities[match.DestroyTimeWait] = errors.New(h.WhyNotTimeWait())
	}
	if !h.FreesOrphans() {
		capabilities[match.DestroyOrphan] = errors.New("kernels before 6.11 leak what is destroyed after its program has closed it")
	}
	return capabilities
}

// reason is the kernel's error in other words.
type reason struct {
	text string
	err  error
}

func (r reason) Error() string { return r.text }
func (r reason) Unwrap() error { return r.err }

// FreesOrphans reports whether the kernel frees an orphan that is destroyed:
// commit bac76cf89816 (tcp: fix forever orphan socket caused by tcp_abort), in
// 6.11. It cannot be tried out without leaking one.
func (h *Host) FreesOrphans() bool { return h.AtLeast(6, 11) }

// AtLeast reports whether the kernel is that version of Linux, or a later one.
func (h *Host) AtLeast(major, minor int) bool {
	var ourMajor, ourMinor int
	if n, _ := fmt.Sscanf(h.Release, "%d.%d", &ourMajor, &ourMinor); n != 2 {
		return false
	}
	return ourMajor > major || ourMajor == major && ourMinor >= minor
}

// Cures says what to do about what is missing.
func (h *Host) Cures() map[rules.Capability]string {
	cures := map[rules.Capability]string{rules.Destroy: h.Cure()}
	if h.Closed != nil {
		_, cures[rules.Descriptor] = h.WhyClosed()
	}
	return cures
}

// WhyClosed says why descriptors of other processes cannot be duplicated, and what to do.
func (h *Host) WhyClosed() (why, cure string) {
	if refusal, is := errors.AsType[*pidfd.Refusal](h.Closed); is {
		return refusal.Why, refusal.Cure
	}
	return h.Closed.Error(), "Linux 5.6 or later"
}

// Cure says what to do where sockets cannot be destroyed; "": they can.
func (h *Host) Cure() string {
	switch err := h.Kernel.Destroy; {
	case err == nil:
		return ""
	case errors.Is(err, unix.EOPNOTSUPP):
		return "a kernel built with CONFIG_INET_DIAG_DESTROY=y"
	case errors.Is(err, unix.EPERM) && h.Raised == nil:
		return "run it in the user namespace that owns this network namespace: outside the container, or without userns"
	case errors.Is(err, unix.EPERM):
		_, cure := readPrivileges().missing()
		return cure
	case errors.Is(err, unix.EADDRINUSE):
		return "free a local port, and start sockdog again: `sockdog list --group-by process state all state bound-inactive` shows who holds how many"
	default:
		return "start sockdog again when that is mended"
	}
}

// WhyNotKill says why sockets cannot be destroyed.
func (h *Host) WhyNotKill() string { return h.why(h.Kernel.Destroy) }

// WhyNotTimeWait says why sockets in time-wait cannot be: where others can be destroyed,
// EOPNOTSUPP means that the kernel is older than 6.0, not how it was built.
func (h *Host) WhyNotTimeWait() string {
	if h.Kernel.Destroy == nil && errors.Is(h.Kernel.DestroyTimeWait, unix.EOPNOTSUPP) {
		return "this kernel cannot destroy sockets in time-wait, nor in fin-wait-2 once closed: Linux 6.0 and later can"
	}
	return h.why(h.Kernel.DestroyTimeWait)
}

// why puts what the kernel said of a destroy into words.
func (h *Host) why(err error) string {
	switch {
	case errors.Is(err, unix.EPERM) && h.Raised != nil:
		return "kill is not permitted: " + h.Raised.Error()
	case errors.Is(err, unix.EPERM):
		return "kill is not permitted: CAP_NET_ADMIN does not reach this network namespace, which another user namespace owns"
	case errors.Is(err, unix.EOPNOTSUPP):
		return "this kernel cannot destroy sockets: it was built without CONFIG_INET_DIAG_DESTROY"
	default:
		return err.Error()
	}
}

// WhyNoPrivilege says why the process lacks CAP_NET_ADMIN, which could not be raised;
// "": that is not why.
func (h *Host) WhyNoPrivilege() string {
	if !errors.Is(h.Kernel.Destroy, unix.EPERM) || !errors.Is(h.Raised, sockdiag.ErrNotPermitted) {
		return ""
	}
	why, _ := readPrivileges().missing()
	return why
}
