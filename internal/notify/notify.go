// Package notify keeps receivers told which alerts fire and which have ended. It
// keeps states, not messages: a receiver that was away is told what is so when it
// is back. What makes an alert, and what it says, is not its business.
package notify

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/rules"
)

// Alert is the state of one alert, which its labels identify.
type Alert struct {
	Labels, Annotations map[string]string // must not be changed once they are set
	StartsAt            time.Time
	EndsAt              time.Time // zero while it fires
}

func (a *Alert) firing() bool { return a.EndsAt.IsZero() }

// Options are a Notifier's surroundings.
type Options struct {
	// Say has a line logged. It must not wait for the log, which may hang: an alert
	// must not.
	Say func(level slog.Level, text string, attrs ...slog.Attr)
	// Page is the URL that alerts name as their origin; empty: none.
	Page string
}

// pace is how often things are told.
type pace struct {
	gather   time.Duration // news is collected for this long, to go in one message
	resend   time.Duration // what fires is told again this often, lest it lapse
	lapse    time.Duration // unless told again, what fires has ended after this
	keep     time.Duration // what has ended is told again for this long
	repeat   time.Duration // a webhook is told again this often what still fires
	retry    time.Duration // before a message is sent again the first time; it doubles
	maxRetry time.Duration
	farewell time.Duration // what is left to say when sockdog ends gets this long
}

var usual = pace{
	gather:   100 * time.Millisecond,
	resend:   time.Minute,
	lapse:    5 * time.Minute,
	keep:     15 * time.Minute,
	repeat:   4 * time.Hour,
	retry:    time.Second,
	maxRetry: 30 * time.Second,
	farewell: 500 * time.Millisecond,
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
	complained   time.Time // of a full table
}

// New returns a Notifier without receivers.
func New(o Options) *Notifier { return newNotifier(o, usual) }

func newNotifier(o Options, p pace) *Notifier {
	n := &Notifier{Options: o, pace: p, post: post}
	n.life, n.cancel = context.WithCancel(context.Background())
	return n
}

// Set says how alerts stand for one receiver. One that fires must be set again
// only when it has changed, and once with EndsAt when it has ended. That it
// fires or has ended is told at once; changed annotations alone go along with the
// next message. A full table drops what is new, and counts it.
func (n *Notifier) Set(receiver string, alerts ...Alert) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.find(receiver)
	if r == nil || n.closed {
		n.Say(slog.LevelError, "an alert has nobody to go to", slog.String("receiver", receiver), slog.Int("alerts", len(alerts)))
		return
	}
	now := time.Now()
	news, dropped := r.table.set(now, alerts)
	if dropped > 0 && now.Sub(r.complained) >= n.pace.resend {
		r.complained = now
		n.Say(slog.LevelWarn, "alerts are dropped: the receiver has as many as it can hold",
			slog.String("receiver", receiver), slog.Uint64("dropped", dropped), slog.Int("held", maxAlerts))
	}
	if news {
		for _, s := range r.senders {
			s.poke()
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
// its alerts and its counters; a URL that stays is not told again what it knows.
// One that goes is told the news that it has not heard, if that can be done with
// one try: what ends with a reload must be set before.
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
				s.poke() // to see whether it can be used
			}
			senders = append(senders, s)
		}
		r.table.serve(config.Form, n.pace, senders)
	}
	for _, s := range r.senders {
		if !slices.Contains(senders, s) {
			s.dismiss(s.config.Load().Timeout)
		}
	}
	r.senders = senders
}

// sender is the one that tells whom the configuration means by a URL: whoever gets
// another format, or is reached with another key, may know nothing yet. Who gets
// another body does.
func (r *receiver) sender(config *rules.Receiver, to rules.Source) *sender {
	for _, s := range r.senders {
		was := s.config.Load()
		if s.to == to && was.Form == config.Form && was.Format == config.Format && was.RoutingKey == config.RoutingKey {
			return s
		}
	}
	return nil
}

// Result is how a receiver has fared since it was first configured.
type Result struct {
	Receiver string
	// Alerts, counted for each URL and each time they are told: handed over, not
	// handed over. What is told at once in smaller messages counts with those.
	Sent, Failed uint64
	// Alerts that were not taken in because there were too many, each once, and ends
	// that made room before they were told.
	Dropped uint64
	Down    []Down
}

// Down is a URL that does not get all that it is to be told, cannot be told anything
// as things stand, or takes alerts for something else because its clock is not ours.
type Down struct {
	URL   string // without its path; what says where it is, if it is a secret
	Since time.Time
	Err   string
}

// Results returns how each receiver fares, in the order of the rules file.
func (n *Notifier) Results() []Result {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]Result, 0, len(n.receivers))
	for _, r := range n.receivers {
		result := Result{Receiver: r.name, Sent: r.sent.Load(), Failed: r.failed.Load(), Dropped: r.table.dropped()}
		for _, s := range r.senders {
			if down := s.down.Load(); down != nil {
				result.Down = append(result.Down, *down)
			}
		}
		all = append(all, result)
	}
	return all
}

// Close tells what is new to whoever can be told with one try, within half a
// second or until ctx is done, and ends. What fires goes on firing: whoever
// starts sockdog again within five minutes sees no gap.
func (n *Notifier) Close(ctx context.Context) {
	n.mu.Lock()
	for _, r := range n.receivers {
		for _, s := range r.senders {
			s.dismiss(n.pace.farewell)
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
	case <-time.After(n.pace.farewell):
	}
	n.cancel()
	select {
	case <-gone:
	case <-time.After(n.pace.farewell / 2): // a secret on a disk that hangs
	}
}
