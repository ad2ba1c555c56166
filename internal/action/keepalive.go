package action

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/rules"
)

// keepalive turns keepalive probes on for the program's own socket: the kernel asks the
// peer, and ends the connection if that is gone (tcp_keepalive_timer). What was set before
// stands in the record.
var keepalive = &Kind{
	Kind: rules.Keepalive,
	Through: func(fd int, a *engine.Action) (err error) {
		if a.Before, err = keepaliveBefore(fd); err != nil {
			return err
		}
		o := rules.KeepaliveOf(a.Options)
		set := []struct{ option, value int }{
			{unix.TCP_KEEPIDLE, int(o.Idle / time.Second)}, {unix.TCP_KEEPINTVL, int(o.Interval / time.Second)}, {unix.TCP_KEEPCNT, o.Count},
		}
		if o.UserTimeout > 0 {
			set = append(set, struct{ option, value int }{unix.TCP_USER_TIMEOUT, int(o.UserTimeout / time.Millisecond)})
		}
		for _, s := range set {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, s.option, s.value); err != nil {
				return err
			}
		}
		// Last, so that the timer begins with the others.
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	},
}

// keepaliveBefore is how a socket is set, in the kernel's names and units.
func keepaliveBefore(fd int) (before string, err error) {
	for i, o := range []struct {
		name          string
		level, option int
	}{
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},   // s
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, // s
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}, // ms
	} {
		value, err := unix.GetsockoptInt(fd, o.level, o.option)
		if err != nil {
			return "", err
		}
		if i > 0 {
			before += " "
		}
		before += fmt.Sprintf("%s=%d", o.name, value)
	}
	return before, nil
}
