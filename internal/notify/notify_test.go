package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sockdog/sockdog/internal/alert"
	"github.com/sockdog/sockdog/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet(slog.Level, string, ...slog.Attr) {}

// world stands in for all receivers: it remembers what it is sent, and answers
// as it is told to. Its clock is that of a synctest bubble.
type world struct {
	t     *testing.T
	start time.Time
	*Notifier

	mu     sync.Mutex
	log    []string
	ahead  time.Duration // the receivers' clocks
	sent   []sent
	answer func(to string) error   // nil: all is taken
	refuse func(body []byte) error // nil: all is taken
}

// sent is one message as it came in.
type sent struct {
	at     time.Duration
	to     string
	alerts []postableAlert // to an Alertmanager
	note   notification    // to a webhook
}

// inBubble runs test with a Notifier in a synctest bubble.
func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, start: time.Now(), Notifier: newNotifier(Options{Page: "http://here/"}, usual)}
		w.Log = w.note
		w.post = w.take
		defer w.Close(t.Context())
		test(t, w)
	})
}

func (w *world) note(level slog.Level, text string, attrs ...slog.Attr) {
	line := level.String() + " " + text
	for _, a := range attrs {
		if a.Key == "error" || a.Key == "reason" {
			line += ": " + a.Value.String()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, line)
}

// said lets time pass, and holds the log to what was to be said since the last
// call, and the receivers' state to whether one is down.
func (w *world) said(after time.Duration, down bool, lines ...string) {
	w.t.Helper()
	time.Sleep(after)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff(lines, w.log); diff != "" {
		w.t.Errorf("said within %v, at %v (-want +got):\n%s", after, time.Since(w.start), diff)
	}
	w.log = nil
	is := 0
	for _, r := range w.Stats() {
		is += len(r.Down)
	}
	if is > 1 || (is == 1) != down {
		w.t.Errorf("at %v %d are down, and one should be: %v", time.Since(w.start), is, down)
	}
}

// take is what happens instead of a post.
func (w *world) take(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) (time.Duration, error) {
	err := w.receive(ctx, r, to, body)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ahead, err
}

func (w *world) receive(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) error {
	w.mu.Lock()
	answer, refuse := w.answer, w.refuse
	w.mu.Unlock()
	if refuse != nil {
		if err := refuse(body); err != nil {
			return err
		}
	}
	if answer != nil {
		if err := answer(to.Text); err != nil {
			if errors.Is(err, errHang) {
				select {
				case <-ctx.Done():
				case <-time.After(r.Timeout):
				}
			}
			return err
		}
	}
	s := sent{at: time.Since(w.start), to: to.Text}
	var err error
	if string(body) == "[]" {
		return nil
	}
	if r.Form == rules.Alertmanager {
		err = json.Unmarshal(body, &s.alerts)
	} else {
		err = json.Unmarshal(body, &s.note)
	}
	if err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, s)
	return nil
}

func (w *world) answering(answer func(to string) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

// configure makes these the receivers, and lets their senders settle.
func (w *world) configure(receivers ...rules.Receiver) {
	w.Reconfigure(receivers)
	synctest.Wait()
}

// after lets time pass, and returns what was sent since the last call as lines.
func (w *world) after(d time.Duration) []string {
	w.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, s := range w.sent {
		var what []string
		for _, a := range s.alerts {
			ends := a.EndsAt.Sub(w.start)
			what = append(what, fmt.Sprintf("%s from %v to %v", a.Labels["n"], a.StartsAt.Sub(w.start), ends))
		}
		for _, a := range s.note.Alerts {
			what = append(what, a.Labels["n"]+" "+a.Status)
		}
		slices.Sort(what)
		if s.note.Version != "" {
			what = append([]string{s.note.GroupLabels["alertname"] + " " + s.note.Status}, what...)
		}
		lines = append(lines, fmt.Sprintf("%v %s: %s", s.at, s.to, strings.Join(what, ", ")))
	}
	w.sent = nil
	return lines
}

func (w *world) want(after time.Duration, lines ...string) {
	w.t.Helper()
	if diff := cmp.Diff(lines, w.after(after)); diff != "" {
		w.t.Errorf("sent within %v, at %v (-want +got):\n%s", after, time.Since(w.start), diff)
	}
}

func (w *world) results(want ...Stats) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.Stats()); diff != "" {
		w.t.Errorf("results (-want +got):\n%s", diff)
	}
}

func (w *world) fire(receiver string, names ...string) {
	var alerts []alert.Alert
	for _, n := range names {
		alerts = append(alerts, alert.Alert{Labels: labels(n), StartsAt: time.Now()})
	}
	w.Set(receiver, alerts...)
}

func (w *world) end(receiver string, names ...string) {
	var alerts []alert.Alert
	for _, n := range names {
		alerts = append(alerts, alert.Alert{Labels: labels(n), StartsAt: w.start, EndsAt: time.Now()})
	}
	w.Set(receiver, alerts...)
}

// labels are those of the alert of that name, whose first letter is the rule's.
func labels(name string) map[string]string {
	return map[string]string{"alertname": name[:1], "n": name}
}

func to(form rules.Form, name string, urls ...string) rules.Receiver {
	r := rules.Receiver{Name: name, Form: form, Timeout: 10 * time.Second}
	for _, u := range urls {
		r.URLs = append(r.URLs, rules.Source{Text: u})
	}
	return r
}

var (
	errDown     = &failure{text: "down"}
	errHang     = &failure{text: "hang"}
	errBad      = &failure{text: "bad", final: true}
	errHangUp   = &failure{text: "hangs up", large: true}
	errTooLarge = &failure{text: "too large", final: true, large: true}
)

func TestAlertmanager(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		w.want(10 * time.Second)
		w.fire("oncall", "a1")
		time.Sleep(50 * time.Millisecond)
		w.fire("oncall", "b1")
		w.want(time.Second, "10.1s am: a1 from 10s to 5m10.1s, b1 from 10.05s to 5m10.1s") // together, at once

		w.want(110*time.Second, // and each minute
			"1m0s am: a1 from 10s to 6m0s, b1 from 10.05s to 6m0s",
			"2m0s am: a1 from 10s to 7m0s, b1 from 10.05s to 7m0s",
		)
		w.want(29*time.Second - 50*time.Millisecond)
		w.end("oncall", "a1")
		w.want(time.Second, "2m30.1s am: a1 from 0s to 2m30s")
		for m := 3; m <= 17; m++ { // a quarter of an hour
			w.want(time.Minute, fmt.Sprintf("%[1]dm0s am: a1 from 0s to 2m30s, b1 from 10.05s to %[2]dm0s", m, m+5))
		}
		w.want(time.Minute, "18m0s am: b1 from 10.05s to 23m0s")

		w.fire("oncall", "a1") // again, which is news
		w.want(time.Second, "18m31.1s am: a1 from 18m31s to 23m31.1s")
		w.results(Stats{Receiver: "oncall", Sent: 2 + 2*2 + 1 + 2*15 + 1 + 1})
	})
}

