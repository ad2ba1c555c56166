// Package events knows which TCP sockets of the host are in states that they get stuck in,
// and since when: three eBPF programs tell, of which bpf/events.bpf.c says what each does.
// What cannot be had here is an error that says why; who calls goes on without it.
package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/sockdog/sockdog/internal/sock"
	"golang.org/x/sys/unix"
)

// loadTime bounds how long the loader may take; 0.15 s is usual.
const loadTime = 10 * time.Second

// Programs are loaded programs. They do nothing until they are attached, and are gone with
// the process whatever ends it.
type Programs struct {
	table       Table
	needsCapBPF bool
	bootOffset  time.Duration // of the time namespace, in CLOCK_BOOTTIME

	mu  sync.RWMutex // held to read while a descriptor is used
	fds *descriptors // nil: closed

	asking    sync.Mutex // one pass for owners at a time: they share a map
	why       sync.Mutex
	whyFlag   error
	whyOwners error
}

// descriptors of programs, maps and links; -1: it is not there.
type descriptors struct {
	follow, entries, states, lost int
	flagOlder                     int
	owners, asked                 int
	attached                      int // the link to a cgroup
}

// LoadError is why programs cannot be had.
type LoadError struct {
	what, why string
	errno     unix.Errno
	log       string
}

func (e *LoadError) Error() string { return e.what + ": " + e.why }

// Unwrap returns the kernel's answer.
func (e *LoadError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// Log is what the kernel's verifier says of the program that it refuses, for developers.
func (e *LoadError) Log() string { return e.log }

// canLoad is set where this program knows how to be the loader: another would do its own work
// in the child, and start children in turn.
var canLoad atomic.Bool

// Load loads the programs, with a table for that many sockets. It has a child do it, which
// is this program once more (BecomeLoader): reading the kernel's BTF takes memory that would
// never be given back. The child needs CAP_BPF and CAP_NET_ADMIN, and CAP_PERFMON for what
// may be missing (WhyNoFlag, WhyNoOwners). It is an error if the table cannot be had.
func Load(places int) (*Programs, error) {
	if places <= 0 || places > math.MaxInt32 {
		return nil, fmt.Errorf("a table of %d places", places)
	}
	return loadGroups(groupTable, places)
}

// LoadOwners loads what Owners takes and nothing else, which is sooner there. There is no Table.
// It is an error if that cannot be had.
func LoadOwners() (*Programs, error) { return loadGroups(groupOwners, 1) }

// loadGroups loads a group, without which the rest is worth nothing: that of the table has the others
// loaded, too.
func loadGroups(needed group, places int) (*Programs, error) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		return nil, errors.New("eBPF programs are used on machines of 64 bits only")
	}
	if !canLoad.Load() {
		return nil, errors.New("load eBPF programs: main does not call BecomeLoader")
	}
	offset, err := sock.TimeNamespaceOffset(unix.CLOCK_BOOTTIME) // /proc/PID/stat adds it, too
	if err != nil {
		return nil, err
	}
	p := &Programs{bootOffset: offset, fds: &descriptors{-1, -1, -1, -1, -1, -1, -1, -1}}
	p.table = Table{programs: p, places: places}
	reasons, died := p.runLoader(needed, places)
	reason := func(g group) error {
		if err, told := reasons[g]; told {
			return err
		}
		return died
	}
	if err := reason(needed); err != nil {
		p.Close()
		return nil, err
	}
	p.whyFlag, p.whyOwners = reason(groupFlag), reason(groupOwners)
	return p, nil
}

// runLoader returns what the loader said of each group: nil for one that is there. died says
// why it said nothing of the others.
func (p *Programs) runLoader(needed group, places int) (reasons map[group]error, died error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("load eBPF programs: %w", err)
	}
	defer unix.Close(ends[0])
	theirs := os.NewFile(uintptr(ends[1]), "loader")
	defer theirs.Close()

	// Pdeathsig is sent when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stderr excerpt
	child := exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{loaderName, string(needed), strconv.Itoa(places)},
		ExtraFiles:  []*os.File{theirs},
		Stderr:      &stderr,
		WaitDelay:   time.Second,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	if err := child.Start(); err != nil {
		return nil, fmt.Errorf("start the loader of eBPF programs: %w", err)
	}
	theirs.Close()
	reasons, err = p.receive(ends[0], time.Now().Add(loadTime))
	if err != nil {
		child.Process.Kill() // an error means that it has ended
	}
	switch ended := child.Wait(); {
	case err != nil:
		died = fmt.Errorf("load eBPF programs: %w", err)
	case ended != nil:
		died = fmt.Errorf("the loader of eBPF programs failed: %w: %s", ended, strings.TrimSpace(stderr.String()))
	default:
		died = errors.New("the loader of eBPF programs ended early")
	}
	return reasons, died
}

