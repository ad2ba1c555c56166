package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// ofProcess has each match of a rule ask for processes of these names.
func ofProcess(names ...string) func(*rules.Rule) {
	return func(r *rules.Rule) {
		r.Match = slices.Clone(r.Match)
		for i := range r.Match {
			r.Match[i].Processes = names
		}
	}
}

func process(pid int, name string) sock.Holder {
	return sock.Holder{PID: pid, Start: uint64(pid), Comm: name, Exe: name}
}

func anyOf(names ...string) rules.Match {
	return rules.Match{States: ssfilter.AllStates, Processes: names}
}

// A socket is killed where it is certain that its holders are those that the rule means,
// and none that it excludes or that are protected; each is due ten seconds after the start.
func TestKillsByProcess(t *testing.T) {
	leaky, other := process(2, "leaky"), process(3, "other")
	in := func(h sock.Holder, o sock.Owner) sock.Holder {
		h.Owner = &o
		return h
	}
	is := func(text string) sock.Fact { return sock.Fact{Text: text, Known: true} }
	inAPI, inWeb := in(leaky, sock.Owner{PodUID: is("1"), Pod: "payments/api"}), in(other, sock.Owner{PodUID: is("2"), Pod: "shop/web"})
	inNone, inSome := in(other, sock.Owner{PodUID: is("")}), in(other, sock.Owner{PodUID: is("3")})
	ofPod := func(r *rules.Rule) { r.Match[0].Pods = []string{"payments/*"} }
	pods := rules.Match{States: ssfilter.AllStates, Pods: []string{"payments/*"}}
	for _, test := range []struct {
		name    string
		rule    rules.Rule
		protect []rules.Match
		holders []sock.Holder
		partial bool // a process cannot be read
		settled bool // which belongs elsewhere than those that belong nowhere
		kills   bool
		says    match.Reason
		unsure  bool // it is protected only as that cannot be told
	}{
		{name: "the only holder matches", rule: killing("r", ofProcess("leaky")), holders: []sock.Holder{leaky}, kills: true},
		{name: "all holders match", rule: killing("r", ofProcess("leaky", "other")), holders: []sock.Holder{leaky, other}, kills: true},
		{name: "one of them does not", rule: killing("r", ofProcess("leaky")), holders: []sock.Holder{leaky, other}},
		{name: "another holds it", rule: killing("r", ofProcess("leaky")), holders: []sock.Holder{other}},
		{name: "nobody does", rule: killing("r", ofProcess("leaky"))},
		{name: "one that cannot be read may", rule: killing("r", ofProcess("leaky")), holders: []sock.Holder{leaky}, partial: true, says: match.HoldersUnknown},
		{name: "one that cannot be read belongs elsewhere", rule: killing("r", ofProcess("leaky")), holders: []sock.Holder{leaky}, partial: true, settled: true, kills: true},
		{name: "it may hold it with one of them", rule: killing("r", ofProcess("leaky")), holders: []sock.Holder{leaky, inAPI}, partial: true, settled: true, says: match.HoldersUnknown},
		{name: "it may hold it alone", rule: killing("r", ofProcess("leaky")), partial: true, settled: true, says: match.HoldersUnknown},
		{name: "none is excluded, and it belongs elsewhere", rule: killing("r", exclude(anyOf("other"))), holders: []sock.Holder{leaky}, partial: true, settled: true, kills: true},
		{name: "none is protected, and it belongs elsewhere", rule: killing("r"), protect: []rules.Match{anyOf("other")}, holders: []sock.Holder{leaky}, partial: true, settled: true, kills: true},
		{name: "one is protected, and it belongs elsewhere", rule: killing("r"), protect: []rules.Match{anyOf("leaky")}, holders: []sock.Holder{leaky}, partial: true, settled: true, says: match.Protected},
		{name: "it may hold alone what is protected", rule: killing("r"), protect: []rules.Match{anyOf("other")}, partial: true, settled: true, unsure: true, says: match.Protected},
		{name: "nobody knows", rule: killing("r", ofProcess("leaky")), partial: true, says: match.HoldersUnknown},
		{name: "one is excluded", rule: killing("r", exclude(anyOf("other"))), holders: []sock.Holder{leaky, other}},
		{name: "none is excluded", rule: killing("r", exclude(anyOf("another"))), holders: []sock.Holder{leaky, other}, kills: true},
		{name: "one that cannot be read may be excluded", rule: killing("r", exclude(anyOf("other"))), holders: []sock.Holder{leaky}, partial: true, says: match.HoldersUnknown},
		{name: "one is protected", rule: killing("r"), protect: []rules.Match{anyOf("other")}, holders: []sock.Holder{leaky, other}, says: match.Protected},
		{name: "none is protected", rule: killing("r"), protect: []rules.Match{anyOf("another")}, holders: []sock.Holder{leaky, other}, kills: true},
		{name: "one that cannot be read may be protected", rule: killing("r"), protect: []rules.Match{anyOf("other")}, holders: []sock.Holder{leaky}, partial: true, unsure: true, says: match.Protected},
		{name: "the holder's pod matches", rule: killing("r", ofPod), holders: []sock.Holder{inAPI}, kills: true},
		{name: "the pod of one does not", rule: killing("r", ofPod), holders: []sock.Holder{inAPI, inWeb}},
		{name: "one is in none", rule: killing("r", ofPod), holders: []sock.Holder{inAPI, inNone}},
		{name: "one has a pod without a name", rule: killing("r", ofPod), holders: []sock.Holder{inAPI, inSome}, says: match.OwnerUnknown},
		{name: "nothing is known of one", rule: killing("r", ofPod), holders: []sock.Holder{inAPI, other}, says: match.OwnerUnknown},
		{name: "the pod of one is excluded", rule: killing("r", exclude(pods)), holders: []sock.Holder{inAPI, inSome}},
		{name: "the pod of one may be excluded", rule: killing("r", exclude(pods)), holders: []sock.Holder{inWeb, inSome}, says: match.OwnerUnknown},
		{name: "the pod of none is excluded", rule: killing("r", exclude(pods)), holders: []sock.Holder{inWeb, inNone}, kills: true},
		{name: "the pod of one is protected", rule: killing("r"), protect: []rules.Match{pods}, holders: []sock.Holder{inAPI, inNone}, says: match.Protected},
		{name: "the pod of one may be protected", rule: killing("r"), protect: []rules.Match{pods}, holders: []sock.Holder{inSome}, says: match.Protected},
	} {
		for _, cost := range []time.Duration{0, 400 * time.Millisecond} {
			for _, age := range []time.Duration{0, time.Hour} {
				t.Run(fmt.Sprintf("%s, a walk takes %v, at the start it is %v old", test.name, cost, age), func(t *testing.T) {
					b := newBench(t)
					b.walkCost, b.partial, b.settled = cost, test.partial, map[*sock.Owner]bool{nil: test.settled}
					b.holders = func(uint32) []sock.Holder { return test.holders }
					b.add(1, age)
					s := set(test.rule)
					s.Protect = append(s.Protect, test.protect...)
					b.rule(s)
					b.until(5 * time.Minute)
					killed := b.killedOf(1, 1) == 1
					if killed != test.kills {
						t.Fatalf("killed: %v: %v", killed, b.events)
					}
					due, late := max(0, 10*time.Second-age), 2*cost
					if due == 0 {
						late += 1300 * time.Millisecond // it is seen first how much CPU they use
					}
					if killed && !slices.ContainsFunc(b.events, func(e string) bool {
						at, _ := time.ParseDuration(strings.Fields(e)[0])
						return at >= due && at <= due+late
					}) {
						t.Errorf("not on time: %v", b.events)
					}
					if n := b.e.rules[0].history.skips[test.says]; test.says != "" && n == 0 {
						t.Errorf("nothing says %s: %v", test.says, b.e.rules[0].history.skips)
					}
					if blind := b.e.Overview(b.now).Rules[0].Blind; blind != (test.says == match.HoldersUnknown || test.unsure) {
						t.Errorf("it decides nothing as nobody can be seen: %v", blind)
					}
					if b.walks > 8 {
						t.Errorf("%d walks in five minutes", b.walks)
					}
				})
			}
		}
	}
}