func TestChangedAnnotationsAreNoNews(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		w.Set("oncall", alert.Alert{Labels: labels("a1"), StartsAt: w.start, Annotations: map[string]string{"count": "1"}})
		w.want(time.Second, "100ms am: a1 from 0s to 5m0.1s")
		w.Set("oncall", alert.Alert{Labels: labels("a1"), StartsAt: w.start, Annotations: map[string]string{"count": "2"}})
		w.want(58 * time.Second)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := w.sent[0].alerts[0].Annotations["count"]; got != "2" {
			t.Errorf("count is %s at the next message, want 2", got)
		}
	})
}

func TestClockSetBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		w.Set("oncall", alert.Alert{Labels: labels("a1"), StartsAt: w.start.Add(time.Hour)}, alert.Alert{Labels: labels("a2"), StartsAt: w.start.Add(time.Hour), EndsAt: w.start},
			alert.Alert{Labels: labels("a3"), StartsAt: w.start, EndsAt: w.start.Add(time.Hour)})
		w.want(time.Second, "100ms am: a1 from 5m0.1s to 5m0.1s, a2 from 0s to 0s, a3 from 0s to 100ms")
	})
}

// That the clock of an Alertmanager is another is said once, although it never is by
// the same, and fails no message. A chat is told times by people's reckoning.
func TestClockOfReceiver(t *testing.T) {
	const clockDiffers = "WARN receiver clock differs: its clock is "
	tests := []struct {
		ahead time.Duration
		want  string
	}{
		{30 * time.Second, ""},
		{2 * time.Minute, "2m0s ahead of this machine's: a firing alert lapses there in 3m0s"},
		{time.Hour, "1h0m0s ahead of this machine's: every alert has ended when it arrives"},
		{-7 * time.Minute, "7m0s behind this machine's: a resolved alert goes on there for that long"},
	}
	for _, tt := range tests {
		t.Run(tt.ahead.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.configure(to(rules.Alertmanager, "oncall", "am"), to(rules.Webhook, "chat", "hook"))
				clock := func(ahead time.Duration) {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.ahead = ahead
				}
				clock(tt.ahead)
				w.fire("oncall", "a1")
				w.fire("chat", "a1")
				if tt.want == "" {
					w.said(time.Minute, false)
					return
				}
				w.said(time.Second, true, clockDiffers+tt.want)
				for i := range 20 {
					clock(tt.ahead + time.Duration(i%3)*time.Second)
					w.said(time.Minute, true)
				}
				if r := w.Stats()[0]; r.Failed > 0 || r.Sent < 20 || r.Down[0].Err != "its clock is "+tt.want {
					t.Errorf("results %+v, want 20 sent and what its clock is", r)
				}
				clock(0)
				w.said(time.Minute, false, "INFO receiver clock agrees again")
			})
		})
	}
}

// A clock that goes wrong little by little is seen as soon as one that is wrong at
// once, and what is said of it stays about right.
func TestClockDrifts(t *testing.T) {
	steps := []struct {
		ahead int // seconds
		want  string
	}{
		{0, ""}, {31, ""}, {59, ""}, {60, "1m0s ahead"}, {61, "1m0s ahead"}, {75, "1m15s ahead"}, {91, "1m31s ahead"},
		{65, "1m5s ahead"}, {61, "1m5s ahead"}, {59, ""}, {31, ""}, {-31, ""}, {-61, "1m1s behind"}, {-59, ""},
		{30, ""}, {61, "1m1s ahead"}, {-61, "1m1s behind"}, {0, ""},
	}
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		for i, step := range steps {
			w.mu.Lock()
			w.ahead = time.Duration(step.ahead) * time.Second
			w.mu.Unlock()
			time.Sleep(time.Minute)
			synctest.Wait()
			got := ""
			for _, d := range w.Stats()[0].Down {
				got = d.Err
			}
			if !strings.HasPrefix(got, "its clock is "+step.want+" ") && got != step.want {
				t.Errorf("step %d, %ds: %q, want %q", i, step.ahead, got, step.want)
			}
		}
	})
}

// News that comes faster than it can be told keeps nothing from being repeated in
// time.
func TestSlowReceiver(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.answering(func(string) error {
			time.Sleep(3 * time.Second)
			return nil
		})
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		w.fire("oncall", "lasts")
		for range 150 {
			w.fire("oncall", "flaps")
			time.Sleep(2 * time.Second)
			w.end("oncall", "flaps")
			time.Sleep(2 * time.Second)
		}
		w.answering(nil)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		var told time.Duration
		for _, s := range w.sent {
			if !slices.ContainsFunc(s.alerts, func(a postableAlert) bool { return a.Labels["n"] == "lasts" }) {
				continue
			}
			if gap := s.at - told; gap > 75*time.Second {
				t.Errorf("after it was told at %v it was not told again for %v", told, gap)
			}
			told = s.at
		}
		if gap := time.Since(w.start) - told; gap > 75*time.Second {
			t.Errorf("after it was told at %v it was not told again", told)
		}
	})
}

// A dead replica delays no other, and is told what still fires when it is back.
func TestOneReplicaDown(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am0", "am1"))
		w.answering(func(to string) error {
			if to == "am1" {
				return errHang
			}
			return nil
		})
		w.fire("oncall", "a1", "a2")
		w.want(time.Second, "100ms am0: a1 from 0s to 5m0.1s, a2 from 0s to 5m0.1s")
		w.end("oncall", "a2")
		w.want(time.Second, "1.1s am0: a2 from 0s to 1s")
		for m := 1; m <= 15; m++ {
			w.want(time.Minute, fmt.Sprintf("%[1]dm0s am0: a1 from 0s to %[2]dm0s, a2 from 0s to 1s", m, m+5))
		}
		w.fire("oncall", "a3")
		synctest.Wait()
		w.want(time.Second, "15m2.1s am0: a3 from 15m2s to 20m2.1s")
		down := w.Stats()[0].Down
		if len(down) != 1 || down[0].Err != "hang" || time.Since(down[0].Since) < 14*time.Minute {
			t.Errorf("down: %+v", down)
		}

		w.answering(nil)
		lines := w.after(30*time.Second + 10*time.Second)
		all := strings.Join(lines, "\n")
		if !strings.Contains(all, "am1: a1 from 0s") || !strings.Contains(all, "a3 from 15m2s") || strings.Contains(all, "a2") {
			t.Errorf("once it is back: %q; want a1 and a3, of which it has not heard, and not a2, which ended long ago", lines)
		}
	})
}