// receive takes what the loader hands over, until it ends.
func (p *Programs) receive(fd int, deadline time.Time) (map[group]error, error) {
	reasons := make(map[group]error)
	text, rights := make([]byte, 7*maxLog), make([]byte, unix.CmsgSpace(8*4))
	for {
		left := unix.NsecToTimeval(max(time.Until(deadline), time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left); err != nil {
			return reasons, err
		}
		n, oobn, _, _, err := unix.Recvmsg(fd, text, rights, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return reasons, fmt.Errorf("not done after %v", loadTime)
		case err != nil:
			return reasons, err
		case n == 0:
			return reasons, nil
		}
		var m message
		fds, err := descriptorsOf(rights[:oobn])
		if err == nil {
			err = json.Unmarshal(text[:n], &m)
		}
		if err == nil {
			err = p.take(m, fds)
		}
		if err != nil {
			closeAll(fds)
			return reasons, err
		}
		reasons[m.Group] = m.reason()
	}
}

func (m *message) reason() error {
	if m.Why == "" {
		return nil
	}
	return &LoadError{what: m.What, why: m.Why, errno: m.Errno, log: m.Log}
}

// take keeps the descriptors of a group.
func (p *Programs) take(m message, fds []int) error {
	if m.Why != "" && len(fds) == 0 {
		return nil
	}
	places := map[group][]*int{
		groupTable:  {&p.fds.follow, &p.fds.entries, &p.fds.states, &p.fds.lost},
		groupFlag:   {&p.fds.flagOlder},
		groupOwners: {&p.fds.owners, &p.fds.asked},
	}[m.Group]
	if len(places) != len(fds) {
		return fmt.Errorf("the loader sent %d descriptors of %q", len(fds), m.Group)
	}
	for i, place := range places {
		*place = fds[i]
	}
	p.needsCapBPF = p.needsCapBPF || m.NeedsCapBPF
	return nil
}

func descriptorsOf(rights []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		some, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, some...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Table is the table of sockets in the wanted states; at first, none are.
func (p *Programs) Table() *Table { return &p.table }

// WhyNoFlag says why FlagOlder does nothing here; nil: it does, as far as is known.
func (p *Programs) WhyNoFlag() error {
	p.why.Lock()
	defer p.why.Unlock()
	return p.whyFlag
}

// WhyNoOwners says why Owners does nothing here; nil: it does.
func (p *Programs) WhyNoOwners() error { return p.whyOwners }

// NeedsCapBPF reports whether every method needs CAP_BPF of the calling thread, not only Load:
// Linux before 5.19, where kernel.unprivileged_bpf_disabled is set.
func (p *Programs) NeedsCapBPF() bool { return p.needsCapBPF }

// use calls f with descriptors that stay open meanwhile.
func (p *Programs) use(f func(fds *descriptors) error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fds == nil {
		return os.ErrClosed
	}
	return f(p.fds)
}

// Close detaches and unloads everything. A pass that is under way goes on to its end.
func (p *Programs) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fds := p.fds; fds != nil {
		closeAll([]int{fds.attached, fds.follow, fds.entries, fds.states, fds.lost, fds.flagOlder, fds.owners, fds.asked})
	}
	p.fds = nil
}

// excerpt is the first part of what is written to it.
type excerpt struct{ bytes.Buffer }

func (e *excerpt) Write(text []byte) (int, error) {
	e.Buffer.Write(text[:min(len(text), max(4<<10-e.Len(), 0))])
	return len(text), nil
}

var _ io.Writer = (*excerpt)(nil)
