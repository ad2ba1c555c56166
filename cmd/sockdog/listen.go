package main

import (
	"context"
	"fmt"
	"net"
	"regexp"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/metrics"
	"github.com/sockdog/sockdog/internal/web"
)

// defaultListen is where a daemon listens, and is asked.
const defaultListen = "127.0.0.1:9797"

// deaf reports whether an address of --listen says that nobody is to listen.
func deaf(address string) bool { return address == "" || address == "off" }

func checkListen(address string) error {
	if deaf(address) {
		return nil
	}
	return checkHostPort("--listen", "HOST:PORT or off", address)
}

// checkHostPort checks the address that a flag has, which is of that form. Whether
// there is such a host, only who asks it can tell.
func checkHostPort(flag, form, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return fmt.Errorf("%s is %s, not %q", flag, form, address)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%s is %s, and there is no port %s", flag, form, port)
	}
	return nil
}

// hostName is what stands in a Host header before the port.
var hostName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func checkListenNames(names []string) error {
	for _, name := range names {
		if !hostName.MatchString(name) {
			return fmt.Errorf("--listen-name is the name of a host without a port, not %q", name)
		}
	}
	return nil
}

// serve shows over HTTP what the daemon publishes, until ctx is done; the function
// that it returns waits for that. Where nobody can listen, the watch goes on.
func (f *runFlags) serve(ctx context.Context, o *daemon.Options) (wait func()) {
	if deaf(f.listen) {
		return func() {}
	}
	l, err := web.Listen(f.listen)
	if err != nil {
		o.Log.Warn("nobody listens: there is no page and there are no metrics; --listen names another address, or off", "error", err.Error())
		return func() {}
	}
	board := web.NewBoard()
	o.Board = board
	host, _, _ := net.SplitHostPort(f.listen) // it was checked
	o.Page = page(l.Addr(), o.Host)
	ages := web.NewAges(o.Version, origin(), o.Now)
	o.Ages = ages
	handler := web.Handler(board, metrics.Handler(board.Current), ages, append(f.listenNames, host, o.Host)...)
	o.Log.Info("listening", "address", l.Addr().String())
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := web.Serve(ctx, l, handler, o.Log); err != nil {
			o.Log.Error("nobody listens any more: there is no page and there are no metrics until a restart", "error", err.Error())
		}
	}()
	return func() {
		cancel()
		<-served
	}
}

// page is the URL of the page as others reach it; empty: they cannot.
func page(at net.Addr, hostname string) string {
	a, ok := at.(*net.TCPAddr)
	switch {
	case !ok || a.IP.IsLoopback():
		return ""
	case a.IP.IsUnspecified():
		return fmt.Sprintf("http://%s/", net.JoinHostPort(hostname, fmt.Sprint(a.Port)))
	default:
		return "http://" + a.String() + "/"
	}
}