func TestRetries(t *testing.T) {
	attempts := func(t *testing.T, w *world, err error, during time.Duration) []time.Duration {
		var at []time.Duration
		w.answering(func(string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			at = append(at, time.Since(w.start))
			return err
		})
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		w.fire("oncall", "a1")
		w.want(during)
		w.mu.Lock()
		defer w.mu.Unlock()
		return at
	}
	tests := map[string]struct {
		err    error
		during time.Duration
		gaps   [][2]time.Duration // least and most
	}{
		"longer and longer": {errDown, time.Minute + 50*time.Second, [][2]time.Duration{
			{500 * time.Millisecond, time.Second}, {time.Second, 2 * time.Second}, {2 * time.Second, 4 * time.Second},
			{4 * time.Second, 8 * time.Second}, {8 * time.Second, 16 * time.Second}, {15 * time.Second, 30 * time.Second}, {15 * time.Second, 30 * time.Second},
		}},
		"as it asks":                {&failure{text: "429", after: 20 * time.Second}, 50 * time.Second, [][2]time.Duration{{20 * time.Second, 20 * time.Second}, {20 * time.Second, 20 * time.Second}}},
		"but alerts must not lapse": {&failure{text: "429", after: retryAfter("3600", time.Time{})}, 3 * time.Minute, [][2]time.Duration{{time.Minute, time.Minute}, {time.Minute, time.Minute}}},
		"not what it will not take": {errBad, 150 * time.Second, [][2]time.Duration{{59 * time.Second, time.Minute}, {time.Minute, time.Minute}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				at := attempts(t, w, tt.err, tt.during)
				if len(at) < len(tt.gaps)+1 {
					t.Fatalf("attempts at %v, want %d", at, len(tt.gaps)+1)
				}
				for i, bounds := range tt.gaps {
					if gap := at[i+1] - at[i]; gap < bounds[0] || gap > bounds[1] {
						t.Errorf("gap %d is %v, want %v to %v", i, gap, bounds[0], bounds[1])
					}
				}
				w.results(Stats{Receiver: "oncall", Failed: uint64(len(at)), Down: []Down{{URL: "://", Since: w.start.Add(at[0]), Err: tt.err.Error()}}})
			})
		})
	}
}

func TestWebhook(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Webhook, "chat", "hook"))
		w.fire("chat", "a1", "b1")
		w.want(time.Second, "100ms hook: a firing, a1 firing", "100ms hook: b firing, b1 firing")
		w.fire("chat", "a2")
		w.end("chat", "b1")
		w.fire("chat", "c1")
		w.want(time.Second, "1.1s hook: c firing, c1 firing") // a rule that was silent is told at once
		w.want(59*time.Second, "1m0.1s hook: a firing, a1 firing, a2 firing", "1m0.1s hook: b resolved, b1 resolved")
		w.want(2 * time.Minute)
		w.end("chat", "a1")
		w.want(time.Second, "3m1.1s hook: a firing, a1 resolved, a2 firing")
		w.want(4*time.Hour, "4h0m1.1s hook: c firing, c1 firing", "4h3m1.1s hook: a firing, a2 firing")
		w.end("chat", "a2", "c1")
		w.want(24*time.Hour, "4h3m2.1s hook: c resolved, c1 resolved", "4h4m1.1s hook: a resolved, a2 resolved")
		if n := len(w.receivers[0].table.byLabels); n != 0 {
			t.Errorf("%d alerts are still held", n)
		}
		w.results(Stats{Receiver: "chat", Sent: 12})
	})
}

func TestWebhookDown(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Webhook, "chat", "hook"))
		w.fire("chat", "a1", "a2")
		w.want(time.Second, "100ms hook: a firing, a1 firing, a2 firing")
		w.answering(func(string) error { return errDown })
		w.end("chat", "a1")
		w.fire("chat", "b1", "c1")
		w.want(time.Hour)
		w.end("chat", "b1")
		w.want(time.Minute)
		w.answering(nil)
		got := w.after(30 * time.Second)
		for i := range got {
			_, got[i], _ = strings.Cut(got[i], " ") // the time is up to chance
		}
		// That b fired is told with its end: it may explain what was seen meanwhile.
		want := []string{"hook: a firing, a1 resolved, a2 firing", "hook: b resolved, b1 resolved", "hook: c firing, c1 firing"}
		slices.Sort(got) // whose turn it is is up to chance, too
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("once it is back (-want +got):\n%s", diff)
		}
		w.want(time.Hour)
	})
}

// A rule that comes and goes is told of no more often than each minute.
func TestWebhookFlaps(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Webhook, "chat", "hook"))
		w.fire("chat", "a1")
		w.want(time.Minute, "100ms hook: a firing, a1 firing")
		w.end("chat", "a1")
		w.want(time.Second, "1m0.1s hook: a resolved, a1 resolved")
		w.fire("chat", "b1") // when nothing is left of the other rule
		w.want(time.Second, "1m1.1s hook: b firing, b1 firing")
		for range 20 {
			w.fire("chat", "a1")
			time.Sleep(time.Second)
			w.end("chat", "a1")
			time.Sleep(time.Second)
		}
		w.want(10 * time.Second)
		w.fire("chat", "a1")
		w.want(time.Hour, "2m0.1s hook: a firing, a1 firing")
	})
}

// What one URL has heard is not told it again because another has not.
func TestWebhookOneDown(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Webhook, "chat", "hook0", "hook1"))
		w.answering(func(to string) error {
			if to == "hook1" {
				return errDown
			}
			return nil
		})
		w.fire("chat", "a1", "a2")
		w.want(time.Minute, "100ms hook0: a firing, a1 firing, a2 firing")
		w.end("chat", "a1")
		w.want(time.Minute, "1m0.1s hook0: a firing, a1 resolved, a2 firing")
		w.fire("chat", "a3")
		w.want(time.Minute, "2m0.1s hook0: a firing, a2 firing, a3 firing")
	})
}

