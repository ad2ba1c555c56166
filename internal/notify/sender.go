package notify

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/rules"
)

// sender tells one URL.
type sender struct {
	receiver *receiver
	form     rules.Form
	to       rules.Source
	config   atomic.Pointer[rules.Receiver]
	courier  courier
	pace     pace
	post     func(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) error
	tell     func(level slog.Level, text string, attrs ...slog.Attr)

	news    chan struct{}
	leaving chan struct{}
	cancel  context.CancelFunc

	told   atomic.Uint64 // the news up to this number has been told
	down   atomic.Pointer[Down]
	said   string // in the log, of what is wrong
	saidAt time.Time
}

// courier knows what one URL is to be told next, and in what form.
type courier interface {
	// next returns the message that is due, or nil and when to ask again. At last
	// all news is due at once, and nothing else.
	next(now time.Time, last bool) (*message, time.Time)
}

// message is something to tell.
type message struct {
	body   []byte
	alerts int
	// settle notes how it fared; nil: it was told. It reports whether the same is to
	// be told in smaller messages.
	settle func(now time.Time, err *failure) (smaller bool)
}

// newSender starts one.
func (n *Notifier) newSender(r *receiver, config *rules.Receiver, to rules.Source) *sender {
	s := &sender{
		receiver: r,
		form:     config.Form,
		to:       to,
		pace:     n.pace,
		post:     n.post,
		tell:     n.Say,
		news:     make(chan struct{}, 1),
		leaving:  make(chan struct{}),
	}
	s.config.Store(config)
	switch s.form {
	case rules.Alertmanager:
		s.courier = &alertmanager{table: r.table, pace: n.pace, told: &s.told, page: n.Page, due: time.Now().Add(n.pace.resend), limit: maxBatch}
	case rules.Webhook:
		s.courier = &webhook{table: r.table, pace: n.pace, told: &s.told, page: n.Page, receiver: r.name, groups: make(map[string]*group)}
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(n.life)
	n.work.Go(func() {
		defer s.cancel()
		s.run(ctx)
	})
	return s
}

// poke says that there is news.
func (s *sender) poke() {
	select {
	case s.news <- struct{}{}:
	default: // it has been said
	}
}

// dismiss has the sender end once it has told the news, and in any case in time.
func (s *sender) dismiss(within time.Duration) {
	close(s.leaving)
	time.AfterFunc(within, s.cancel)
}

func (s *sender) dismissed() bool {
	select {
	case <-s.leaving:
		return true
	default:
		return false
	}
}

// run tells what is due until the sender is dismissed.
func (s *sender) run(ctx context.Context) {
	retry := s.pace.retry
	for ctx.Err() == nil {
		last := s.dismissed()
		m, due := s.courier.next(time.Now(), last)
		if m == nil {
			if last {
				return
			}
			s.rest(ctx, due)
			continue
		}
		err := s.post(ctx, s.config.Load(), s.to, m.body)
		if ctx.Err() != nil {
			return
		}
		s.note(m, err)
		var failed *failure
		if err != nil && !errors.As(err, &failed) {
			failed = &failure{}
		}
		smaller := m.settle(time.Now(), failed)
		switch {
		case err == nil:
			retry = s.pace.retry
		case last:
			return
		case failed.final && !failed.large:
			retry = s.pace.retry // nothing is left of this message
		case failed.final || smaller:
			s.back(ctx, s.pace.retry, failed)
		default:
			s.back(ctx, retry, failed)
			retry = min(2*retry, s.pace.maxRetry)
		}
	}
}

// back leaves the receiver alone for a while. Half of it is chance, lest all who
// lost a receiver return at once. A receiver that asks for more gets that, but
// alerts must not lapse.
func (s *sender) back(ctx context.Context, d time.Duration, failed *failure) {
	s.pause(ctx, max(d/2+rand.N(d/2+1), min(failed.after, s.pace.resend)))
}

// rest waits until due or until there is news, and then a little for more of it.
func (s *sender) rest(ctx context.Context, due time.Time) {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.leaving:
	case <-timer.C:
	case <-s.news:
		s.pause(ctx, s.pace.gather)
	}
}

// pause waits, unless the sender is dismissed.
func (s *sender) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.leaving:
	case <-timer.C:
	}
}

// note counts a message, and says in the log when the receiver is lost or back.
func (s *sender) note(m *message, err error) {
	down := s.down.Load()
	now := time.Now()
	if err == nil {
		s.receiver.sent.Add(uint64(m.alerts))
		if down != nil {
			s.down.Store(nil)
			s.said = ""
			s.say(slog.LevelInfo, "the receiver takes alerts again", slog.Duration("after", now.Sub(down.Since).Round(time.Second)))
		}
		return
	}
	s.receiver.failed.Add(uint64(m.alerts))
	next := &Down{URL: place(s.to), Since: now, Err: err.Error()}
	if down != nil {
		next.Since = down.Since
	}
	s.down.Store(next)
	if next.Err != s.said && (s.said == "" || now.Sub(s.saidAt) >= s.pace.resend) {
		s.said, s.saidAt = next.Err, now
		s.say(slog.LevelWarn, "the receiver does not take alerts; what still fires is told when it does", slog.String("error", next.Err))
	}
}

// say has a line about the receiver logged.
func (s *sender) say(level slog.Level, text string, attr slog.Attr) {
	s.tell(level, text, slog.String("receiver", s.receiver.name), slog.String("url", place(s.to)), attr)
}
