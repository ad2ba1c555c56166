package engine

import (
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// wholly makes a rule about a network namespace or the host as a whole.
func wholly(m rules.Metric, over float64) func(r *rules.Rule) {
	return func(r *rules.Rule) {
		r.Match, r.GroupBy, r.When = nil, nil, []rules.Condition{{Metric: m, Op: rules.Greater, Number: over}}
	}
}

// TestPressure: what the counters tell of the host and of network namespaces as a whole has
// rules fire, and no scan is made for them.
func TestPressure(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Pressure: &sock.Pressure{HasOrphans: true, Orphans: 79}}
	b.rule(set(above(0, wholly(rules.Orphans, 80))))
	b.until(20 * time.Second)
	b.count.Pressure.Orphans = 81
	b.until(30 * time.Second)
	known := b.count.Pressure
	b.count.Pressure = nil // neither counts nor resets
	b.until(32 * time.Second)
	b.count.Pressure = known
	b.until(60 * time.Second)
	b.count.Pressure.Orphans = 12
	b.until(2 * time.Minute)
	b.want("21s r pending count 0", "33s r alert 0 count 0", "33s r firing count 0", "1m1s r alert 0 ended", "1m1s r quiet count 0")
	if len(b.scans) > 0 || b.counts > 2*60+1 {
		t.Errorf("%d scans and %d readings of the counters, want no scan", len(b.scans), b.counts)
	}
}

// TestListenDropsByNetns: each network namespace is a group, or they are added up.
func TestListenDropsByNetns(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Pressure: &sock.Pressure{ListenDrops: map[uint32]uint64{7: 1000, 8: 1000}}}
	each := above(0, wholly(rules.ListenDrops, 10), func(r *rules.Rule) { r.Name, r.GroupBy, r.For = "each", []rules.GroupKey{rules.ByNetns}, 0 })
	all := above(0, wholly(rules.ListenDrops, 10), func(r *rules.Rule) { r.Name, r.For = "all", 0 })
	s := set(each, all)
	s.Settings.Interval = 5 * time.Second
	b.rule(s)
	b.later(20*time.Second, func() { b.count.Pressure.ListenDrops = map[uint32]uint64{7: 1006, 8: 1006} })
	b.later(30*time.Second, func() { b.count.Pressure.ListenDrops = map[uint32]uint64{7: 1006, 8: 1012} })
	b.later(60*time.Second, func() { b.count.Pressure.ListenDrops = map[uint32]uint64{7: 1006} })
	b.until(2 * time.Minute)
	b.want(
		"20s all alert 0 count 0", "20s all firing count 0", "30s each alert 0 netns=8 count 0", "30s each firing netns=8 count 0",
		"1m0s all alert 0 ended", "1m0s all quiet count 0", "1m0s each alert 0 netns=8 ended", "1m0s each quiet netns=8 count 0")
}

// TestPressureNotKnown: a rule whose metric is not known waits, and that is said once; other
// rules do not wait for it.
func TestPressureNotKnown(t *testing.T) {
	b := newBench(t)
	b.count = CountersRead{OK: true, Pressure: &sock.Pressure{HasOrphans: true, Orphans: 90}}
	memory := above(0, wholly(rules.TCPMemory, 80), func(r *rules.Rule) { r.Name = "memory" })
	b.rule(set(memory, above(0, wholly(rules.Orphans, 80), func(r *rules.Rule) { r.For = 0 })))
	b.until(time.Minute)
	b.want("0s r alert 0 count 0", "0s r firing count 0")
	if n := b.noted(NotMeasured); n != 1 {
		t.Errorf("said %d times that the memory is not known, want once", n)
	}
}