// A webhook that takes no message about one rule hears of the others.
func TestWebhookRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Webhook, "chat", "hook"))
		first := true
		w.answering(func(string) error {
			if first {
				first = false
				return errBad
			}
			return nil
		})
		w.fire("chat", "a1", "b1")
		w.want(30*time.Second, "100ms hook: b firing, b1 firing")
		w.want(time.Minute, "1m0.1s hook: a firing, a1 firing")
	})
}

// So it does where each try ends as if the receiver were down.
func TestWebhookFailsOnOneRule(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.post = func(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) (time.Duration, error) {
			if bytes.Contains(body, []byte(`"alertname":"a"`)) {
				return 0, errDown
			}
			return w.take(ctx, r, to, body)
		}
		w.configure(to(rules.Webhook, "chat", "hook"))
		w.fire("chat", "a1", "b1", "c1")
		got := w.after(time.Minute)
		for i := range got {
			_, got[i], _ = strings.Cut(got[i], " ") // the time is up to chance
		}
		want := []string{"hook: b firing, b1 firing", "hook: c firing, c1 firing"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("of the other rules (-want +got):\n%s", diff)
		}
	})
}

// refusing has messages fail that are larger than that, or hold one of the alerts.
func (w *world) refusing(size int, err error, names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = func(body []byte) error {
		if len(body) > size || slices.ContainsFunc(names, func(n string) bool { return bytes.Contains(body, []byte(`"n":"`+n+`"`)) }) {
			return err
		}
		return nil
	}
}

// fireLarge has n alerts fire with so many bytes each.
func (w *world) fireLarge(receiver string, n, size int) {
	for i := range n {
		w.Set(receiver, alert.Alert{Labels: labels(fmt.Sprint("a", i)), StartsAt: time.Now(), Annotations: map[string]string{"description": strings.Repeat("x", size)}})
	}
}

// told counts the alerts that were sent to an Alertmanager within d, and the
// messages.
func (w *world) told(d time.Duration) (alerts map[string]int, messages int) {
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	alerts = map[string]int{}
	for _, s := range w.sent {
		for _, a := range s.alerts {
			alerts[a.Labels["n"]]++
		}
	}
	messages, w.sent = len(w.sent), nil
	return alerts, messages
}

// What is too large for a proxy on the way is told in smaller messages, and in
// larger ones again where they get through.
func TestLargeMessages(t *testing.T) {
	for _, err := range []error{errHangUp, errTooLarge} {
		t.Run(err.Error(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.refusing(100<<10, err)
				w.configure(to(rules.Alertmanager, "oncall", "am"))
				w.fireLarge("oncall", 20, 8<<10)
				if alerts, messages := w.told(3 * time.Second); len(alerts) != 20 || messages > 3 {
					t.Errorf("%d alerts were told at once, in %d messages, want 20 in 3", len(alerts), messages)
				}
				w.told(62 * time.Second)
				for range 3 {
					if alerts, messages := w.told(time.Minute); len(alerts) != 20 || messages > 4 {
						t.Errorf("%d alerts were repeated, in %d messages, want 20 in 4", len(alerts), messages)
					}
				}
				w.refusing(1<<20, err)
				w.told(10 * time.Minute)
				if alerts, messages := w.told(time.Minute); len(alerts) != 20 || messages != 1 {
					t.Errorf("later %d alerts were repeated, in %d messages, want 20 in one", len(alerts), messages)
				}
				w.said(0, false) // nothing was lost by that
			})
		})
	}
}

// What is too large and told in smaller messages has not failed, and what is found
// of a limit on the way is not forgotten with the next message.
func TestLimitIsKept(t *testing.T) {
	for _, err := range []error{errHangUp, errTooLarge} {
		t.Run(err.Error(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.refusing(20<<10, err)
				refused, refuse := 0, w.refuse
				w.refuse = func(body []byte) error {
					err := refuse(body)
					if err != nil {
						refused++
					}
					return err
				}
				w.configure(to(rules.Alertmanager, "oncall", "am"))
				w.fireLarge("oncall", 1000, 200)
				for range 30 {
					if alerts, _ := w.told(70 * time.Second); len(alerts) != 1000 {
						t.Errorf("at %v %d alerts were told, want 1000", time.Since(w.start), len(alerts))
					}
				}
				w.said(0, false)
				r := w.Stats()[0]
				if r.Failed > 0 {
					t.Errorf("%d alerts have failed, and none has", r.Failed)
				}
				if most := int(r.Sent) / 40 / 6; refused > most { // 40 in a message
					t.Errorf("%d messages were refused, want %d at most", refused, most)
				}
			})
		})
	}
}

// No message is larger than a quarter of a megabyte but for one alert that is.
func TestMessagesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.refusing(maxBody+1, errBad)
		w.configure(to(rules.Alertmanager, "oncall", "am"), to(rules.Webhook, "chat", "hook"))
		w.fireLarge("oncall", 100, 8<<10)
		w.fireLarge("chat", 100, 8<<10)
		w.want(0)
		time.Sleep(time.Second)
		synctest.Wait()
		told := 0
		for _, s := range w.sent {
			if told += len(s.alerts); s.to == "hook" && len(s.note.Alerts)+s.note.TruncatedAlerts != 100 {
				t.Errorf("the webhook was told of %d alerts and %d that are left out, want 100", len(s.note.Alerts), s.note.TruncatedAlerts)
			}
		}
		if told != 100 || len(w.sent) != 5 {
			t.Errorf("%d alerts told in %d messages, want 100 in four and the webhook's", told, len(w.sent))
		}
		w.refusing(1<<20, errBad)
		w.Reconfigure([]rules.Receiver{to(rules.Alertmanager, "other", "am")})
		w.told(time.Second)
		w.fireLarge("other", 1, 512<<10)
		if alerts, _ := w.told(time.Second); len(alerts) != 1 {
			t.Error("one that is larger was not told")
		}
	})
}

