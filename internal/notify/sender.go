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

// sender sends alerts to one URL, from a goroutine of its own.
type sender struct {
	notifier *Notifier
	receiver *receiver
	form     rules.Form
	format   rules.Format
	to       rules.Source
	config   atomic.Pointer[rules.Receiver]
	encoder  encoder

	news    chan struct{}   // ready when there are transitions
	leaving context.Context // done when the sender is to end
	leave   context.CancelFunc
	cancel  context.CancelFunc

	sent map[subject]uint64 // the number of the last transition that was sent; changed under table.mu, by run alone
	down atomic.Pointer[Down]

	// Only run and what it calls use these:
	trouble   trouble
	logged    string // the kind of failure that the log has named
	loggedAt  time.Time
	checked   *rules.Receiver // the configuration that check saw last
	checkedAt time.Time
	ahead     time.Duration // of an Alertmanager's clock to this machine's, as it was reported
}

// trouble says why a URL is down.
type trouble int

const (
	notTaken  trouble = iota // it did not take a message
	unusable                 // this side cannot make a request
	clockSkew                // it takes alerts, and its clock differs
)

// encoder knows which message one URL is to be sent next.
type encoder interface {
	// next returns the message that is due, or nil and when to ask again. With last,
	// all that was not sent yet is due at once, and nothing else.
	next(now time.Time, last bool) (*message, time.Time)
	// caughtUp reports whether the URL has taken all that it should have been sent.
	caughtUp() bool
}

// message is a request to send. One about no alerts asks whether the URL takes any.
type message struct {
	body   []byte
	err    error // it could not be encoded
	alerts int
	// settle notes the outcome; nil: the message was taken. It reports whether the
	// same is to be sent in smaller messages.
	settle func(now time.Time, err *failure) (smaller bool)
}

// newSender starts one.
func (n *Notifier) newSender(r *receiver, config *rules.Receiver, to rules.Source) *sender {
	s := &sender{notifier: n, receiver: r, form: config.Form, format: config.Format, to: to, news: make(chan struct{}, 1), sent: make(map[subject]uint64)}
	s.config.Store(config)
	s.leaving, s.leave = context.WithCancel(n.life)
	switch s.form {
	case rules.Alertmanager:
		s.encoder = &alertmanager{sender: s, due: time.Now().Add(n.pace.resend), limit: maxBatch}
	case rules.Webhook:
		s.encoder = &webhook{sender: s, groups: make(map[subject]*group)}
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(n.life)
	n.work.Go(func() {
		defer s.cancel()
		s.run(ctx)
	})
	return s
}

// wake tells the sender that there are transitions.
func (s *sender) wake() {
	select {
	case s.news <- struct{}{}:
	default: // it has been told
	}
}

// stop has the sender end once it has sent what is new, and in any case in time.
func (s *sender) stop(within time.Duration) {
	s.leave()
	time.AfterFunc(within, s.cancel)
}

// run sends what is due until the sender is stopped.
func (s *sender) run(ctx context.Context) {
	pace := &s.notifier.pace
	retry := pace.retry
	for ctx.Err() == nil {
		last := s.leaving.Err() != nil
		m, due := s.encoder.next(time.Now(), last)
		if m == nil {
			if last {
				return
			}
			if again := s.check(ctx); again.Before(due) {
				due = again
			}
			if s.wait(ctx, time.Until(due), s.news) {
				s.wait(ctx, pace.gather, nil)
			}
			continue
		}
		ahead, failed := s.send(ctx, m)
		if ctx.Err() != nil {
			return
		}
		s.checkedAt = time.Now()
		taken := failed == nil
		if m.alerts == 0 && failed != nil && failed.final && failed.large {
			failed = nil // it has no use for a message about nothing, and is there
		}
		smaller := m.settle(time.Now(), failed)
		if taken && s.form == rules.Alertmanager {
			s.setClock(ahead.Round(time.Second))
		}
		s.account(m, failed, smaller)
		switch {
		case failed == nil:
			retry = pace.retry
		case last:
			return
		case failed.final && !failed.large, m.alerts == 0:
			retry = pace.retry // nothing is left of this message
		case failed.final || smaller:
			s.backOff(ctx, pace.retry, failed)
		default:
			s.backOff(ctx, retry, failed)
			retry = min(2*retry, pace.maxRetry)
		}
	}
}

// send posts a message, if it could be encoded.
func (s *sender) send(ctx context.Context, m *message) (ahead time.Duration, failed *failure) {
	if m.err != nil {
		return 0, &failure{text: m.err.Error(), final: true}
	}
	ahead, err := s.notifier.post(ctx, s.config.Load(), s.to, m.body)
	if err != nil && !errors.As(err, &failed) {
		failed = &failure{text: err.Error()}
	}
	return ahead, failed
}

// backOff leaves the receiver alone for a while. Half of it is chance, so that those
// who lost a receiver do not return at once. A receiver that asks for more gets that.
func (s *sender) backOff(ctx context.Context, d time.Duration, failed *failure) {
	s.wait(ctx, max(d/2+rand.N(d/2+1), failed.after), nil)
}

// wait waits for as long, until the sender is stopped, or until wake is ready, which
// it reports.
func (s *sender) wait(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.leaving.Done():
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
		return true
	}
	return false
}

