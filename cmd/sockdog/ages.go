package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/seen"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/internal/web"
)

// ageFlags say who is asked for ages of which the kernel knows less.
type ageFlags struct {
	daemon, stateDir string
	named            bool // the user named the daemon
}

func (f *ageFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.daemon, "daemon", defaultListen, "`address` to ask for ages, or off")
	cmd.Flags().StringVar(&f.stateDir, "state-dir", stateDirectory(), "`directory` of a sockdog's state, which tells ages too")
}

// check checks the flags, once they are parsed.
func (f *ageFlags) check(cmd *cobra.Command) error {
	f.named = cmd.Flags().Changed("daemon")
	if deaf(f.daemon) {
		return nil
	}
	return checkHostPort("--daemon", "HOST:PORT or off", f.daemon)
}

// knowledge is what others have observed.
type knowledge struct {
	engine.Restored
	asked   string // the daemon that told it; empty: none did
	leftOut int    // sockets that the daemon knows more of, and did not tell
	missing string // why no daemon told it; empty: one did, or was not to be asked
	loud    bool   // missing is worth a line by itself
}

// ask asks the daemon, and reads the state directory. What the daemon tells counts
// for more: the directory has what was worth writing.
func (f *ageFlags) ask(ctx context.Context, h *host) (knowledge, error) {
	var k knowledge
	if f.stateDir != "" {
		var err error
		if k.Restored, err = readState(f.stateDir, h); err != nil {
			return k, err
		}
	}
	if deaf(f.daemon) {
		k.missing = "no daemon was to be asked"
		return k, nil
	}
	told, err := askDaemon(ctx, f.daemon, h)
	if err != nil {
		k.missing, k.loud = err.Error(), f.named || !errors.Is(err, syscall.ECONNREFUSED)
		return k, nil
	}
	k.asked, k.leftOut = f.daemon, told.leftOut
	byKey := make(map[sock.Key]struct{}, len(told.memories))
	for i := range told.memories {
		byKey[told.memories[i].Key] = struct{}{}
	}
	for _, m := range k.Memories {
		if _, better := byKey[m.Key]; !better {
			told.memories = append(told.memories, m)
		}
	}
	k.Memories = told.memories
	return k, nil
}

// byKey are the memories, by the keys of their sockets.
func (k *knowledge) byKey() map[sock.Key]*sock.Memory {
	memories := make(map[sock.Key]*sock.Memory, len(k.Memories))
	for i := range k.Memories {
		memories[k.Memories[i].Key] = &k.Memories[i]
	}
	return memories
}

// warn says once that no daemon told anything, where that is no matter of course.
func (k *knowledge) warn(stderr io.Writer) {
	if k.loud {
		fmt.Fprintf(stderr, "sockdog: ages are as the kernel keeps them: %s\n", k.missing)
	}
}

// unjudged says that n sockets could not be judged, and what to do.
func (k *knowledge) unjudged(n int) []string {
	if n == 0 {
		return nil
	}
	why, cure := k.missing, "a sockdog run whose rules match them observes it: --daemon says where one listens, --state-dir where it keeps that"
	switch {
	case k.missing != "":
	case k.leftOut > 0:
		why, cure = fmt.Sprintf("the sockdog on %s tells of no more than %d at once", k.asked, len(k.Memories)), "kill again, when these are gone"
	default:
		why = fmt.Sprintf("the sockdog on %s has not observed them for that long", k.asked)
		cure = "wait: it observes what its rules match, from when they are in force"
	}
	return []string{
		fmt.Sprintf("could not be judged %d: the kernel keeps no more than a lower bound on their age, which keepalives reset; %s", n, why),
		"cure: " + cure,
	}
}

const (
	agesWithin = 2 * time.Second
	agesRetry  = 200 * time.Millisecond
	agesBound  = 16 << 20 // bytes: far more than a daemon tells
	// clockSlack is how far the daemon's clock may be off ours. They are the same one.
	clockSlack = time.Second
)

// toldAges are ages as a daemon told them.
type toldAges struct {
	memories []sock.Memory
	leftOut  int
}