// An alert that no message gets through with keeps no others, and is tried again
// each minute.
func TestOneThatFails(t *testing.T) {
	for _, err := range []error{errHangUp, errTooLarge} {
		t.Run(err.Error(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.refusing(1<<20, err, "a7", "a12")
				w.configure(to(rules.Alertmanager, "oncall", "am"))
				w.fireLarge("oncall", 20, 10)
				if alerts, _ := w.told(40 * time.Second); len(alerts) != 18 {
					t.Errorf("%d alerts were told at first, want 18", len(alerts))
				}
				w.told(20 * time.Second)
				for range 10 {
					if alerts, messages := w.told(75 * time.Second); len(alerts) != 18 || messages > 45 { // of up to three repetitions
						t.Errorf("%d alerts were repeated, with %d messages, want 18 with few", len(alerts), messages)
					}
				}
				w.fire("oncall", "b1")
				if alerts, _ := w.told(2 * time.Second); alerts["b1"] == 0 {
					t.Error("news was not told at once")
				}
				w.refusing(1<<20, nil)
				if alerts, _ := w.told(time.Minute); len(alerts) != 21 {
					t.Errorf("%d alerts were told once all get through, want 21", len(alerts))
				}
			})
		})
	}
}

// Where a proxy answers for an Alertmanager that is away, all is told as soon as it
// is back, and nothing has lapsed if that was within four minutes.
func TestAwayBehindProxy(t *testing.T) {
	for _, away := range []time.Duration{3 * time.Second, 10 * time.Second, time.Minute, 4 * time.Minute, time.Hour} {
		t.Run(away.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.configure(to(rules.Alertmanager, "oncall", "am"))
				w.fireLarge("oncall", 5, 10)
				w.told(59 * time.Second)
				w.refusing(0, errHangUp)
				w.fire("oncall", "b1", "b2", "b3")
				if alerts, _ := w.told(away); len(alerts) > 0 {
					t.Error("told while it was away")
				}
				w.refusing(1<<20, nil)
				if alerts, _ := w.told(min(away, 30*time.Second) + 5*time.Second); len(alerts) != 8 {
					t.Errorf("%d alerts were told when it was back, want 8: %v", len(alerts), alerts)
				}
			})
		})
	}
}

// What a webhook finds too large is cut, and that is said.
func TestWebhookTooLarge(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.refusing(100<<10, errTooLarge)
		w.configure(to(rules.Webhook, "chat", "hook"))
		w.fireLarge("chat", 20, 8<<10)
		w.fire("chat", "b1")
		w.after(0)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		var said []string
		for _, s := range w.sent {
			said = append(said, fmt.Sprintf("%s: %d, and %d left out", s.note.GroupLabels["alertname"], len(s.note.Alerts), s.note.TruncatedAlerts))
		}
		slices.Sort(said)
		if diff := cmp.Diff([]string{"a: 10, and 10 left out", "b: 1, and 0 left out"}, said); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		w.after(0)
		w.want(time.Hour)
	})
}

// What a proxy before a webhook hangs up on is cut after a while, and then at once,
// without being said to be lost each time.
func TestWebhookHangsUp(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.refusing(100<<10, errHangUp)
		w.configure(to(rules.Webhook, "chat", "hook"))
		told := func(d time.Duration, want string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			var said []string
			for _, s := range w.sent {
				said = append(said, fmt.Sprintf("%d, and %d left out", len(s.note.Alerts), s.note.TruncatedAlerts))
			}
			w.sent = nil
			if got := strings.Join(said, "; "); got != want {
				t.Errorf("at %v it was told of %q, want %q", time.Since(w.start), got, want)
			}
		}
		w.fireLarge("chat", 20, 8<<10)
		told(10*time.Second, "10, and 10 left out")
		w.said(0, false, lost+"hangs up", "INFO receiver takes alerts again")
		w.fire("chat", "a20")
		told(time.Minute+5*time.Second, "10, and 11 left out")
		w.said(0, false)
		w.refusing(1<<20, errHangUp)
		w.fire("chat", "a21")
		told(time.Minute, "22, and 0 left out")
		told(time.Hour, "")
	})
}

// A webhook that was away is told all that fires where that is not much, and of
// much a part, and all with the next message.
func TestWebhookWasAway(t *testing.T) {
	for n, want := range map[int][2]int{15: {15, 16}, 100: {12, 101}} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.refusing(0, errHangUp)
				w.configure(to(rules.Webhook, "chat", "hook"))
				w.fireLarge("chat", n, 750)
				time.Sleep(time.Hour)
				w.refusing(1<<20, nil)
				for i, name := range []string{"", "a999"} {
					if name != "" {
						w.fire("chat", name)
					}
					time.Sleep(time.Minute + time.Second)
					synctest.Wait()
					if len(w.sent) != 1 || len(w.sent[0].note.Alerts) < want[i] {
						t.Fatalf("it was told %d messages, the first of %d alerts, want one of %d", len(w.sent), len(w.sent[0].note.Alerts), want[i])
					}
					w.sent = nil
				}
			})
		})
	}
}

const lost = "WARN alerts not delivered; firing ones are sent again: "

// What is amiss on this side is found without an alert: at the start, with a
// reload, and within a minute.
func TestUnfit(t *testing.T) {
	for _, form := range []rules.Form{rules.Alertmanager, rules.Webhook} {
		t.Run(string(form), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				ca := filepath.Join(t.TempDir(), "ca.pem")
				config := rules.Receiver{Name: "a", Form: form, Timeout: 10 * time.Second, URLs: []rules.Source{{Env: "NOTIFY_URL"}}}
				w.post = func(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) (time.Duration, error) {
					if _, err := prepare(ctx, r, to, body); err != nil {
						return 0, err
					}
					return w.take(ctx, r, to, body)
				}
				w.configure(config)
				w.said(0, true, lost+"the environment variable NOTIFY_URL is not set")
				w.said(time.Hour, true)
				t.Setenv("NOTIFY_URL", "http://127.0.0.1:1/")
				if form == rules.Webhook {
					w.said(time.Minute, false, "INFO receiver can be sent alerts again")
				} else {
					w.said(time.Minute, false, "INFO receiver takes alerts again") // as one of none has shown
				}

				config.TLS.CAFile = ca
				w.configure(config)
				w.said(200*time.Millisecond, true, lost+"open "+ca+": no such file or directory")
				config.TLS.CAFile = ""
				w.configure(config)
				w.said(200*time.Millisecond, false, "INFO receiver can be sent alerts again")
				w.said(time.Hour, false)
			})
		})
	}
}

// An Alertmanager that takes no alerts is found although there are none.
func TestIdleAlertmanager(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		w.said(time.Hour, false)
		w.answering(func(string) error { return errDown })
		w.said(time.Minute, true, lost+"down")
		w.said(time.Hour, true)
		w.answering(nil)
		w.fire("oncall", "a1") // is not kept waiting because nobody was there before
		w.want(200*time.Millisecond, "2h1m0.1s am: a1 from 2h1m0s to 2h6m0.1s")
		w.said(2*time.Minute, false, "INFO receiver takes alerts again")
		w.end("oncall", "a1")
		w.after(time.Hour) // nothing is left to repeat
		w.answering(func(string) error { return errTooLarge })
		w.said(time.Hour, false) // what refuses a message about nothing is there
		w.answering(func(string) error { return errBad })
		w.said(time.Minute, true, lost+"bad")
		w.answering(nil)
		w.said(time.Minute, false, "INFO receiver takes alerts again")
	})
}

