package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/internal/state"
	"github.com/sockdog/sockdog/internal/web"
)

// Observers are who may have observed more of ages than the kernel keeps.
type Observers struct {
	Daemon   string // its address, or off
	Named    bool   // the user named the daemon
	StateDir string // of a daemon; empty: none is read
}

// Ages are what observers know.
type Ages struct {
	engine.Restored
	Missing string // why no daemon told it; empty: one did
	Loud    bool   // Missing is worth a line by itself

	asked   string // the daemon that told it
	leftOut int    // sockets that the daemon knows more of, and did not tell
}

// Ask asks the daemon, and reads the state directory. What the daemon tells counts
// for more: the directory has what was worth writing.
func (o *Observers) Ask(ctx context.Context, h *host.Host) (Ages, error) {
	var a Ages
	if o.StateDir != "" {
		var err error
		if a.Restored, err = state.Read(o.StateDir, h); err != nil {
			return a, err
		}
	}
	if Off(o.Daemon) {
		a.Missing = "no daemon was to be asked"
		return a, nil
	}
	told, leftOut, err := askDaemon(ctx, o.Daemon, h, agesWithin)
	if err != nil {
		a.Missing, a.Loud = err.Error(), o.Named || !errors.Is(err, errNobody)
		return a, nil
	}
	a.asked, a.leftOut = o.Daemon, leftOut
	newer := make(map[sock.Key]bool, len(told))
	for i := range told {
		newer[told[i].Key] = true
	}
	a.Memories = append(slices.DeleteFunc(a.Memories, func(m sock.Memory) bool { return newer[m.Key] }), told...)
	return a, nil
}

// ByKey returns what is known of each socket, by its key.
func (a *Ages) ByKey() map[sock.Key]*sock.Memory {
	memories := make(map[sock.Key]*sock.Memory, len(a.Memories))
	for i := range a.Memories {
		memories[a.Memories[i].Key] = &a.Memories[i]
	}
	return memories
}

// Warn says that no daemon told anything, where that is no matter of course.
func (a *Ages) Warn(stderr io.Writer) {
	if a.Loud {
		fmt.Fprintf(stderr, "sockdog: ages are those that the kernel keeps: %s\n", a.Missing)
	}
}

// Unjudged says that n sockets could not be judged, and what to do.
func (a *Ages) Unjudged(n int) []string {
	if n == 0 {
		return nil
	}
	why, cure := a.Missing, "a sockdog run whose rules match them observes it: --daemon says where one listens, --state-dir where it keeps that"
	switch {
	case a.Missing != "":
	case a.leftOut > 0:
		why, cure = fmt.Sprintf("the sockdog on %s tells of at most %d at once", a.asked, len(a.Memories)), "kill again, when these are gone"
	default:
		why = fmt.Sprintf("the sockdog on %s has not observed them for that long", a.asked)
		cure = "wait: it observes what its rules match, from when they are in force"
	}
	return []string{
		fmt.Sprintf("could not be judged %d: the kernel keeps only a lower bound on their age, which keepalives reset; %s", n, why),
		"cure: " + cure,
	}
}

const (
	agesWithin = 2 * time.Second
	agesRetry  = 200 * time.Millisecond
	// clockSlack is how far the daemon's clock may be off ours. They are the same one.
	clockSlack = time.Second
)

// askDaemon asks the daemon at an address for what it has observed, and believes it
// only if it watches this network namespace, in this boot, and is run by somebody
// who could kill these sockets without it.
func askDaemon(ctx context.Context, address string, h *host.Host, within time.Duration) (memories []sock.Memory, leftOut int, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	sent := h.Now()
	told, err := fetchAges(ctx, address, within)
	if err != nil {
		return nil, 0, err
	}
	defer told.conn.Close() // until then the kernel says whose it is
	inode, err := trust(address, told.conn.LocalAddr(), told.conn.RemoteAddr(), h)
	if err != nil {
		return nil, 0, err
	}
	head, memories, err := web.ReadAges(told.text)
	if err != nil {
		return nil, 0, fmt.Errorf("the ages from the sockdog on %s cannot be read: %w; is it another version?", address, err)
	}
	ours, _ := h.Origin() // what cannot be read is empty
	switch {
	case head.BootID == "" || head.BootID != ours.BootID && head.BootID != bootSeenBy(inode):
		return nil, 0, fmt.Errorf("the sockdog on %s reads another boot id than this command: it runs on another host or in another boot, or one of the two has a boot id of its own, as in systemd-nspawn (ask as root)", address)
	case head.Netns != ours.Netns || head.NetnsCookie != ours.NetnsCookie:
		return nil, 0, fmt.Errorf("the sockdog on %s watches another network namespace", address)
	case head.ClockNS < sent.Add(-clockSlack) || head.ClockNS > h.Now().Add(clockSlack):
		return nil, 0, fmt.Errorf("the sockdog on %s uses another clock", address)
	}
	return memories, head.LeftOut, nil
}

// fetchAges fetches an answer, and asks again while the daemon is busy.
func fetchAges(ctx context.Context, address string, within time.Duration) (*answer, error) {
	busy := fmt.Errorf("the sockdog on %s is too busy to tell ages", address)
	for retry := false; ; retry = true {
		a, err := ask(ctx, address, web.AgesPath, within)
		switch {
		case retry && ctx.Err() != nil:
			return nil, busy
		case err != nil:
			return nil, err
		case a.code == http.StatusOK:
			return a, nil
		}
		a.conn.Close()
		switch a.code {
		case http.StatusServiceUnavailable:
		case http.StatusNotFound:
			return nil, fmt.Errorf("the sockdog on %s is too old to tell ages", address)
		default:
			return nil, fmt.Errorf("the sockdog on %s tells no ages: %d %s", address, a.code, http.StatusText(a.code))
		}
		select {
		case <-time.After(agesRetry):
		case <-ctx.Done():
			return nil, busy
		}
	}
}

// trust finds out from the kernel who answers at the other end of a connection, and returns the
// inode of that.
func trust(address string, local, peer net.Addr, h *host.Host) (inode uint32, err error) {
	diag, err := sockdiag.Open(h.Now, h.Cgroups)
	if err != nil {
		return 0, err
	}
	defer diag.Close()
	s, found, err := diag.Find(peer.(*net.TCPAddr).AddrPort(), local.(*net.TCPAddr).AddrPort())
	switch {
	case err != nil:
		return 0, fmt.Errorf("cannot find out who runs the sockdog on %s: %w", address, err)
	case !found:
		return 0, fmt.Errorf("the sockdog on %s is not in this network namespace", address)
	}
	return s.Inode, trustHolder(address, &s)
}

// bootSeenBy returns the boot id that the processes read which hold the socket with an inode; empty:
// that cannot be told. They run on this kernel, in this boot. Of who forwards the answers of a
// sockdog elsewhere, it is not the one in those.
func bootSeenBy(inode uint32) (boot string) {
	found, err := holders.Find(host.ProcRoot, map[uint32]struct{}{inode: {}})
	if err != nil {
		return ""
	}
	for _, by := range found.Holders[inode] {
		seen, err := host.BootSeenBy(by.PID)
		if err != nil || boot != "" && boot != seen {
			return ""
		}
		boot = seen
	}
	return boot
}