// What is due when it is first seen, and is to be killed by a rule that asks who holds it,
// is not late for the walk where there was time for one.
func TestProcessIsFoundAhead(t *testing.T) {
	b := newBench(t)
	b.walkCost = 500 * time.Millisecond
	b.holders = func(inode uint32) []sock.Holder {
		return []sock.Holder{process(2+int(inode%2), []string{"leaky", "other"}[inode%2])}
	}
	for cookie := uint64(1); cookie <= 20; cookie++ {
		b.add(cookie, 0)
	}
	b.rule(set(killing("r", ofProcess("leaky"))))
	b.until(10*time.Second + 20*time.Millisecond)
	if n := b.killedOf(1, 20); n != 10 || len(b.sockets) != 10 {
		t.Errorf("%d of 10 were killed when they fell due: %v", n, b.events)
	}
}

// Those that a limit holds back, or that wait for long, are killed by who holds them then,
// whether that is another process or one that cannot be read; and to see that takes a walk a
// minute.
func TestPassedOnBeforeItsTurn(t *testing.T) {
	leaky, other, later := []sock.Holder{process(2, "leaky")}, []sock.Holder{process(3, "other")}, []sock.Holder{process(2, "other")}
	later[0].Start++
	for name, then := range map[string][]sock.Holder{"to another": other, "to a later one of its PID": later, "to one that cannot be read": nil} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.partial, b.settled = then == nil, map[*sock.Owner]bool{nil: true}
			passed := false
			b.holders = func(inode uint32) []sock.Holder {
				if passed && inode != 3 {
					return then
				}
				return leaky
			}
			for cookie := uint64(1); cookie <= 10; cookie++ {
				b.add(cookie, time.Hour-time.Duration(cookie)*time.Second)
			}
			b.rule(set(killing("r", ofProcess("leaky"), limited(2, time.Minute))))
			b.until(30 * time.Second)
			if n := b.killedOf(1, 10); n != 2 {
				t.Fatalf("%d killed within the first limit: %v", n, b.events)
			}
			passed = true
			b.until(10 * time.Minute)
			walks := b.walks
			b.until(20 * time.Minute)
			if got := b.left(); len(got) != 7 || b.sockets[3] != nil || b.walks-walks > 15 {
				t.Errorf("after %d walks left are %v, want the 7 that another holds: %v", b.walks-walks, got, b.events)
			}
		})
	}
}