// What takes some alerts, and not others, is lost once and not each minute.
func TestHalfLost(t *testing.T) {
	for _, form := range []rules.Form{rules.Alertmanager, rules.Webhook} {
		t.Run(string(form), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.refusing(1<<20, errTooLarge, "a1")
				w.configure(to(form, "a", "url"))
				w.fire("a", "a1", "b1", "c1")
				w.said(time.Minute, true, lost+"too large")
				for range 60 {
					w.end("a", "c1")
					w.said(time.Minute, true)
					w.fire("a", "c1")
					w.said(time.Minute, true)
				}
				w.refusing(1<<20, nil)
				w.said(2*time.Minute, false, "INFO receiver takes alerts again")
			})
		})
	}
}

// A webhook is no longer lost when there is nothing left that it did not take.
func TestNothingLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Webhook, "chat", "hook"))
		w.fire("chat", "a1")
		w.after(time.Second)
		w.answering(func(string) error { return errBad })
		w.end("chat", "a1")
		w.said(23*time.Hour, true, lost+"bad")
		w.said(2*time.Hour, false, "INFO receiver is no longer down; no alert is left to send")
	})
}

func TestNotification(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Webhook, "chat", "hook"))
		fired, ended := w.start.Add(-time.Minute), w.start.Add(-time.Second)
		one := alert.Alert{
			Labels:      map[string]string{"alertname": "leak", "instance": "host", "dst": "10.0.0.1"},
			Annotations: map[string]string{"summary": "s", "count": "1"},
			StartsAt:    fired,
			EndsAt:      ended,
		}
		two := alert.Alert{
			Labels:      map[string]string{"alertname": "leak", "instance": "host", "dst": "10.0.0.2"},
			Annotations: map[string]string{"summary": "s", "count": "2"},
			StartsAt:    fired,
		}
		w.Set("chat", one, two)
		time.Sleep(time.Second)
		synctest.Wait()
		want := notification{
			Version:           "4",
			GroupKey:          `{}:{alertname="leak"}`,
			Status:            "firing",
			Receiver:          "chat",
			GroupLabels:       map[string]string{"alertname": "leak"},
			CommonLabels:      map[string]string{"alertname": "leak", "instance": "host"},
			CommonAnnotations: map[string]string{"summary": "s"},
			ExternalURL:       "http://here/",
			Alerts: []notifiedAlert{
				{"firing", two, "http://here/", "ce2386572c8c8c3e"},
				{"resolved", one, "http://here/", "c876601412e92419"},
			},
		}
		if diff := cmp.Diff(want, w.sent[0].note); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestEmptyAnnotationsAreNoNull(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Webhook, "chat", "hook"), to(rules.Alertmanager, "oncall", "am"))
		for _, receiver := range []string{"chat", "oncall"} {
			w.Set(receiver, alert.Alert{Labels: labels("a1"), StartsAt: time.Now()})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, s := range w.sent {
			if s.to == "hook" && (s.note.CommonAnnotations == nil || s.note.Alerts[0].Annotations == nil) || s.to == "am" && s.alerts[0].Annotations == nil {
				t.Errorf("%+v", s)
			}
		}
		if len(w.sent) != 2 {
			t.Errorf("%d messages, want 2", len(w.sent))
		}
	})
}

// A message holds 500 alerts of a rule, and says how many it leaves out.
func TestTruncatedNotification(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Webhook, "chat", "hook"))
		for i := range maxBatch + 10 {
			w.end("chat", fmt.Sprint("a", i))
		}
		w.fire("chat", "a-fires")
		time.Sleep(time.Second)
		synctest.Wait()
		n := w.sent[0].note
		if n.TruncatedAlerts != 11 || len(n.Alerts) != maxBatch || n.Alerts[0].Labels["n"] != "a-fires" {
			t.Errorf("%d alerts and %d left out, the first %v", len(n.Alerts), n.TruncatedAlerts, n.Alerts[0].Labels)
		}
		w.after(0)
		w.want(time.Hour) // those left out were told of, too
	})
}

// Whoever stays after a reload keeps what it holds and knows; whoever goes is
// told the news.
func TestReconfigure(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		oncall, chat := to(rules.Alertmanager, "oncall", "am0", "am1"), to(rules.Webhook, "chat", "hook")
		w.configure(oncall, chat)
		w.fire("oncall", "a1")
		w.fire("chat", "a1")
		got := w.after(time.Second)
		if len(got) != 3 {
			t.Fatalf("%q", got)
		}

		chat.Timeout = 7 * time.Second
		w.configure(chat, to(rules.Alertmanager, "oncall", "am1", "am2"))
		w.want(time.Second, "1s am2: a1 from 0s to 5m1s")
		if got := w.receivers[0].senders[0].config.Load().Timeout; got != chat.Timeout {
			t.Errorf("the timeout is %v after a reload, want %v", got, chat.Timeout)
		}

		w.end("oncall", "a1")
		w.end("chat", "a1")
		w.configure(to(rules.Alertmanager, "other", "am3"))
		got = w.after(0)
		slices.Sort(got)
		want := []string{"2s am1: a1 from 0s to 2s", "2s am2: a1 from 0s to 2s", "2s hook: a resolved, a1 resolved"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("farewell (-want +got):\n%s", diff)
		}
		w.want(time.Hour)
		w.results(Stats{Receiver: "other"})

		// The same name in another form keeps what it holds.
		w.fire("other", "a1")
		w.want(time.Second, "1h0m2.1s am3: a1 from 1h0m2s to 1h5m2.1s")
		w.configure(to(rules.Webhook, "other", "am3"))
		w.want(time.Second, "1h0m3s am3: a firing, a1 firing")

		w.Set("nobody", alert.Alert{}) // is said in the log
		w.want(time.Second)
	})
}

// A receiver that goes and hangs is left to itself, in time.
func TestDismissed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		w.answering(func(string) error { return errHang })
		w.fire("oncall", "a1")
		time.Sleep(time.Second)
		w.Reconfigure(nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		start := time.Now()
		w.work.Wait()
		if waited := time.Since(start); waited > 0 {
			t.Errorf("it was there for another %v", waited)
		}
	})
}

