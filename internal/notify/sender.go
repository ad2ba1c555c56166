package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
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
	post     func(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) (ahead time.Duration, err error)
	tell     func(level slog.Level, text string, attrs ...slog.Attr)

	news    chan struct{}
	leaving chan struct{}
	cancel  context.CancelFunc

	told   atomic.Uint64 // to an Alertmanager, the news up to this number has been
	down   atomic.Pointer[Down]
	said   string // in the log: the kind of what is wrong
	saidAt time.Time

	checked   *rules.Receiver
	checkedAt time.Time
	unfit     bool // it is down for what the check found

	ahead time.Duration // its clock, of ours, as it is said
	askew bool          // it is down for that
}

// courier knows what one URL is to be told next, and in what form.
type courier interface {
	// next returns the message that is due, or nil and when to ask again. At last
	// all news is due at once, and nothing else.
	next(now time.Time, last bool) (*message, time.Time)
	// well reports whether nothing is known that the URL should have been told and
	// did not take.
	well() bool
}

// message is something to tell. One about no alerts asks whether the URL takes any.
type message struct {
	body   []byte
	err    error // it could not be made
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
		s.courier = &webhook{table: r.table, pace: n.pace, sender: s, page: n.Page, receiver: r.name, format: config.Format, groups: make(map[subject]*group)}
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
			if again := s.check(ctx); again.Before(due) {
				due = again
			}
			s.rest(ctx, due)
			continue
		}
		ahead, err := s.send(ctx, m)
		if ctx.Err() != nil {
			return
		}
		s.checkedAt = time.Now()
		var failed *failure
		if err != nil && !errors.As(err, &failed) {
			failed = &failure{text: err.Error()}
		}
		if m.alerts == 0 && failed != nil && failed.final && failed.large {
			failed = nil // it has no use for a message about nothing, and is there
		}
		smaller := m.settle(time.Now(), failed)
		if err == nil && s.form == rules.Alertmanager {
			s.see(ahead.Round(time.Second))
		}
		s.note(m, failed, smaller)
		switch {
		case failed == nil:
			retry = s.pace.retry
		case last:
			return
		case failed.final && !failed.large, m.alerts == 0:
			retry = s.pace.retry // nothing is left of this message
		case failed.final || smaller:
			s.spare(ctx, s.pace.retry, failed)
		default:
			s.spare(ctx, retry, failed)
			retry = min(2*retry, s.pace.maxRetry)
		}
	}
}

// send posts a message, if there is one to post.
func (s *sender) send(ctx context.Context, m *message) (ahead time.Duration, err error) {
	if m.err != nil {
		return 0, &failure{text: m.err.Error(), final: true}
	}
	return s.post(ctx, s.config.Load(), s.to, m.body)
}

// spare leaves the receiver alone for a while. Half of it is chance, lest all who
// lost a receiver return at once. A receiver that asks for more gets that.
func (s *sender) spare(ctx context.Context, d time.Duration, failed *failure) {
	s.pause(ctx, max(d/2+rand.N(d/2+1), failed.after))
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

// note counts a message, and the receiver as lost or back.
func (s *sender) note(m *message, failed *failure, smaller bool) {
	now := time.Now()
	switch {
	case failed == nil:
		s.receiver.sent.Add(uint64(m.alerts))
	case !smaller:
		s.receiver.failed.Add(uint64(m.alerts))
	}
	switch {
	case smaller: // nothing has failed that is not tried otherwise at once
	case failed != nil:
		s.unfit, s.askew = false, false
		s.lost(now, notTaken, failed.Error(), failed.text+numbered.ReplaceAllString(failed.answer, ""))
	case isAskew(s.ahead):
		s.unfit, s.askew = false, true
		s.lost(now, "the receiver takes alerts, and has another time", s.skew(), s.skew())
	case s.askew:
		s.askew = false
		s.back(now, "the receiver has the same time again")
	case s.courier.well():
		s.back(now, "the receiver takes alerts again")
	}
}

// isAskew reports whether the clock of an Alertmanager is so far from ours that it is
// to be said: it compares the times in alerts with its own.
func isAskew(ahead time.Duration) bool { return ahead.Abs() >= time.Minute }

// see notes by how much the clock of an Alertmanager is ahead. A little more or less
// is none of it, lest something else is said with each message.
func (s *sender) see(ahead time.Duration) {
	if isAskew(ahead) != isAskew(s.ahead) || (ahead-s.ahead).Abs() > 10*time.Second {
		s.ahead = ahead
	}
}

// skew says what follows from the clock of an Alertmanager.
func (s *sender) skew() string {
	switch {
	case s.ahead >= s.pace.lapse:
		return fmt.Sprintf("its clock is %v ahead of this machine's: to it every alert has ended when it comes", s.ahead)
	case s.ahead > 0:
		return fmt.Sprintf("its clock is %v ahead of this machine's: there, what fires lapses in %v", s.ahead, s.pace.lapse-s.ahead)
	default:
		return fmt.Sprintf("its clock is %v behind this machine's: there, what has ended goes on for so long", -s.ahead)
	}
}

// check sees once a minute while there is nothing to tell, and at once after a
// reload, whether something could be told: what is amiss on this side is found
// before there is an alert. It returns when it is to be asked again.
func (s *sender) check(ctx context.Context) time.Time {
	now := time.Now()
	if config := s.config.Load(); config != s.checked || now.Sub(s.checkedAt) >= s.pace.resend {
		isNew := config != s.checked
		s.checked, s.checkedAt = config, now
		q, err := prepare(ctx, config, s.to, nil)
		if err == nil && isNew {
			if misfit := config.Misfit(q.URL); misfit != "" {
				s.say(slog.LevelWarn, "the receiver is likely to refuse alerts", slog.String("reason", misfit))
			}
		}
		switch {
		case err != nil:
			s.unfit, s.askew = true, false
			s.lost(now, notTaken, err.Error(), err.Error())
		case s.unfit:
			s.unfit = false
			s.back(now, "the receiver can be told alerts again")
		}
	}
	if !s.unfit && !s.askew && s.courier.well() {
		s.back(now, "nothing is left to tell the receiver that did not take alerts")
	}
	return s.checkedAt.Add(s.pace.resend)
}

const notTaken = "the receiver does not take alerts; what still fires is told when it does"

// lost notes that the receiver is down. The log says so once, and again when the
// reason is of another kind.
func (s *sender) lost(now time.Time, text, reason, kind string) {
	next := &Down{URL: place(s.to), Since: now, Err: reason}
	if down := s.down.Load(); down != nil {
		next.Since = down.Since
	}
	s.down.Store(next)
	if kind != s.said && (s.said == "" || now.Sub(s.saidAt) >= s.pace.resend) {
		s.said, s.saidAt = kind, now
		s.say(slog.LevelWarn, text, slog.String("error", reason))
	}
}

// numbered are words of an answer that may be other ones each time, such as the
// number of the request.
var numbered = regexp.MustCompile(`[0-9A-Za-z_.-]*[0-9][0-9A-Za-z_.-]*`)

// back notes that the receiver is not down, and says so if it was.
func (s *sender) back(now time.Time, text string) {
	if down := s.down.Load(); down != nil {
		s.down.Store(nil)
		s.said = ""
		s.say(slog.LevelInfo, text, slog.Duration("after", now.Sub(down.Since).Round(time.Second)))
	}
}

// say has a line about the receiver logged.
func (s *sender) say(level slog.Level, text string, attr slog.Attr) {
	s.tell(level, text, slog.String("receiver", s.receiver.name), slog.String("url", place(s.to)), attr)
}