// What protects the programs that are seen to hold a socket costs no walk that nothing else
// is for, and stands in no other's way, whoever may hold it.
func TestProtectedIfKnown(t *testing.T) {
	agents := rules.Match{States: ssfilter.AllStates, Processes: []string{"sshd"}, IfKnown: true}
	watching := func(r *rules.Rule) { r.Then = []rules.Action{{Kind: rules.Log}} }
	for _, test := range []struct {
		name    string
		rule    rules.Rule
		holders []sock.Holder
		partial bool // a process cannot be read
		slow    bool // no walk ends
		kills   bool
	}{
		{name: "it holds it", rule: killing("r"), holders: []sock.Holder{process(2, "sshd")}},
		{name: "it is among those that hold it", rule: killing("r"), holders: []sock.Holder{process(3, "java"), process(2, "sshd")}, partial: true},
		{name: "another holds it", rule: killing("r"), holders: []sock.Holder{process(3, "java")}, kills: true},
		{name: "one that cannot be read may hold it, too", rule: killing("r"), holders: []sock.Holder{process(3, "java")}, partial: true, kills: true},
		{name: "nobody is seen to hold it", rule: killing("r"), partial: true, kills: true},
		{name: "nobody knows in time", rule: killing("r"), slow: true, kills: true},
		{name: "a rule that watches", rule: killing("r", watching)},
	} {
		t.Run(test.name, func(t *testing.T) {
			walks := func(protect ...rules.Match) int {
				b := newBench(t)
				b.holders = func(uint32) []sock.Holder { return test.holders }
				b.partial, b.slow = test.partial, test.slow
				b.add(1, 0)
				s := set(test.rule)
				s.Protect = append(s.Protect, protect...)
				b.rule(s)
				b.until(5 * time.Minute)
				if killed := b.killedOf(1, 1) == 1; protect != nil && killed != test.kills {
					t.Errorf("killed: %v: %v", killed, b.events)
				}
				return b.walks
			}
			if with, without := walks(agents), walks(); with > without {
				t.Errorf("%d walks, and %d where it is not protected", with, without)
			}
		})
	}
}