func TestClose(t *testing.T) {
	tests := map[string]struct {
		answer error
		within time.Duration
		want   []string
	}{
		"news is told":      {nil, 0, []string{"1h0m0s am: a2 from 1h0m0s to 1h5m0s", "1h0m0s hook: b resolved, b1 resolved"}},
		"one try":           {errDown, 0, nil},
		"no use in trying":  {errBad, 0, nil},
		"hanging receivers": {errHang, 500 * time.Millisecond, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.configure(to(rules.Alertmanager, "oncall", "am"), to(rules.Webhook, "chat", "hook"))
				w.fire("oncall", "a1")
				time.Sleep(time.Hour - time.Second)
				w.fire("chat", "b1")
				w.after(time.Second)
				w.answering(func(string) error { return tt.answer })
				w.fire("oncall", "a2")
				w.end("chat", "b1")
				start := time.Now()
				w.Close(t.Context())
				if took := time.Since(start); took > tt.within {
					t.Errorf("it took %v, want no more than %v", took, tt.within)
				}
				got := w.after(0)
				slices.Sort(got)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				w.Set("oncall", alert.Alert{})
				w.Reconfigure(nil)
			})
		})
	}
}

// BenchmarkFlood sets as many alerts as a receiver can hold, all of them new.
func BenchmarkFlood(b *testing.B) {
	flood := make([]alert.Alert, maxAlerts)
	for i := range flood {
		flood[i] = alert.Alert{Labels: labels(fmt.Sprint("a", i)), StartsAt: time.Now()}
	}
	b.ReportAllocs()
	for b.Loop() {
		t := newTable()
		t.set(time.Now(), flood)
	}
}

// A receiver that went just before and hangs holds nothing up.
func TestCloseAfterDismissal(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		w.answering(func(string) error { return errHang })
		w.fire("oncall", "a1")
		time.Sleep(time.Second)
		w.configure()
		start := time.Now()
		w.Close(t.Context())
		if took := time.Since(start); took != usual.shutdown {
			t.Errorf("it took %v, want %v", took, usual.shutdown)
		}
		w.work.Wait()
		if took := time.Since(start); took != usual.shutdown {
			t.Errorf("something was left for %v", took)
		}
	})
}

// Ends that everybody has heard make room, and nothing is lost by that.
func TestRoom(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		for i := range maxAlerts {
			w.end("oncall", fmt.Sprint("a", i))
		}
		w.after(time.Second)
		w.fire("oncall", "b1")
		w.want(time.Second, "1.1s am: b1 from 1s to 5m1.1s")
		if got := w.Stats()[0].Dropped; got != 0 {
			t.Errorf("%d dropped, want none", got)
		}
	})
}

// An alert that finds no room is one, however often it is set.
func TestDroppedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		flood := make([]alert.Alert, maxAlerts+2)
		for i := range flood {
			flood[i] = alert.Alert{Labels: labels(fmt.Sprint("a", i)), StartsAt: w.start}
		}
		dropped := func(want uint64) {
			t.Helper()
			if got := w.Stats()[0].Dropped; got != want {
				t.Errorf("%d dropped, want %d", got, want)
			}
		}
		for range 100 {
			w.Set("oncall", flood...)
			time.Sleep(time.Second)
		}
		dropped(2)
		w.end("oncall", fmt.Sprint("a", maxAlerts)) // which nobody has heard of
		dropped(2)
		w.fire("oncall", fmt.Sprint("a", maxAlerts))
		dropped(3)

		w.after(time.Minute)
		w.end("oncall", "a0")
		w.after(time.Second)
		w.Set("oncall", flood[1:]...) // the end makes room for one of them
		dropped(3)
		w.Set("oncall", flood[maxAlerts:]...)
		dropped(3)

		for i := range maxAlerts + 10 { // what is remembered of them is bounded
			w.fire("oncall", fmt.Sprint("b", i))
		}
		dropped(3 + maxAlerts - 1)
		if n := len(w.receivers[0].table.overflow); n != maxAlerts {
			t.Errorf("%d are remembered, want %d", n, maxAlerts)
		}
	})
}

// What a webhook has been told of one rule makes room although it refuses another.
func TestToldEndsMakeRoom(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.refusing(1<<20, errBad, "a1")
		hooks := to(rules.Webhook, "chat", "hook0", "hook1")
		w.configure(hooks)
		w.fire("chat", "a1")
		for i := range 20 {
			for j := range maxAlerts / 10 {
				w.fire("chat", fmt.Sprint("b", i, ".", j))
			}
			w.after(2 * time.Minute)
			for j := range maxAlerts / 10 {
				w.end("chat", fmt.Sprint("b", i, ".", j))
			}
			w.after(2 * time.Minute)
		}
		if n := len(w.receivers[0].table.byLabels); n != 1 {
			t.Errorf("%d alerts are held, want the one that is refused", n)
		}
		if got := w.Stats()[0].Dropped; got != 0 {
			t.Errorf("%d dropped, want none: all were told", got)
		}

		// Nor does one wait for a URL that is gone.
		w.answering(func(to string) error {
			if to == "hook1" {
				return errDown
			}
			return nil
		})
		w.fire("chat", "c1")
		w.after(2 * time.Minute)
		w.end("chat", "c1")
		w.after(2 * time.Minute)
		if n := len(w.receivers[0].table.byLabels); n != 2 {
			t.Errorf("%d alerts are held, want the end, too, that one URL has not been told", n)
		}
		w.configure(to(rules.Webhook, "chat", "hook0"))
		if n := len(w.receivers[0].table.byLabels); n != 1 {
			t.Errorf("%d alerts are held after that URL went, want one", n)
		}
	})
}

