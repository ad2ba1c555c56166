// Package notify sends receivers the state of alerts: which fire and which have
// ended. What makes an alert, and what it says, is decided before.
//
// It keeps states, not messages: a receiver that was away gets what holds when it is
// back.
package notify

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/alert"
	"github.com/sockdog/sockdog/rules"
)

// Options are a Notifier's surroundings.
type Options struct {
	// Log logs a line. It must not wait for the log, which may hang: an alert must not.
	Log func(level slog.Level, text string, attrs ...slog.Attr)
	// Page is the URL that alerts name as their origin; empty: none.
	Page string
}

// pace is how often and for how long messages are sent.
type pace struct {
	gather   time.Duration // transitions are collected for this long, to go in one message
	resend   time.Duration // Alertmanager is sent firing alerts this often
	lapse    time.Duration // and takes one for resolved that it was not sent for this long
	keep     time.Duration // Alertmanager is sent resolved alerts for this long
	repeat   time.Duration // a webhook is sent firing alerts this often
	retry    time.Duration // before a message is sent again the first time; it doubles
	maxRetry time.Duration
	shutdown time.Duration // for what is left to send when sockdog ends
}

var usual = pace{
	gather:   100 * time.Millisecond,
	resend:   time.Minute,
	lapse:    5 * time.Minute,
	keep:     15 * time.Minute,
	repeat:   4 * time.Hour,
	retry:    time.Second,
	maxRetry: 30 * time.Second,
	shutdown: 500 * time.Millisecond,
}

// Notifier sends alerts to receivers, each URL by a goroutine of its own, so that
// one that is slow or dead delays no other. Its methods may be called at any
// time, and but for Close none of them waits for anything.
type Notifier struct {
	Options
	pace   pace
	post   func(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) (ahead time.Duration, err error)
	cancel context.CancelFunc
	life   context.Context // ends with the Notifier
	work   sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	receivers []*receiver // in the order of the rules file
}

// receiver is one receiver of the rules file. It outlives a reload.
type receiver struct {
	name         string
	table        *table
	senders      []*sender // replaced, never changed: one for each URL
	sent, failed atomic.Uint64
	warned       time.Time // of a full table
}

// New returns a Notifier without receivers.
func New(o Options) *Notifier { return newNotifier(o, usual) }

func newNotifier(o Options, p pace) *Notifier {
	n := &Notifier{Options: o, pace: p, post: post}
	n.life, n.cancel = context.WithCancel(context.Background())
	return n
}

// Set sets the state of alerts for one receiver. An alert that fires must be set
// again only when it has changed, and once with EndsAt when it has ended. That it
// fires or has ended is sent at once; changed annotations alone go along with the
// next message. A full table drops new alerts, and counts them. The maps of an alert
// must not change any more.
func (n *Notifier) Set(receiver string, alerts ...alert.Alert) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.find(receiver)
	if r == nil || n.closed {
		n.Log(slog.LevelError, "alert has no receiver", slog.String("receiver", receiver), slog.Int("alerts", len(alerts)))
		return
	}
	now := time.Now()
	news, dropped := r.table.set(now, alerts)
	if dropped > 0 && now.Sub(r.warned) >= n.pace.resend {
		r.warned = now
		n.Log(slog.LevelWarn, "alerts dropped: the receiver holds as many as it can",
			slog.String("receiver", receiver), slog.Uint64("dropped", dropped), slog.Int("held", maxAlerts))
	}
	if news {
		for _, s := range r.senders {
			s.wake()
		}
	}
}

func (n *Notifier) find(name string) *receiver {
	i := slices.IndexFunc(n.receivers, func(r *receiver) bool { return r.name == name })
	if i < 0 {
		return nil
	}
	return n.receivers[i]
}

// Reconfigure makes the receivers those of the rules. One whose name stays keeps
// its alerts and its counters; a URL that stays is not sent again what it has. One
// that goes is sent what is new to it, if that can be done with one try: what ends
// with a reload must be set before.
func (n *Notifier) Reconfigure(receivers []rules.Receiver) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	all := make([]*receiver, 0, len(receivers))
	for i := range receivers {
		config := receivers[i]
		r := n.find(config.Name)
		if r == nil {
			r = &receiver{name: config.Name, table: newTable()}
		}
		n.equip(r, &config)
		all = append(all, r)
	}
	for _, r := range n.receivers {
		if !slices.Contains(all, r) {
			n.equip(r, nil)
		}
	}
	n.receivers = all
}

// equip gives the receiver one sender for each URL of the configuration: the one
// that it has, if it can go on.
func (n *Notifier) equip(r *receiver, config *rules.Receiver) {
	var senders []*sender
	if config != nil {
		for _, to := range config.URLs {
			s := r.sender(config, to)
			if s == nil {
				s = n.newSender(r, config, to)
			} else {
				s.config.Store(config)
				s.wake() // to check whether it can be used
			}
			senders = append(senders, s)
		}
		r.table.serve(config.Form, n.pace, senders)
	}
	for _, s := range r.senders {
		if !slices.Contains(senders, s) {
			s.stop(s.config.Load().Timeout)
		}
	}
	r.senders = senders
}

// sender returns the one that can go on under the configuration: a URL with another
// format or routing key may lead to somebody who was sent nothing yet. Another body
// changes nothing of that.
func (r *receiver) sender(config *rules.Receiver, to rules.Source) *sender {
	for _, s := range r.senders {
		was := s.config.Load()
		if s.to == to && was.Form == config.Form && was.Format == config.Format && was.RoutingKey == config.RoutingKey {
			return s
		}
	}
	return nil
}

// Stats are the counters of a receiver since it was first configured.
type Stats struct {
	Receiver string
	// Alerts, counted for each URL and each message. A message that is sent again at
	// once in smaller ones counts with those.
	Sent, Failed uint64
	// Alerts for which there was no room, each once, and resolved ones that made room
	// before they were sent.
	Dropped uint64
	Down    []Down
}

// Down is a URL that did not take what it should have been sent, that no request can
// be made for, or whose clock differs so much that it misreads alerts.
type Down struct {
	URL   string // without its path; what says where it is, if it is a secret
	Since time.Time
	Err   string
}

// Stats returns the counters of each receiver, in the order of the rules file.
func (n *Notifier) Stats() []Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]Stats, 0, len(n.receivers))
	for _, r := range n.receivers {
		stats := Stats{Receiver: r.name, Sent: r.sent.Load(), Failed: r.failed.Load(), Dropped: r.table.drops.Load()}
		for _, s := range r.senders {
			if down := s.down.Load(); down != nil {
				stats.Down = append(stats.Down, *down)
			}
		}
		all = append(all, stats)
	}
	return all
}

// Close sends what is new to each URL with one try, within half a second or until
// ctx is done, and ends. It resolves nothing: if sockdog starts again within five
// minutes, no alert has a gap.
func (n *Notifier) Close(ctx context.Context) {
	n.mu.Lock()
	for _, r := range n.receivers {
		for _, s := range r.senders {
			s.stop(n.pace.shutdown)
		}
		r.senders = nil
	}
	n.closed = true
	n.mu.Unlock()

	gone := make(chan struct{})
	go func() {
		n.work.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	case <-time.After(n.pace.shutdown):
	}
	n.cancel()
	select {
	case <-gone:
	case <-time.After(n.pace.shutdown / 2): // a secret on a disk that hangs
	}
}
