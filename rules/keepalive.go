package rules

import (
	"math"
	"time"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Keepalive has the kernel ask the peer, and end the connection if that is gone.
var Keepalive = &Kind{
	Name: "keepalive", On: OnSocket, Via: ViaHolder, States: probed | retransmitting,
	Options: []Option{
		{Name: "idle", Doc: "a duration", Read: wholeSeconds},
		{Name: "interval", Doc: "a duration", Read: wholeSeconds},
		{Name: "count", Doc: "a number", Read: func(text string) (any, error) {
			n, err := document.Number(text, 1, maxKeepCount)
			return int(n), err
		}},
		{Name: "user_timeout", Doc: "a duration", Read: func(text string) (any, error) {
			d, err := ParseDuration(text)
			if err == nil && d > math.MaxInt32*time.Millisecond {
				err = message.Errorf("%s is too long: the maximum of TCP_USER_TIMEOUT is 24d", text)
			}
			return d, err
		}},
	},
}

const (
	// probed are the states in which the keepalive timer sends probes, as long as all is
	// acknowledged that was sent (tcp_keepalive_timer).
	probed = 1<<ssfilter.Established | 1<<ssfilter.CloseWait | 1<<ssfilter.FinWait2
	// retransmitting are those in which the FIN is not acknowledged: TCP_USER_TIMEOUT alone
	// counts there.
	retransmitting ssfilter.StateSet = 1<<ssfilter.FinWait1 | 1<<ssfilter.LastAck | 1<<ssfilter.Closing
)

// The bounds of the kernel: MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL and MAX_TCP_KEEPCNT.
const (
	maxKeepSeconds = 32767
	maxKeepCount   = 127
)

// wholeSeconds reads a time as TCP_KEEPIDLE and TCP_KEEPINTVL take it.
func wholeSeconds(text string) (any, error) {
	d, err := ParseDuration(text)
	switch {
	case err != nil:
		return d, err
	case d%time.Second != 0:
		return d, message.Errorf("%s is no whole number of seconds, and the kernel takes no other", text)
	case d > maxKeepSeconds*time.Second:
		return d, message.Errorf("%s is too long: the kernel takes up to 32767s", text)
	default:
		return d, nil
	}
}

// KeepaliveOptions are those of a keepalive.
type KeepaliveOptions struct {
	Idle, Interval time.Duration // TCP_KEEPIDLE, TCP_KEEPINTVL
	Count          int           // TCP_KEEPCNT
	UserTimeout    time.Duration // TCP_USER_TIMEOUT; 0: it stays as it is
}

// KeepaliveOf returns the options of a keepalive, with the defaults filled in.
func KeepaliveOf(options map[string]any) KeepaliveOptions {
	o := KeepaliveOptions{Idle: time.Minute, Interval: 10 * time.Second, Count: 6}
	if d, said := options["idle"].(time.Duration); said {
		o.Idle = d
	}
	if d, said := options["interval"].(time.Duration); said {
		o.Interval = d
	}
	if n, said := options["count"].(int); said {
		o.Count = n
	}
	o.UserTimeout, _ = options["user_timeout"].(time.Duration)
	return o
}

// gone is after how long of a peer that does not answer the kernel ends the connection. With
// TCP_USER_TIMEOUT, the number of probes does not count.
func (o *KeepaliveOptions) gone() time.Duration {
	if o.UserTimeout > 0 {
		return max(o.Idle+o.Interval, o.UserTimeout)
	}
	return o.Idle + time.Duration(o.Count)*o.Interval
}

// hasty is how soon a peer that does not answer may be taken for gone: a route may take as
// long to be found anew.
const hasty = 30 * time.Second

// lintKeepalive warns of options without an effect, and of those that end connections which
// are only held up.
func (p *parser) lintKeepalive(d *draft, a *act) {
	o := KeepaliveOf(a.Options)
	if a.given.Has("count") && o.UserTimeout > 0 {
		p.Report(a.given["count"], "with user_timeout the kernel does not count probes: it ends the connection once nothing has come from the peer for user_timeout and a probe was sent")
	}
	if o.UserTimeout > 0 && o.UserTimeout < hasty {
		p.Report(a.given["user_timeout"], "a route that is lost for %s ends a connection that has data to send: 30s or more is safer", plain(o.UserTimeout))
	} else if o.gone() < hasty {
		p.Report(a.at, "a peer that cannot be reached for %s loses its connection: 30s or more is safer", plain(o.gone()))
	}
	for i := range d.then {
		if other := &d.then[i]; other.takes() && other.After < a.After+o.gone() {
			p.Report(other.at, "keepalives take %s to tell whether the peer is gone, and this %s comes before that: give it a longer after, or leave keepalive out", plain(o.gone()), other.Kind)
		}
	}
	for _, s := range d.match {
		switch sends := s.StalledFor > 0 || s.States&^retransmitting == 0; {
		case s.Keepalive != nil && *s.Keepalive:
			p.Report(s.given["keepalive"], "these sockets have keepalives already: this changes only how often")
		case sends && o.UserTimeout == 0 && s.StalledFor > 0:
			p.Report(s.given["stalled_for"], "while data is not acknowledged the kernel sends no keepalives: give user_timeout, which counts then")
		case sends && o.UserTimeout == 0 && s.given.Wrote("state"):
			p.Report(s.given["state"], "in the state %s the FIN is not acknowledged, and the kernel sends no keepalives: give user_timeout, which counts then", s.States)
		}
	}
}
