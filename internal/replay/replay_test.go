package replay_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/replay"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	start = sock.Instant(time.Hour)
	jiffy = 4 * time.Millisecond
)

var began = time.Date(2026, 3, 29, 0, 59, 0, 0, time.UTC)

// host is a kernel that is recorded.
type host struct {
	*sim.Kernel
	t       testing.TB
	file    bytes.Buffer
	writer  *recording.Writer
	holders map[int]sock.Holder // by PID; nil: they are not recorded
	refused bool                // a process cannot be read
	extra   recording.Scan      // what each scan tells beside the sockets
}

// record returns a host whose recording begins at start.
func record(t testing.TB, h recording.Header) *host {
	t.Helper()
	h.Precision = jiffy
	if h.States == "" {
		h.States = "all"
	}
	r := &host{Kernel: sim.NewKernel(1, start), t: t}
	var err error
	if r.writer, err = recording.NewWriter(&r.file, h, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// until has the time go on, with a scan every so often.
func (h *host) until(end sock.Instant, every time.Duration) {
	h.t.Helper()
	for at := h.Now; at <= end; at = at.Add(every) {
		for h.Next() <= at {
			h.Happen()
		}
		h.Now = at
		h.scan()
	}
}

func (h *host) scan() {
	h.t.Helper()
	s := h.extra
	s.Sent, s.Got, s.Wall = h.Now, h.Now, began.Add(h.Now.Sub(start))
	if h.holders != nil {
		s.Holders, s.Complete = make(map[uint32][]sock.Holder), !h.refused
	}
	h.writer.Begin()
	for _, cookie := range h.Table {
		one := h.Sockets[cookie]
		if one == nil {
			continue
		}
		shown := one.Report(h.Now, jiffy)
		h.writer.Take(&shown, h.Now)
		for _, pid := range one.HeldAt(h.Now) {
			if held, known := h.holders[pid]; known && one.Inode != 0 {
				s.Holders[one.Inode] = append(s.Holders[one.Inode], held)
			}
		}
	}
	if err := h.writer.End(s); err != nil {
		h.t.Fatal(err)
	}
}

// end ends the recording, and returns it.
func (h *host) end() []byte {
	h.t.Helper()
	if err := h.writer.Close(0); err != nil {
		h.t.Fatal(err)
	}
	return h.file.Bytes()
}

// leak opens a connection that its peer closes at once.
func (h *host) leak(port uint16) *sim.Socket {
	s := h.Open(port)
	s.Held = []sim.Holding{{By: []int{7}}}
	h.Enter(s, ssfilter.CloseWait)
	return s
}

// any is one of the sockets.
func (h *host) any() *sim.Socket { return h.Sockets[h.Table[h.Rand.IntN(len(h.Table))]] }

func parse(t testing.TB, text string) *rules.Set {
	t.Helper()
	set, err := rules.Parse(strings.NewReader(text), action.InRules(action.Kinds())...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const killing = "rules: [{name: leak, match: {state: close-wait, dport: 5432, in_state_for: 5m}, then: [kill]}]"

// allAllowed is what a kernel that can do everything does not allow.
func allAllowed(recording.Header) match.Capabilities { return nil }

func run(t testing.TB, file []byte, rules string) *replay.Result {
	t.Helper()
	r, err := replay.Run(bytes.NewReader(file), parse(t, rules), allAllowed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// events are those of a replay, each in a line.
func events(r *replay.Result) (all []string) {
	for _, e := range r.Events {
		on := ""
		if e.Socket != nil {
			on = e.Socket.Dst[strings.LastIndexByte(e.Socket.Dst, ':'):]
		}
		all = append(all, strings.TrimSpace(fmt.Sprintf("%v %s %s %s %s", e.At.Round(100*time.Millisecond), e.Rule, e.Action, e.Result, on)))
	}
	return all
}

func expect(t *testing.T, r *replay.Result, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, events(r)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// What falls due is told at the next scan, once, and nothing else is.
func TestKillsWhatFallsDue(t *testing.T) {
	h := record(t, recording.Header{})
	h.leak(5432)
	h.leak(5433)
	sends := h.leak(5432)
	h.At(start.Add(2*time.Minute), func() { h.Advance(sends, 10, 0) })
	h.At(start.Add(3*time.Minute+2*time.Second), func() { h.leak(5432) })
	closed := h.leak(5432)
	h.At(start.Add(5*time.Minute+time.Second), func() { h.Remove(closed) }) // due, and gone before a scan
	h.until(start.Add(20*time.Minute), 7*time.Second)
	r := run(t, h.end(), killing)
	// The scans are at 5m1s, 7m and 8m3s, what falls due at 5m, 7m (by what the kernel tells, a
	// tick later) and 8m2s.
	expect(t, r, "5m1s leak kill would :5432", "7m0s leak kill would :5432", "8m3s leak kill would :5432")
	if r.Scans != 172 || r.Sockets != 5 || r.Damage != nil || !r.Began.Equal(began) {
		t.Errorf("%d scans of %d sockets from %v, %v", r.Scans, r.Sockets, r.Began, r.Damage)
	}
}

// What is due when the recording begins is told at its first scan, by what the kernel told.
func TestDueAtTheBeginning(t *testing.T) {
	h := record(t, recording.Header{})
	h.leak(5432)
	h.Now = start.Add(time.Hour)
	h.until(start.Add(time.Hour+time.Minute), 5*time.Second)
	r := run(t, h.end(), killing)
	expect(t, r, "0s leak kill would :5432")
	if e := r.Events[0]; e.Late != 0 || e.Scan != 1 || !strings.HasPrefix(e.Reason, "close-wait for 59m59.9") && !strings.HasPrefix(e.Reason, "close-wait for 1h") {
		t.Errorf("%+v", e)
	}
}

// The last scan counts as any other.
func TestDueAtTheEnd(t *testing.T) {
	h := record(t, recording.Header{})
	h.leak(5432)
	h.until(start.Add(5*time.Minute+time.Second), 7*time.Second)
	h.Now = start.Add(5*time.Minute + 2*time.Second)
	h.scan()
	expect(t, run(t, h.end(), killing), "5m1s leak kill would :5432")
	h = record(t, recording.Header{})
	h.leak(5432)
	h.until(start.Add(5*time.Minute+time.Second), 43*time.Second) // the last one is at 5m1s
	expect(t, run(t, h.end(), killing), "5m1s leak kill would :5432")
}

// Limits hold back as they do in a real run, and let go on.
func TestLimits(t *testing.T) {
	h := record(t, recording.Header{})
	for range 5 {
		h.leak(5432)
	}
	h.until(start.Add(10*time.Minute), 5*time.Second)
	r := run(t, h.end(), strings.Replace(killing, "[kill]", "[kill: {limit: 2/1m}]", 1))
	results := make(map[string]int)
	for _, e := range events(r) {
		results[e]++
	}
	want := map[string]int{
		"5m0s leak kill would :5432": 2, "5m0s leak kill held :5432": 3,
		"6m0s leak kill would :5432": 2, "7m0s leak kill would :5432": 1,
	}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Error(diff)
	}
}

// The first kill of each process is a canary, where it is recorded who holds sockets.
func TestCanary(t *testing.T) {
	h := record(t, recording.Header{Holders: true})
	h.holders = map[int]sock.Holder{7: {PID: 7, Start: 1, Comm: "shop"}, 8: {PID: 8, Start: 2, Comm: "other"}}
	h.leak(5432)
	h.leak(5432)
	h.leak(5432).Held = []sim.Holding{{By: []int{8}}}
	h.until(start.Add(10*time.Minute), 4*time.Second)
	r := run(t, h.end(), killing)
	var kills []string
	for _, e := range r.Events {
		if e.Result == "would" {
			kills = append(kills, e.At.Round(time.Second).String()+" "+e.Holders)
		}
	}
	if diff := cmp.Diff([]string{"5m0s shop[7]", "5m0s other[8]", "5m12s shop[7]"}, kills); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Of two rules that want a socket the first one takes it. One of a dry run takes none.
func TestFirstRuleTakesIt(t *testing.T) {
	h := record(t, recording.Header{})
	h.leak(5432)
	h.until(start.Add(10*time.Minute), 5*time.Second)
	file := h.end()
	const two = `
rules:
  - {name: first, match: {state: close-wait, dport: 5432, in_state_for: 2m}, then: [kill]}
  - {name: second, match: {state: close-wait, dport: 5432, in_state_for: 4m}, then: [kill]}
`
	expect(t, run(t, file, two), "2m0s first kill would :5432")
	dry := run(t, file, strings.Replace(two, "first,", "first, dry_run: true,", 1))
	expect(t, dry, "2m0s first kill would :5432", "4m0s second kill would :5432")
	if !dry.Events[0].DryRun || dry.Events[1].DryRun {
		t.Error("the first is the one of a dry run")
	}
}

// Sockets that would be killed are gone for a rule about groups: it fires again once there are
// as many more.
func TestGroups(t *testing.T) {
	h := record(t, recording.Header{})
	for i := range 12 {
		h.At(start.Add(time.Duration(i)*time.Minute), func() { h.leak(5432) })
	}
	h.until(start.Add(15*time.Minute), 5*time.Second)
	r := run(t, h.end(), `
receivers: {oncall: {alertmanager: {urls: ["http://127.0.0.1:9093"]}}}
rules:
  - name: many
    match: {state: close-wait, in_state_for: 30s}
    when: count >= 4
    for: 10s
    then: [alert: {to: oncall, keep_firing_for: 1s}, kill]
`)
	var times, alerts []string
	for _, e := range r.Events {
		if at := e.At.Round(time.Minute).String(); e.Action == rules.Kill {
			times = append(times, at)
		} else {
			alerts = append(alerts, at+" "+string(e.Result))
		}
	}
	if diff := cmp.Diff([]string{"4m0s", "4m0s", "4m0s", "4m0s", "8m0s", "8m0s", "8m0s", "8m0s", "12m0s", "12m0s", "12m0s", "12m0s"}, times); diff != "" {
		t.Errorf("kills (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"4m0s firing", "4m0s resolved", "8m0s firing", "8m0s resolved", "12m0s firing", "12m0s resolved"}, alerts); diff != "" {
		t.Errorf("alerts (-want +got):\n%s", diff)
	}
}

// What else than a kill would be done is told, once for each socket or firing.
func TestOtherActions(t *testing.T) {
	h := record(t, recording.Header{Holders: true})
	h.holders = map[int]sock.Holder{7: {PID: 7, Start: 1, Comm: "shop"}}
	for range 3 {
		h.leak(5432)
	}
	h.until(start.Add(10*time.Minute), 5*time.Second)
	file := h.end()
	gentle := run(t, file, "rules: [{name: gentle, match: {state: close-wait, dport: 5432, in_state_for: 5m}, then: [log, keepalive, shutdown: {canary: off}]}]")
	results := make(map[string]int)
	for _, e := range gentle.Events {
		results[e.Action.Name+" "+string(e.Result)]++
	}
	if diff := cmp.Diff(map[string]int{"log would": 3, "keepalive would": 3, "shutdown would": 3}, results); diff != "" {
		t.Error(diff)
	}
	r := run(t, file, "rules: [{name: dump, match: {state: close-wait}, group_by: [pid], when: count > 2, for: 1m, then: [exec: {command: [/usr/bin/jstack]}, sysctl: {set: {net.ipv4.tcp_fin_timeout: \"30\"}}]}]")
	expect(t, r, "1m0s dump exec would", "1m0s dump sysctl would")
	if e := r.Events[0]; len(e.Group) != 1 || e.Group[0].Value != "7" || e.Sockets != 3 {
		t.Errorf("%+v", e)
	}
}

// Rules that need no socket go by the counters of each scan.
func TestPressure(t *testing.T) {
	h := record(t, recording.Header{})
	h.extra.Pressure = &sock.Pressure{HasOrphans: true, Orphans: 10}
	h.until(start.Add(time.Minute), 5*time.Second)
	h.extra.Pressure = &sock.Pressure{HasOrphans: true, Orphans: 80}
	h.Now = h.Now.Add(5 * time.Second)
	h.until(start.Add(3*time.Minute), 5*time.Second)
	r := run(t, h.end(), `
receivers: {oncall: {alertmanager: {urls: ["http://127.0.0.1:9093"]}}}
rules: [{name: short, when: orphans > 50%, for: 30s, then: [alert: {to: oncall}]}]
`)
	expect(t, r, "1m35s short alert firing")
}

// Who holds a socket counts as it was recorded; where it was not, that is said, and no rule
// that asks for it does anything.
func TestHolders(t *testing.T) {
	const byName = "rules: [{name: leak, match: {state: close-wait, process: shop, in_state_for: 1m}, then: [kill]}]"
	h := record(t, recording.Header{Holders: true})
	h.holders = map[int]sock.Holder{7: {PID: 7, Start: 1, Comm: "shop", Exe: "shop"}, 8: {PID: 8, Start: 2, Comm: "other", Exe: "other"}, 1: {PID: 1, Start: 3, Comm: "shop", Exe: "shop"}}
	h.leak(5432)
	h.leak(5433).Held = []sim.Holding{{By: []int{8}}}
	h.leak(5434).Held = []sim.Holding{{By: []int{1}}} // of a container, not the watchdog
	h.leak(5435).Held = []sim.Holding{{By: []int{7, 8}}}
	h.until(start.Add(3*time.Minute), 5*time.Second)
	r := run(t, h.end(), byName)
	expect(t, r, "1m0s leak kill would :5432", "1m0s leak kill would :5434")
	if len(r.Doubts()) != 0 || r.Events[0].Holders != "shop[7]" {
		t.Errorf("held by %s, doubts %q", r.Events[0].Holders, r.Doubts())
	}
	h = record(t, recording.Header{})
	h.leak(5432)
	h.until(start.Add(3*time.Minute), 5*time.Second)
	r = run(t, h.end(), byName)
	expect(t, r)
	if diff := cmp.Diff([]string{"rule leak asks who holds sockets, and the recording does not tell: sockdog record --holders does"}, r.Doubts()); diff != "" {
		t.Error(diff)
	}
}

// Where a process could not be read, rules by holders replay as far as it is known all the
// same who held what, and what is not is said.
func TestHoldersNotAllKnown(t *testing.T) {
	const byName = "rules: [{name: leak, match: {state: close-wait, process: shop, in_state_for: 1m}, then: [kill]}]"
	apart, near := &sock.Owner{}, &sock.Owner{}
	h := record(t, recording.Header{Holders: true})
	h.holders = map[int]sock.Holder{7: {PID: 7, Start: 1, Comm: "shop", Exe: "shop", Owner: apart}, 8: {PID: 8, Start: 2, Comm: "shop", Exe: "shop", Owner: near}}
	h.refused, h.extra.Settled = true, map[*sock.Owner]bool{apart: true}
	h.leak(5432)
	h.leak(5433).Held = []sim.Holding{{By: []int{8}}}
	h.until(start.Add(3*time.Minute), 5*time.Second)
	r := run(t, h.end(), byName)
	expect(t, r, "1m0s leak kill would :5432")
	want := []string{"of 1 socket the recording does not tell for certain by whom they were held, since not every process could be read: rules that ask for that leave them alone"}
	if diff := cmp.Diff(want, r.Doubts()); diff != "" {
		t.Error(diff)
	}
}

func TestDoubts(t *testing.T) {
	for name, test := range map[string]struct {
		header recording.Header
		rules  string
		want   []string
	}{
		"nothing": {recording.Header{}, killing, nil},
		"command lines": {
			recording.Header{Holders: true}, "rules: [{name: leak, match: {state: close-wait, cmdline: shop, in_state_for: 1m}, then: [kill]}]",
			[]string{"rule leak asks for command lines, which no recording has"},
		},
		"masked names": {
			recording.Header{Holders: true, Masked: []string{recording.Addresses, recording.Names}}, "rules: [{name: leak, match: {state: close-wait, process: shop, in_state_for: 1m}, then: [kill]}]",
			[]string{"rule leak asks for names, which the recording has masked"},
		},
		"protected by name": {
			recording.Header{}, "protect: [{process: sshd}]\n" + killing,
			[]string{"protect asks who holds sockets, and the recording does not tell: sockdog record --holders does; what may be protected is left alone"},
		},
		"ports": {
			recording.Header{}, "rules: [{name: ports, match: {state: established}, when: port_usage > 80%, then: [log]}]",
			[]string{"rule ports asks for port_usage, and the recording has no port ranges"},
		},
		"one namespace": {
			recording.Header{}, "settings: {namespaces: all}\nrules: [{name: many, match: {state: close-wait}, when: count > 5, then: [log]}]",
			[]string{"the rules watch all network namespaces, and the recording has one: sockdog record --namespaces has all"},
		},
		"several namespaces": {
			recording.Header{All: true}, killing,
			[]string{"the rules watch one network namespace, and the recording has several: all of them count here"},
		},
		"disabled": {recording.Header{}, "rules: [{name: leak, enabled: false, match: {state: close-wait, process: shop, in_state_for: 1m}, then: [kill]}]", nil},
	} {
		t.Run(name, func(t *testing.T) {
			masked := test.header.Masked
			test.header.Masked = nil
			h := record(t, test.header)
			h.until(start, time.Second)
			r := run(t, h.end(), test.rules)
			if len(masked) > 0 { // which only a mask can say of itself
				var err error
				h = record(t, test.header)
				var file bytes.Buffer
				mask, err := recording.NewMask(true)
				if err != nil {
					t.Fatal(err)
				}
				if h.writer, err = recording.NewWriter(&file, test.header, mask); err != nil {
					t.Fatal(err)
				}
				h.until(start, time.Second)
				h.end()
				r = run(t, file.Bytes(), test.rules)
			}
			if diff := cmp.Diff(test.want, r.Doubts()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What comes before the damage is replayed, and the damage is told.
func TestDamaged(t *testing.T) {
	h := record(t, recording.Header{})
	h.leak(5432)
	h.until(start.Add(7*time.Minute), 5*time.Second)
	whole := len(h.file.Bytes())
	h.Now = h.Now.Add(5 * time.Second)
	h.until(start.Add(20*time.Minute), 5*time.Second)
	file := h.end()
	r := run(t, file[:whole+5], killing)
	expect(t, r, "5m0s leak kill would :5432")
	damage := (*recording.Damage)(nil)
	if !errors.As(r.Damage, &damage) || !damage.Cut || r.Scans != 85 || r.Took != 7*time.Minute {
		t.Errorf("%d scans in %v, %v", r.Scans, r.Took, r.Damage)
	}
	broken := bytes.Clone(file)
	broken[whole+20] ^= 1
	if r = run(t, broken, killing); !errors.As(r.Damage, &damage) || damage.Cut || r.Scans != 85 {
		t.Errorf("%d scans, %v", r.Scans, r.Damage)
	}
	for _, n := range []int{0, 100} {
		if _, err := replay.Run(bytes.NewReader(file[:n]), parse(t, killing), allAllowed); err == nil {
			t.Errorf("of %d bytes something was replayed", n)
		}
	}
}

// A scan under right checksums that makes no sense ends a replay like any other damage, and
// nothing is told by what it left.
func TestNonsense(t *testing.T) {
	h := record(t, recording.Header{})
	header := h.file.Len()
	h.leak(5432)
	h.until(start.Add(4*time.Minute+58*time.Second), 2*time.Second)
	file := bytes.Clone(h.file.Bytes())
	var content bytes.Buffer
	w, _ := flate.NewWriter(&content, flate.BestSpeed)
	w.Write(binary.AppendUvarint(nil, uint64(2*time.Second))) // sent then
	w.Write([]byte{1, 2, 99})                                 // a while, by the wall clock, and 99 texts
	w.Close()
	frame := func(b []byte) []byte {
		table := crc32.MakeTable(crc32.Castagnoli)
		at := len(b)
		b = binary.LittleEndian.AppendUint32(append(b, 'S'), uint32(content.Len()))
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(content.Bytes(), table))
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], table))
		return append(b, content.Bytes()...)
	}
	r := run(t, frame(file), killing)
	expect(t, r)
	damage := (*recording.Damage)(nil)
	if !errors.As(r.Damage, &damage) || damage.Cut || r.Scans != 150 || r.Took != 4*time.Minute+58*time.Second {
		t.Errorf("%d scans in %v, %v", r.Scans, r.Took, r.Damage)
	}
	if _, err := replay.Run(bytes.NewReader(frame(file[:header:header])), parse(t, killing), allAllowed); !errors.Is(err, replay.ErrEmpty) {
		t.Errorf("%v, want that there is no whole scan", err)
	}
}

// What a kernel would leak is not killed.
func TestKernelsLimits(t *testing.T) {
	h := record(t, recording.Header{})
	s := h.leak(5432)
	s.State, s.Inode = ssfilter.LastAck, 0
	h.until(start.Add(10*time.Minute), 5*time.Second)
	file := h.end()
	const text = "rules: [{name: closing, match: {state: last-ack, dport: 5432, stalled_for: 1m}, then: [kill]}]"
	r, err := replay.Run(bytes.NewReader(file), parse(t, text), func(recording.Header) match.Capabilities {
		return match.Capabilities{match.DestroyOrphan: errors.New("it leaks")}
	})
	if err != nil || len(r.Events) != 0 {
		t.Errorf("%v, %v", events(r), err)
	}
}

// BenchmarkHour replays an hour of 10,000 sockets, with a scan every five seconds.
func BenchmarkHour(b *testing.B) {
	h := record(b, recording.Header{})
	for i := range 10_000 {
		h.Open(uint16(5432 + i%10)).Held = []sim.Holding{{By: []int{7}}}
	}
	for at := start; at <= start.Add(time.Hour); at = at.Add(5 * time.Second) {
		h.Now = at
		for range 500 { // do something
			h.Advance(h.any(), 100, 1000)
		}
		if s := h.any(); s.State == ssfilter.Established { // is closed by its peer
			h.Enter(s, ssfilter.CloseWait)
		}
		h.scan()
	}
	file := h.end()
	for name, text := range map[string]string{
		"close-wait": killing,
		"pools":      "rules: [{name: pool, match: {state: established, dport: 5432-5441, idle_for: 10m}, then: [kill]}]",
		"groups":     "rules: [{name: many, match: {state: [established, close-wait]}, group_by: [dst, dport], when: count > 900, for: 1m, then: [log]}]",
	} {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				n = len(run(b, file, text).Events)
			}
			b.ReportMetric(float64(n), "events")
			b.ReportMetric(float64(len(file)), "B")
		})
	}
}