// account counts a message, and marks the URL as down or up.
func (s *sender) account(m *message, failed *failure, smaller bool) {
	switch {
	case smaller: // the same is tried otherwise at once
		return
	case failed != nil:
		s.receiver.failed.Add(uint64(m.alerts))
		s.markDown(notTaken, notDelivered, failed.Error(), failed.text+numbered.ReplaceAllString(failed.answer, ""))
		return
	}
	s.receiver.sent.Add(uint64(m.alerts))
	switch {
	case differs(s.ahead):
		s.markDown(clockSkew, "receiver clock differs", s.skew(), s.skew())
	case s.trouble == clockSkew:
		s.markUp("receiver clock agrees again")
	case s.encoder.caughtUp():
		s.markUp("receiver takes alerts again")
	}
}

// differs reports whether a clock is so far from ours that it matters to an
// Alertmanager, which compares the times in alerts with its own.
func differs(ahead time.Duration) bool { return ahead.Abs() >= time.Minute }

// setClock notes by how much the clock of an Alertmanager is ahead. A small change
// is ignored, so that the log does not change its words with each message.
func (s *sender) setClock(ahead time.Duration) {
	if differs(ahead) != differs(s.ahead) || (ahead-s.ahead).Abs() > 10*time.Second {
		s.ahead = ahead
	}
}

// skew says what follows from the clock of an Alertmanager.
func (s *sender) skew() string {
	lapse := s.notifier.pace.lapse
	switch {
	case s.ahead >= lapse:
		return fmt.Sprintf("its clock is %v ahead of this machine's: every alert has ended when it arrives", s.ahead)
	case s.ahead > 0:
		return fmt.Sprintf("its clock is %v ahead of this machine's: a firing alert lapses there in %v", s.ahead, lapse-s.ahead)
	default:
		return fmt.Sprintf("its clock is %v behind this machine's: a resolved alert goes on there for that long", -s.ahead)
	}
}

// check finds out, once a minute while nothing is due and at once after a reload,
// whether a request could be made: what is wrong on this side shows before there is
// an alert. It returns when it is to be called again.
func (s *sender) check(ctx context.Context) time.Time {
	now := time.Now()
	resend := s.notifier.pace.resend
	if config := s.config.Load(); config != s.checked || now.Sub(s.checkedAt) >= resend {
		isNew := config != s.checked
		s.checked, s.checkedAt = config, now
		q, err := prepare(ctx, config, s.to, nil)
		if err == nil && isNew {
			if misfit := config.Misfit(q.URL); misfit != "" {
				s.log(slog.LevelWarn, "receiver is likely to refuse alerts", slog.String("reason", misfit))
			}
		}
		switch {
		case err != nil:
			s.markDown(unusable, notDelivered, err.Error(), err.Error())
		case s.trouble == unusable:
			s.markUp("receiver can be sent alerts again")
		}
	}
	if s.trouble == notTaken && s.encoder.caughtUp() {
		s.markUp("receiver is no longer down; no alert is left to send")
	}
	return s.checkedAt.Add(resend)
}

const notDelivered = "alerts not delivered; firing ones are sent again"

// markDown notes that the URL is down. The log says so once, and again when the
// reason is of another kind.
func (s *sender) markDown(why trouble, text, reason, kind string) {
	now := time.Now()
	next := &Down{URL: place(s.to), Since: now, Err: reason}
	if down := s.down.Load(); down != nil {
		next.Since = down.Since
	}
	s.trouble = why
	s.down.Store(next)
	if kind != s.logged && (s.logged == "" || now.Sub(s.loggedAt) >= s.notifier.pace.resend) {
		s.logged, s.loggedAt = kind, now
		s.log(slog.LevelWarn, text, slog.String("error", reason))
	}
}

// numbered are words of an answer that may differ each time, such as the number of
// the request.
var numbered = regexp.MustCompile(`[0-9A-Za-z_.-]*[0-9][0-9A-Za-z_.-]*`)

// markUp notes that the URL is not down, and logs that if it was.
func (s *sender) markUp(text string) {
	s.trouble = notTaken
	if down := s.down.Load(); down != nil {
		s.down.Store(nil)
		s.logged = ""
		s.log(slog.LevelInfo, text, slog.Duration("after", time.Since(down.Since).Round(time.Second)))
	}
}

// log logs a line about the receiver.
func (s *sender) log(level slog.Level, text string, attr slog.Attr) {
	s.notifier.Log(level, text, slog.String("receiver", s.receiver.name), slog.String("url", place(s.to)), attr)
}