// An act is not done once it is too long ago that it was looked for who holds the socket:
// its record may have taken long.
func TestHoldersAreOld(t *testing.T) {
	b := newBench(t)
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(2, "leaky")} }
	b.add(1, time.Hour)
	var last []match.Reason
	b.destroy = func(a *Action) Outcome {
		for _, d := range []time.Duration{0, 8 * time.Second, 30 * time.Second} {
			answer := b.answer(a.Socket.ID, b.now.Add(d))
			last = append(last, a.Recheck(&answer))
		}
		delete(b.sockets, 1)
		return Outcome{Act: *a}
	}
	b.rule(set(killing("r", ofProcess("leaky"))))
	b.until(5 * time.Second)
	if want := []match.Reason{"", "", match.HoldersOld}; !slices.Equal(last, want) {
		t.Errorf("rechecked: %q, want %q", last, want)
	}
}

// Sockets that are due, and that another process than the rule means holds, cost one walk
// a minute, whatever their number, and nothing is asked of the kernel for them.
func TestSparedByProcess(t *testing.T) {
	b := newBench(t)
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(3, "other")} }
	for cookie := uint64(1); cookie <= 100; cookie++ {
		b.add(cookie, time.Hour)
	}
	b.rule(eachSecond(killing("r", ofProcess("leaky"))))
	b.until(5 * time.Second)
	walks, asks := b.walks, b.asks
	b.until(10 * time.Minute)
	if b.walks-walks > 10 || b.asks-asks > 10*100 || len(b.events) > 0 {
		t.Errorf("%d walks, %d questions: %v", b.walks-walks, b.asks-asks, b.events)
	}
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(2, "leaky")} }
	b.until(12 * time.Minute)
	if len(b.sockets) > 0 {
		t.Errorf("%d are left that the rule means now", len(b.sockets))
	}
}

// A rule that alerts by process, and one that logs, wait for the walk, too.
func TestAlertsByProcess(t *testing.T) {
	b := newBench(t)
	b.walkCost = 300 * time.Millisecond
	b.holders = func(inode uint32) []sock.Holder {
		return []sock.Holder{process(2+int(inode%2), []string{"leaky", "other"}[inode%2])}
	}
	for cookie := uint64(1); cookie <= 6; cookie++ {
		b.add(cookie, time.Hour, keepsAlive) // so that each scan has them considered
	}
	alerting := killing("alert", ofProcess("leaky"), func(r *rules.Rule) {
		r.Then = []rules.Action{{Kind: rules.Alert, Alert: &rules.AlertOptions{}}}
	})
	b.rule(set(alerting, killing("log", ofProcess("other"), logging)))
	b.until(20 * time.Minute)
	if len(b.alarms) != 1 || b.e.rules[0].due != 3 {
		t.Errorf("%d alerts fire, about %d sockets", len(b.alarms), b.e.rules[0].due)
	}
	logged := 0
	for _, e := range b.events {
		if strings.Contains(e, "log log done") {
			logged++
		}
	}
	if logged != 3 {
		t.Errorf("%d were logged: %v", logged, b.events)
	}
	b.partial = true // what nobody can tell ends no alert
	b.until(30 * time.Minute)
	if len(b.alarms) != 1 || b.e.rules[0].due != 3 {
		t.Errorf("not all can be read: %d alerts fire, about %d sockets", len(b.alarms), b.e.rules[0].due)
	}
}

