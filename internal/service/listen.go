package service

import (
	"context"
	"fmt"
	"net"

	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/metrics"
	"github.com/sockdog/sockdog/internal/web"
)

// serve shows over HTTP what the daemon publishes, until ctx is done; the function
// that it returns waits for that. Where nobody can listen, the watch goes on.
func (c *Config) serve(ctx context.Context, h *host.Host, o *daemon.Options) (wait func()) {
	if client.Off(c.Listen) {
		return func() {}
	}
	l, err := web.Listen(c.Listen)
	if err != nil {
		o.Log.Warn("cannot listen; there is no page and no metrics", "error", err.Error(), "cure", "--listen takes another address, or off")
		return func() {}
	}
	board := web.NewStore()
	o.StatusStore = board
	name, _, _ := net.SplitHostPort(c.Listen) // it was checked
	o.Page = page(l.Addr(), o.Host)
	origin, _ := h.Origin() // what cannot be read is empty
	ages := web.NewAges(o.Version, origin, o.Now)
	o.Ages = ages
	handler := web.Handler(board, metrics.Text, ages, append(c.ListenNames, name, o.Host)...)
	o.Log.Info("listening", "address", l.Addr().String())
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := web.Serve(ctx, l, handler, o.Log); err != nil {
			o.Log.Error("listening ended; there is no page and no metrics until a restart", "error", err.Error())
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
