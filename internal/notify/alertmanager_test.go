package notify

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/alert"
	"github.com/sockdog/sockdog/internal/realtest"
	"github.com/sockdog/sockdog/rules"
)

func eventually(t *testing.T, within time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) > within {
			t.Fatalf("waited %v, and it is not so that %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// TestRealAlertmanager has an Alertmanager of today's form show an alert, keep it
// through ten minutes at sixty times the pace, and show that it has ended.
func TestRealAlertmanager(t *testing.T) {
	told := make(chan map[string]any, 100)
	hook := plain(t, func(_ http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		told <- body
	})
	am := realtest.StartAlertmanager(t, hook.URL+"/theirs")
	p := usual
	p.resend, p.lapse, p.keep = time.Second, 5*time.Second, 15*time.Second
	n := newNotifier(Options{Log: quiet, Page: "http://here:9797/"}, p)
	defer n.Close(t.Context())
	n.Reconfigure([]rules.Receiver{
		to(rules.Alertmanager, "oncall", am.URL+"/api/v2/alerts"),
		to(rules.Webhook, "chat", hook.URL+"/ours"),
	})

	// It takes a message about nothing, which asks whether it would take others.
	oncall := to(rules.Alertmanager, "oncall", am.URL+"/api/v2/alerts")
	if ahead, err := post(t.Context(), &oncall, oncall.URLs[0], []byte("[]")); err != nil || ahead != 0 {
		t.Errorf("%v, and its clock is %v ahead of the one that is the same", err, ahead)
	}

	started := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	alert := alert.Alert{
		Labels:      map[string]string{"alertname": "time-wait-flood", "instance": "host", "dst": "10.0.0.1", "severity": "warning", "note": "ünï \"quoted\"\n"},
		Annotations: map[string]string{"summary": "20001 sockets"},
		StartsAt:    started,
	}
	n.Set("oncall", alert)
	took := eventually(t, 2*time.Second, "it shows the alert", func() bool { return len(am.Active(t)) == 1 })
	t.Logf("it showed the alert after %v", took)
	want := realtest.Alert{
		Labels: alert.Labels, Annotations: alert.Annotations, StartsAt: started,
		Fingerprint: fmt.Sprintf("%016x", fingerprint(alert.Labels)), GeneratorURL: "http://here:9797/",
	}
	if diff := cmp.Diff(want, am.Active(t)[0]); diff != "" {
		t.Errorf("it shows (-want +got):\n%s", diff)
	}

	// Its webhook and ours say the same, and that only once.
	n.Set("chat", alert)
	theirs, ours := <-told, <-told
	if theirs["receiver"] == "chat" {
		theirs, ours = ours, theirs
	}
	for _, field := range []string{"receiver", "externalURL"} {
		theirs[field], ours[field] = "", ""
	}
	if diff := cmp.Diff(theirs, ours, cmp.Comparer(sameTime)); diff != "" {
		t.Errorf("webhooks (-theirs +ours):\n%s", diff)
	}

	changed := 0
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
		if len(am.Active(t)) != 1 {
			changed++
		}
		// That a value in an annotation moves is no reason to flap.
		alert.Annotations = map[string]string{"summary": fmt.Sprint(changed, " sockets")}
		n.Set("oncall", alert)
	}
	if changed > 0 {
		t.Errorf("the alert was missing %d times", changed)
	}
	if len(told) > 0 {
		t.Errorf("the alert flapped: %v", <-told)
	}
	if sent := n.Stats()[0].Sent; sent < 5 {
		t.Errorf("%d alerts sent, want about 11", sent)
	}

	alert.EndsAt = time.Now()
	n.Set("oncall", alert)
	n.Set("chat", alert)
	took = eventually(t, 4*time.Second, "it shows that the alert has ended", func() bool { return len(am.Active(t)) == 0 }) // before it would lapse
	t.Logf("it showed the end after %v", took)
	theirs, ours = <-told, <-told
	if theirs["status"] != "resolved" || ours["status"] != "resolved" {
		t.Errorf("webhooks say %v and %v, want resolved", theirs["status"], ours["status"])
	}
}

// sameTime compares strings, and times by what they mean.
func sameTime(a, b string) bool {
	at, aErr := time.Parse(time.RFC3339Nano, a)
	bt, bErr := time.Parse(time.RFC3339Nano, b)
	if aErr == nil && bErr == nil {
		return at.Equal(bt)
	}
	return a == b
}

// TestRealAlertmanagerFlood has it take 10,000 alerts, and one that it refuses.
func TestRealAlertmanagerFlood(t *testing.T) {
	am := realtest.StartAlertmanager(t, "http://127.0.0.1:1/")
	p := usual
	p.retry = time.Millisecond
	n := newNotifier(Options{Log: quiet}, p)
	defer n.Close(t.Context())
	n.Reconfigure([]rules.Receiver{to(rules.Alertmanager, "oncall", am.URL+"/api/v2/alerts")})
	flood := make([]alert.Alert, maxAlerts-1)
	names := make(map[string]bool)
	for i := range flood {
		flood[i] = alert.Alert{Labels: labels(fmt.Sprint("a", i)), StartsAt: time.Now()}
		names[flood[i].Labels["n"]] = true
	}
	n.Set("oncall", alert.Alert{Labels: map[string]string{"alertname": "a", "not a name": "b"}, StartsAt: time.Now()})
	n.Set("oncall", flood...)
	eventually(t, time.Minute, "all is told", func() bool {
		r := n.Stats()[0]
		return r.Sent == maxAlerts-1
	})
	if r := n.Stats()[0]; r.Failed != 1 || r.Dropped != 0 {
		t.Errorf("%+v, want only the one that is refused to fail", r)
	}
	for _, a := range am.Active(t) {
		delete(names, a.Labels["n"])
	}
	if len(names) > 0 { // it takes the rest of the message that it complains about
		t.Errorf("it lacks %d alerts, such as %v", len(names), slices.Sorted(maps.Keys(names))[0])
	}
}