// TestFlood has more alerts than a receiver can hold while it hangs.
func TestFlood(t *testing.T) {
	const more = 100
	inBubble(t, func(t *testing.T, w *world) {
		w.configure(to(rules.Alertmanager, "oncall", "am"))
		w.answering(func(string) error { return errHang })
		flood := make([]alert.Alert, maxAlerts+more)
		for i := range flood {
			flood[i] = alert.Alert{Labels: labels(fmt.Sprint("a", i)), StartsAt: w.start}
		}
		w.Set("oncall", flood...)
		w.want(time.Minute)
		if got := w.Stats()[0]; got.Dropped != more || len(got.Down) != 1 || got.Sent != 0 {
			t.Errorf("results %+v, want %d dropped, and that it is down", got, more)
		}

		// Ends make room, the oldest first; that nobody heard of them is counted.
		for i := range flood[:more/2] {
			w.end("oncall", fmt.Sprint("a", i))
		}
		for i := range more / 2 {
			w.fire("oncall", fmt.Sprint("b", i))
		}
		w.fire("oncall", "b-too-many")
		if got, want := w.Stats()[0].Dropped, uint64(more+more/2+1); got != want {
			t.Errorf("%d dropped, want %d", got, want)
		}
		w.answering(nil)
		lines := w.after(10*time.Second + 30*time.Second)
		if want := maxAlerts / maxBatch; len(lines) != want { // each alert once: the repetitions that fell due meanwhile had nothing to repeat
			t.Errorf("%d messages, want %d", len(lines), want)
		}
		all := strings.Join(lines, ",")
		for _, name := range []string{"a50 ", "a9999 ", "b0 ", "b49 "} {
			if !strings.Contains(all, name) {
				t.Errorf("%s was not sent", name)
			}
		}
		if strings.Contains(all, "a49 ") || strings.Contains(all, "a10000 ") {
			t.Error("what was dropped was sent")
		}
	})
}

// TestBelief lets random alerts come and go while receivers fail at random. Once
// they are well, what each believes is what is so.
func TestBelief(t *testing.T) {
	for seed := range uint64(50) {
		inBubble(t, func(t *testing.T, w *world) {
			believe(t, w, rand.New(rand.NewPCG(seed, 0)))
		})
		if t.Failed() {
			t.Fatalf("with the seed %d", seed)
		}
	}
}

func believe(t *testing.T, w *world, random *rand.Rand) {
	config := []rules.Receiver{to(rules.Alertmanager, "oncall", "am0", "am1"), to(rules.Webhook, "chat", "hook0", "hook1")}
	w.configure(config...)
	truth := map[string]bool{}
	health := map[string]error{}
	for range 100 {
		switch random.IntN(5) {
		case 0, 1, 2:
			name := fmt.Sprintf("%c%d", 'a'+random.IntN(3), random.IntN(3))
			if truth[name] = !truth[name]; truth[name] {
				w.fire("oncall", name)
				w.fire("chat", name)
			} else {
				w.end("oncall", name)
				w.end("chat", name)
			}
		case 3:
			u := []string{"am0", "am1", "hook0", "hook1"}[random.IntN(4)]
			w.mu.Lock()
			health[u] = []error{nil, errDown, errHang, errBad, errHangUp, errTooLarge}[random.IntN(6)]
			if health[u] == errTooLarge && strings.HasPrefix(u, "hook") {
				health[u] = nil // what does not fit into its message is not told
			}
			known := map[string]error{}
			for u, err := range health {
				known[u] = err
			}
			w.answer = func(to string) error { return known[to] }
			w.mu.Unlock()
		case 4:
			config[random.IntN(2)].Timeout++
			w.Reconfigure(config)
		}
		time.Sleep(time.Duration(random.Int64N(int64(time.Minute))))
	}
	w.answering(nil)
	time.Sleep(6 * time.Minute) // what an Alertmanager has not been told again has lapsed
	synctest.Wait()

	for _, u := range []string{"am0", "am1", "hook0", "hook1"} {
		believed := map[string]bool{}
		for _, s := range w.sent {
			if s.to != u {
				continue
			}
			for _, a := range s.alerts {
				believed[a.Labels["n"]] = a.EndsAt.After(time.Now())
			}
			for _, a := range s.note.Alerts {
				believed[a.Labels["n"]] = a.Status == "firing"
			}
		}
		for name, fires := range truth {
			if believed[name] != fires {
				t.Errorf("%s believes that %s fires: %v; it is %v", u, name, believed[name], fires)
			}
		}
	}
}

// TestTogether uses everything at once, for the race detector.
func TestTogether(t *testing.T) {
	p := usual
	p.gather, p.resend, p.keep, p.retry = time.Microsecond, time.Millisecond, 5*time.Millisecond, time.Microsecond
	n := newNotifier(Options{Log: quiet}, p)
	n.post = func(context.Context, *rules.Receiver, rules.Source, []byte) (time.Duration, error) {
		return 0, []error{nil, errDown, errBad, errHangUp, errTooLarge}[rand.IntN(5)]
	}
	configs := [][]rules.Receiver{
		{to(rules.Alertmanager, "a", "1", "2"), to(rules.Webhook, "b", "3")},
		{to(rules.Webhook, "a", "1"), to(rules.Webhook, "b", "3", "4")},
		{to(rules.Alertmanager, "a", "2")},
	}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 200 {
				switch i {
				case 0:
					n.Reconfigure(configs[j%3])
				case 1:
					n.Stats()
				default:
					a := alert.Alert{Labels: labels(fmt.Sprint("a", j%10)), StartsAt: time.Now()}
					if j%3 == 0 {
						a.EndsAt = time.Now()
					}
					n.Set(string(rune('a'+i%2)), a)
				}
				time.Sleep(10 * time.Microsecond)
			}
		})
	}
	all.Wait()
	n.Close(t.Context())
}

// A log that hangs keeps nothing from being told, whatever there is to log.
func TestLogHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := usual
		p.resend, p.retry = 20*time.Millisecond, time.Millisecond
		hangs, lines := make(chan struct{}), make(chan string, 100)
		go func() {
			for range lines {
				<-hangs
			}
		}()
		n := newNotifier(Options{Log: func(_ slog.Level, text string, _ ...slog.Attr) { lines <- text }}, p)
		posts := 0
		n.post = func(context.Context, *rules.Receiver, rules.Source, []byte) (time.Duration, error) {
			if posts++; posts == 2 {
				return 0, errDown
			}
			return 0, nil
		}
		n.Reconfigure([]rules.Receiver{to(rules.Alertmanager, "oncall", "am")})
		n.Set("nobody", alert.Alert{Labels: labels("a1")})
		n.Set("oncall", alert.Alert{Labels: labels("a1"), StartsAt: time.Now()})
		time.Sleep(time.Second)
		synctest.Wait()
		if posts < 10 {
			t.Errorf("%d messages within a second, want one each %v", posts, p.resend)
		}
		n.Close(t.Context())
		if len(lines) != 2 { // and the first, with which it hangs
			t.Errorf("%d lines wait for the log, want that the receiver was lost, and is back", len(lines))
		}
		close(hangs)
		close(lines)
	})
}