// askDaemon asks the daemon at an address for what it has observed, and believes it
// only if it watches this network namespace, in this boot, and is run by somebody
// who could kill these sockets without it.
func askDaemon(ctx context.Context, address string, h *host) (toldAges, error) {
	ctx, cancel := context.WithTimeout(ctx, agesWithin)
	defer cancel()
	var conn net.Conn
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
			_ = tcp.SetLinger(0) // who is asked each second must not be left with sockets in TIME_WAIT
		}
		return conn, err
	}}
	defer transport.CloseIdleConnections() // until then it stays open, and the kernel says whose it is
	// No proxy, and no redirect: it is this address that was asked for.
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	sent := h.now()
	text, err := fetchAges(ctx, &client, address)
	if err != nil {
		return toldAges{}, err
	}
	if err := trust(address, conn, h); err != nil {
		return toldAges{}, err
	}
	head, memories, err := web.ReadAges(text)
	if err != nil {
		return toldAges{}, fmt.Errorf("what the sockdog on %s says of ages cannot be read: %w; is it of another version?", address, err)
	}
	ours := origin()
	switch {
	case head.BootID == "" || head.BootID != ours.BootID:
		return toldAges{}, fmt.Errorf("the sockdog on %s runs on another host, or in another boot", address)
	case head.Netns != ours.Netns || head.NetnsCookie != ours.NetnsCookie:
		return toldAges{}, fmt.Errorf("the sockdog on %s watches another network namespace", address)
	case head.ClockNS < sent.Add(-clockSlack) || head.ClockNS > h.now().Add(clockSlack):
		return toldAges{}, fmt.Errorf("the clock of the sockdog on %s is not this one", address)
	}
	return toldAges{memories, head.LeftOut}, nil
}

// fetchAges fetches an answer, and asks again while the daemon is busy.
func fetchAges(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+web.AgesPath, nil)
	if err != nil {
		return nil, err
	}
	busy := fmt.Errorf("the sockdog on %s is too busy to tell ages", address)
	for said := false; ; said = true {
		answer, err := client.Do(request)
		switch {
		case said && errors.Is(err, context.DeadlineExceeded):
			return nil, busy
		case errors.Is(err, syscall.ECONNREFUSED):
			return nil, fmt.Errorf("nothing listens on %s (%w)", address, syscall.ECONNREFUSED)
		case errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("%s did not answer within %v", address, agesWithin)
		case err != nil:
			return nil, fmt.Errorf("%s cannot be asked: %w", address, errors.Unwrap(err))
		}
		text, err := io.ReadAll(io.LimitReader(answer.Body, agesBound+1))
		answer.Body.Close()
		ours := answer.Header.Get("Server") == web.Server
		switch {
		case !ours:
			return nil, fmt.Errorf("what listens on %s is no sockdog", address)
		case err != nil:
			return nil, fmt.Errorf("read the ages from %s: %w", address, err)
		case answer.StatusCode == http.StatusNotFound:
			return nil, fmt.Errorf("the sockdog on %s is of a version that does not tell ages", address)
		case answer.StatusCode == http.StatusServiceUnavailable:
			select {
			case <-time.After(agesRetry):
				continue
			case <-ctx.Done():
				return nil, busy
			}
		case answer.StatusCode != http.StatusOK:
			return nil, fmt.Errorf("the sockdog on %s tells no ages: %s", address, answer.Status)
		case len(text) > agesBound:
			return nil, fmt.Errorf("the sockdog on %s tells more than anybody could know", address)
		}
		return text, nil
	}
}

// trust finds out from the kernel who answers at the other end of a connection.
func trust(address string, conn ends, h *host) error {
	local, peer := endOf(conn.LocalAddr()), endOf(conn.RemoteAddr())
	diag, err := sockdiag.Open(h.now, h.cgroups)
	if err != nil {
		return err
	}
	defer diag.Close()
	s, found, err := diag.Find(peer, local)
	switch {
	case err != nil:
		return fmt.Errorf("whose the sockdog on %s is cannot be seen: %w", address, err)
	case !found:
		return fmt.Errorf("the sockdog on %s is not in this network namespace", address)
	}
	return trustHolder(address, &s)
}

// ends are those of a connection.
type ends interface {
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
}

func endOf(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

// origin tells the instants of this boot and network namespace from all others.
// What cannot be read is empty.
func origin() web.Origin {
	o := web.Origin{Netns: netnsName()}
	if boot, err := seen.ReadBootID(); err == nil {
		o.BootID = hex.EncodeToString(boot[:])
	}
	if cookie, err := sockdiag.NetnsCookie(); err == nil {
		o.NetnsCookie = cookie
	}
	return o
}
