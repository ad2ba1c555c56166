package replay_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/replay"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
)

// leaks is a recording of an hour in which four sockets leak, a minute apart.
func leaks(t testing.TB) []byte {
	h := record(t, recording.Header{Kernel: "6.12.1"})
	for i := range 4 {
		h.At(start.Add(time.Duration(i)*time.Minute+time.Second), func() { h.leak(uint16(5432 + i)) })
	}
	h.until(start.Add(time.Hour), 5*time.Second)
	return h.end()
}

const (
	newer = `
rules:
  - {name: leak, match: {state: close-wait, dport: 5432-5433, in_state_for: 5m}, then: [kill]}
  - {name: slow, match: {state: close-wait, dport: 5434, in_state_for: 10m}, then: [kill]}
`
	older = `
rules:
  - {name: leak, match: {state: close-wait, dport: 5433-5435, in_state_for: 5m}, then: [kill]}
`
)

func TestCompare(t *testing.T) {
	file := leaks(t)
	c := replay.Compare(run(t, file, newer), run(t, file, older))
	var out bytes.Buffer
	if err := c.PrintJSON(&out); err != nil {
		t.Fatal(err)
	}
	var objects []struct {
		By       string
		Rule     string
		OldRule  string  `json:"old_rule"`
		After    float64 `json:"after"`
		OldAfter float64 `json:"old_after"`
		Dst      string
		Result   string
	}
	if err := json.Unmarshal(out.Bytes(), &objects); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range objects {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %.0f %s %.0f %s %s", o.By, o.Rule, o.After, o.OldRule, o.OldAfter, o.Dst[strings.LastIndexByte(o.Dst, ':'):], o.Result)))
	}
	want := []string{
		"only new leak 305  0 :5432 would", "both leak 365 leak 365 :5433 would", "only old leak 485  0 :5435 would", "later slow 725 leak 425 :5434 would",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A difference of one scan is none: what falls due between two is told at the next.
func TestCompareWithinAScan(t *testing.T) {
	file := leaks(t)
	c := replay.Compare(run(t, file, killing), run(t, file, strings.Replace(killing, "5m", "5m4s", 1)))
	var out bytes.Buffer
	if err := c.PrintJSON(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"by": "both"`) {
		t.Error(out.String())
	}
}

// What people read, to the letter.
func TestPrint(t *testing.T) {
	file := leaks(t)
	now := run(t, file, newer)
	for name, test := range map[string]struct {
		print func(out *bytes.Buffer) error
		want  string
	}{
		"a replay": {func(out *bytes.Buffer) error { return now.Print(out, 0) }, `
721 scans of up to 4 sockets in 1h0m, from 2026-03-29T00:59:00Z, Linux 6.12.1

RULE  ACTION  WOULD  HELD BACK  FIRST  LAST
leak  kill    2      0          5m5s   6m5s
slow  kill    1      0          12m5s  12m5s

AFTER  RULE  ACTION  RESULT  ON                              HELD BY  BECAUSE
5m5s   leak  kill    would   10.0.0.1:10001 → 10.0.0.2:5432  -        close-wait for 5m3.996s, allowed 5m0s, eof-read-not-closed
6m5s   leak  kill    would   10.0.0.1:10002 → 10.0.0.2:5433  -        close-wait for 5m3.996s, allowed 5m0s, eof-read-not-closed
12m5s  slow  kill    would   10.0.0.1:10003 → 10.0.0.2:5434  -        close-wait for 10m3.996s, allowed 10m0s, eof-read-not-closed

A socket that would be killed counts once, and is taken for gone from then on, though it lives on in the recording.
Canaries are left out: the recording does not tell who holds sockets.
3 actions fell due between two scans, and are told at the next one, up to 3.99s later.
`},
		"a comparison": {func(out *bytes.Buffer) error { return replay.Compare(now, run(t, file, older)).Print(out, 0) }, `
721 scans of up to 4 sockets in 1h0m, from 2026-03-29T00:59:00Z, Linux 6.12.1

RULE  ACTION  BOTH  OF THOSE EARLIER  LATER  ONLY NEW  ONLY OLD
leak  kill    1     0                 0      1         1
slow  kill    1     0                 1      0         0

BY              AFTER  RULE  ACTION  RESULT  ON                              HELD BY  BECAUSE
only new        5m5s   leak  kill    would   10.0.0.1:10001 → 10.0.0.2:5432  -        close-wait for 5m3.996s, allowed 5m0s, eof-read-not-closed
only old        8m5s   leak  kill    would   10.0.0.1:10004 → 10.0.0.2:5435  -        close-wait for 5m3.996s, allowed 5m0s, eof-read-not-closed
new 5m0s later  12m5s  slow  kill    would   10.0.0.1:10003 → 10.0.0.2:5434  -        close-wait for 10m3.996s, allowed 10m0s, eof-read-not-closed

A socket that would be killed counts once, and is taken for gone from then on, though it lives on in the recording.
Canaries are left out: the recording does not tell who holds sockets.
4 actions fell due between two scans, and are told at the next one, up to 3.99s later.
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := test.print(&out); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(test.want[1:], "\n"), strings.Split(out.String(), "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What a recording says of itself governs no terminal.
func TestEvilHeader(t *testing.T) {
	h := record(t, recording.Header{Kernel: "6\x1b[2J", Filter: "\x1b]0;evil\a\nsockdog: all is well", States: "\x1b[31m"})
	h.until(start, time.Second)
	var out bytes.Buffer
	if err := run(t, h.end(), killing).Print(&out, 0); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\a") || strings.Contains(out.String(), "\nsockdog") {
		t.Errorf("%q", out.String())
	}
}

// Where sockets were held in pods, these stand beside their holders.
func TestPrintPods(t *testing.T) {
	h := record(t, recording.Header{Holders: true, All: true})
	h.holders = map[int]sock.Holder{7: {PID: 7, Start: 1, Comm: "shop", Owner: &sock.Owner{Pod: "payments/api-0"}}, 8: {PID: 8, Start: 2, Comm: "shop"}}
	h.leak(5432)
	h.leak(5433).Held = []sim.Holding{{By: []int{8}}}
	h.until(start.Add(10*time.Minute), 5*time.Second)
	var out bytes.Buffer
	if err := run(t, h.end(), "rules: [{name: leak, match: {state: close-wait, in_state_for: 5m}, then: [kill]}]").Print(&out, 0); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"  HELD BY  POD             BECAUSE\n", ":5432  shop[7]  payments/api-0  close-wait ", ":5433  shop[8]  -               close-wait "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