// A socket that waited to be accepted, and was by a process that the rule does not mean,
// counts from then on once that passes it to one that it does.
func TestPassedOnByWhoAccepted(t *testing.T) {
	b := newBench(t)
	holder := process(3, "other")
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{holder} }
	s := b.add(1, time.Hour, func(s *sim.Socket) { s.Inode, s.UID = 0, 0 })
	m := rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: 5 * time.Minute, Processes: []string{"leaky"}}
	b.rule(eachSecond(killing("r", matching(m))))
	b.until(10 * time.Second)
	s.Inode, s.UID, s.Accepted = 1, 1000, b.now
	b.until(20 * time.Second)
	if b.e.Watches(s.ID.Key()) {
		t.Error("watched for a rule that does not mean it")
	}
	holder = process(2, "leaky")
	b.until(5*time.Minute + 9*time.Second)
	if len(b.sockets) == 0 {
		t.Fatalf("killed before it was there for five minutes: %v", b.events)
	}
	b.until(7 * time.Minute)
	if len(b.sockets) > 0 {
		t.Error("forgotten")
	}
}

// A dry run keeps no socket from a rule that acts by who holds it, nor from its log.
func TestDryRunBesideProcess(t *testing.T) {
	b := newBench(t)
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(2, "leaky")} }
	b.add(1, 0)
	dry := killing("dry", dryRun)
	b.rule(set(dry, killing("other", ofProcess("other")))) // for which it is looked who holds it
	b.until(25 * time.Second)
	b.rule(set(dry, killing("log", ofProcess("leaky"), logging), killing("r", ofProcess("leaky"))))
	b.until(2 * time.Minute)
	b.want("10s dry kill would 1", "25s log log done 1", "25s r kill done 1")
}

// A socket that its program has closed is protected where a process may protect it: nobody
// knows who held it last.
func TestClosedIsProtectedByProcess(t *testing.T) {
	b := newBench(t)
	b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(2, "leaky")} }
	s := b.add(1, 0, func(s *sim.Socket) { s.State = ssfilter.FinWait2 })
	rule := set(killing("r", matching(rules.Match{States: ssfilter.Of(ssfilter.FinWait2), InStateFor: 10 * time.Second})))
	rule.Protect = append(rule.Protect, anyOf("sshd"))
	b.rule(rule)
	b.until(8 * time.Second)
	if !b.e.knowsHolders(b.e.tracks.get(s.ID.Key()), b.now) {
		t.Fatal("nobody has looked who holds it")
	}
	s.Inode = 0
	b.until(2 * time.Minute)
	if len(b.sockets) == 0 {
		t.Errorf("killed: %v", b.events)
	}
}

// Sockets of which nothing falls due for long, and whose holders are only shown, cost few
// walks where those cost much; a walk comes before the act all the same.
func TestShownByProcess(t *testing.T) {
	inAnHour := matching(rules.Match{States: ssfilter.Of(ssfilter.CloseWait), InStateFor: time.Hour})
	for _, name := range []string{"leaky", "other"} {
		b := newBench(t)
		b.walkCost = 100 * time.Millisecond
		b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(2, name)} }
		for cookie := uint64(1); cookie <= 100; cookie++ {
			b.add(cookie, 0)
		}
		b.rule(eachSecond(killing("r", inAnHour, ofProcess("leaky"))))
		b.until(50 * time.Minute)
		if b.walks < 3 || b.walks > 8 {
			t.Errorf("held by %s: %d walks in 50 minutes", name, b.walks)
		}
		b.holders = func(uint32) []sock.Holder { return []sock.Holder{process(2, "leaky")} } // they are passed on
		b.until(time.Hour + 2*time.Minute)
		if len(b.sockets) > 0 {
			t.Errorf("held by %s: %d are left that the rule means now", name, len(b.sockets))
		}
	}
}
