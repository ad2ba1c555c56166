package runner_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sim/runner"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const start = sock.Instant(time.Hour)

// table returns a kernel in which a program runs.
func table() (*runner.KernelTable, *sim.Kernel) {
	k := sim.NewKernel(1, start)
	k.Follow(false)
	return &runner.KernelTable{Kernel: k, Processes: map[int]sock.Holder{7: {PID: 7, Start: 7, Comm: "app", Exe: "app"}}}, k
}

// leak opens a connection that its peer closes at once.
func leak(k *sim.Kernel, port uint16) *sim.Socket {
	s := k.Open(port)
	s.Held = []sim.Holding{{By: []int{7}}}
	k.Enter(s, ssfilter.CloseWait)
	return s
}

func parse(t *testing.T, text string) *rules.Set {
	t.Helper()
	set, err := rules.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const killing = "rules: [{name: leak, match: {state: close-wait, dport: 5432, in_state_for: 5m}, then: [kill]}]"

// acts are what was done, each as its instant, to a tenth of a second, result and port.
func acts(r *runner.Run) (all []string) {
	for _, a := range r.Acts {
		all = append(all, fmt.Sprintf("%v %s %s %s :%d", a.At.Sub(start).Round(100*time.Millisecond), a.Rule, a.Kind, a.Result, a.Socket.Dst.Port()))
	}
	return all
}

func TestKillsWhatFallsDueAndNothingElse(t *testing.T) {
	table, k := table()
	leak(k, 5432)
	leak(k, 5433)
	sends := leak(k, 5432)
	k.At(start.Add(2*time.Minute), func() { k.Advance(sends, 10, 0) })
	k.At(start.Add(3*time.Minute), func() { leak(k, 5432) })
	r := runner.New(parse(t, killing), table, start, runner.Tick, engine.Restored{})
	r.Until(start.Add(time.Hour))
	want := []string{"5m0s leak kill done :5432", "7m0s leak kill done :5432", "8m0s leak kill done :5432"}
	if diff := cmp.Diff(want, acts(r)); diff != "" {
		t.Errorf("acts (-want +got):\n%s", diff)
	}
	if len(k.Sockets) != 1 {
		t.Errorf("%d sockets are left, want that to another port", len(k.Sockets))
	}
	for _, a := range r.Acts {
		if late := a.At.Sub(start) - a.At.Sub(start).Round(time.Second); late < 0 || late > 10*time.Millisecond {
			t.Errorf("an act is %v after its instant", late)
		}
	}
}

// An hour in which nothing happens takes few scans: the counters spare most of them.
func TestQuietHoursAreCheap(t *testing.T) {
	table, k := table()
	k.Open(5432)
	r := runner.New(parse(t, killing), table, start, runner.Tick, engine.Restored{})
	r.Until(start.Add(24 * time.Hour))
	const perHour = 20 // of 192: one in ten is made in any case
	if n := r.Overview().Scans; n > 24*perHour {
		t.Errorf("%d scans in a day, want %d at most", n, 24*perHour)
	}
}

func TestRulesChange(t *testing.T) {
	table, k := table()
	leak(k, 5432)
	r := runner.New(parse(t, killing), table, start, runner.Tick, engine.Restored{})
	r.Until(start.Add(time.Minute))
	r.Change(parse(t, strings.Replace(killing, "5m", "2m", 1)))
	r.Until(start.Add(time.Hour))
	if diff := cmp.Diff([]string{"2m0s leak kill done :5432"}, acts(r)); diff != "" {
		t.Errorf("acts (-want +got):\n%s", diff)
	}
}

// An alert is told when it begins and when it ends, and not at each scan between.
func TestAlerts(t *testing.T) {
	table, k := table()
	for range 5 {
		s := leak(k, 5432)
		k.At(start.Add(10*time.Minute), func() { k.Remove(s) })
	}
	r := runner.New(parse(t, `
receivers: {oncall: {alertmanager: {urls: ["http://127.0.0.1:9093"]}}}
rules:
  - name: flood
    match: {state: close-wait}
    when: count > 3
    for: 1m
    then: [alert: {to: oncall}]
`), table, start, runner.Tick, engine.Restored{})
	r.Until(start.Add(time.Hour))
	var got []string
	for _, a := range r.Alerts {
		got = append(got, fmt.Sprintf("%v %s %t %d", a.At.Sub(start).Round(time.Second), a.Rule, a.Ended != 0, a.Peak))
	}
	if diff := cmp.Diff([]string{"1m0s flood false 5", "10m0s flood true 5"}, got); diff != "" {
		t.Errorf("alerts (-want +got):\n%s", diff)
	}
}

// What is known from before counts; what stands against an act is told.
func TestForecasts(t *testing.T) {
	table, k := table()
	s := leak(k, 5432)
	s.Queued = start
	r := runner.New(parse(t, killing), table, start, runner.Tick, engine.Restored{})
	r.Until(start.Add(10 * time.Minute))
	all := r.Forecasts()
	if len(all) != 1 || all[0].Not != match.InUse || all[0].In > 0 {
		t.Errorf("forecasts %+v, want one: it is in use", all)
	}
	if len(r.Acts) != 0 {
		t.Errorf("acts %v", acts(r))
	}
}

// sampled is a table of which something is known every seven seconds only, for a moment.
type sampled struct{ *runner.KernelTable }

func (s sampled) Answers() sock.Instant {
	const every, moment = 7 * time.Second, 100 * time.Millisecond
	now := s.Kernel.Now
	if since := now.Sub(start) % every; since > moment {
		return now.Add(every - since)
	}
	return now
}

// Nothing is done before it is known whether that still stands.
func TestAnswersThatWait(t *testing.T) {
	table, k := table()
	leak(k, 5432)
	gone := leak(k, 5432)
	k.At(start.Add(5*time.Minute+500*time.Millisecond), func() { k.Remove(gone) })
	r := runner.New(parse(t, killing), sampled{table}, start, runner.Tick, engine.Restored{})
	r.Until(start.Add(time.Hour))
	if diff := cmp.Diff([]string{"5m1s leak kill done :5432"}, acts(r)); diff != "" {
		t.Errorf("acts (-want +got):\n%s", diff)
	}
}

// What is not possible is not done, and said.
func TestAllow(t *testing.T) {
	table, k := table()
	leak(k, 5432)
	r := runner.New(parse(t, killing), table, start, runner.Tick, engine.Restored{})
	r.Allow(match.Capabilities{rules.Destroy: errors.New("not permitted")})
	r.Until(start.Add(time.Hour))
	if diff := cmp.Diff([]string{"5m0s leak kill would :5432"}, acts(r)); diff != "" {
		t.Errorf("acts (-want +got):\n%s", diff)
	}
}
