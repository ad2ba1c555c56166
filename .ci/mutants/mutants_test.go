// Package mutants breaks the engine on purpose, in one place at a time, and runs its
// tests on that: each mutant is a mistake that would kill what must live, or let live
// what must not, and has to be caught.
//
//	go test ./.ci/mutants                                  whether each still fits the code: seconds
//	go test ./.ci/mutants -break -timeout 1h -v            all of them: a quarter of an hour on two cores
//	go test ./.ci/mutants -break -v -run 'Mutants/.*limit' those whose names contain that
package mutants

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var breaks = flag.Bool("break", false, "run the engine's tests on each mutant")

const top = "../.."

// mutant is a small edit of the engine's code: the text stands in exactly one place.
type mutant struct{ name, from, to string }

var mutants = []mutant{
	// Ages and identity.
	{"no jiffy is subtracted from an age", "got.Add(-max(0, age-precision))", "got.Add(-age)"},
	{"ages count from sent instead of got", "Bound{Safe: got.Add(-max(0, age-precision))", "Bound{Safe: sent.Add(-max(0, age-precision))"},
	{"a cookie alone identifies a connection", "if c.fell(s) {\n\t\treturn false\n\t}\n\thas :=", "if s != nil {\n\t\treturn true\n\t}\n\thas :="},
	{"a kill follows the shutdown of any connection on the same socket", "s.Info.Has&tells != tells || c.fell(s) ||", "s.Info.Has&tells != tells ||"},
	{"a kill follows the shutdown of a connection with the same counters", "return s.Info.BytesReceived != c.Received || sent.Sub(c.Heard.Safe) <= s.Info.LastDataRecv+dataRecvSlack", "return true"},
	{"a kill follows a shutdown at once", "max(x.done, t.Quiet.Safe).Add(gap)", "max(x.done, t.Quiet.Safe)"},
	{"a kill follows a shutdown of which the rule means the connection no more", "case slices.ContainsFunc(r.Match, means) && !excluded():", "case slices.ContainsFunc(r.Match, means), r != nil:"},
	{"a scan begins anew with what an answer has ended meanwhile", "if gone || t.is(seen) {", "if gone {"},
	{"progress does not begin idleness anew", "c.Quiet, c.Queued = fresh.Quiet, fresh.Queued", "c.Queued = fresh.Queued"},
	{"time in an accept queue counts", "c.Entered = c.Entered.notBefore(got)", "_ = got"},
	{"a later stay in a state is taken for the one before", "return s.Entered <= c.Entered.Safe", "return true"},
	{"an exact entry undoes an accept", "case c.Accepted: // since when is known by observation alone\n", ""},
	{"what is shown from memory was asked for by the scan", "return min(f.scan.sent, got)", "return f.scan.sent"},
	{"what is shown from memory is told", "c.answer == recalled &&", "c.answer > exact &&"},
	{"a stall counts from the last progress", "max(base, queued).Add(m.StalledFor)", "base.Add(m.StalledFor)"},
	{"what was received does not break a silence", "c.Heard = fresh.Heard\n", "_ = fresh\n"},
	{"after its FIN the peer is silent, whatever it acknowledges", "case !hears(s):\n\t\tc.Heard = c.Quiet", "case !hears(s):"},
	{"a silence counts from before an accept", "return max(t.Entered.Safe, t.Heard.Safe)", "return t.Heard.Safe"},
	{"what the peer acknowledges breaks a silence", "return silent.Add(max(m.InStateFor, m.SilentFor))", "return base.Add(max(m.InStateFor, m.SilentFor))"},
	{"an action comes before its time", "case now >= met.Add(a.After):", "case now >= met.Add(a.After-1e9):"},

	// What must not be touched.
	{"protect is ignored", "case Any(protect, s) != ssfilter.False:", "case false:"},
	{"unknown is taken for not protected", "case Any(protect, s) != ssfilter.False:", "case Any(protect, s) == ssfilter.True:"},
	{"exclude is ignored", "bool { return Any(r.Exclude, s) != ssfilter.False }", "bool { return false }"},
	{"a match that is unknown is taken for one", "if holds == ssfilter.True && AtPresent(m, s) == ssfilter.True && !inUse {", "if AtPresent(m, s) == ssfilter.True && !inUse {"},
	{"a keepalive timer behind another is taken for none", "case s.Timer == sock.TimerOff, s.Minisocket():", "case s.Timer != sock.TimerKeepalive:"},
	{"use is ignored", "inUse := a.Kind.Destructive && s.InUse() && m.StalledFor == 0", "inUse := false"},
	{"accept queues are not spared", "case s.InBacklog():\n\t\treturn InAcceptQueue", "case false:\n\t\treturn InAcceptQueue"},
	{"MPTCP subflows are not spared", "case s.MPTCP:\n\t\treturn MPTCPSubflow", "case false:\n\t\treturn MPTCPSubflow"},
	{"sockets of the kernel are not spared", "case s.Holders != nil && s.Holders.Kernel && s.Inode != 0:", "case false:"},
	{"sockets of sockdog are not spared", "case s.Holders != nil && s.Holders.By(self):", "case false:"},

	// Who holds a socket.
	{"who cannot be read holds nothing with others", "return len(held) > 0 && !slices.ContainsFunc(held, unsettled)", "return len(held) > 0 || slices.ContainsFunc(held, unsettled)"},
	{"what a process that cannot be read may have now is its former holder's", "held.Processes, held.Kernel = t.holders.Processes, t.holders.Kernel", "held.Processes, held.Kernel, held.Complete = t.holders.Processes, t.holders.Kernel, t.holders.Complete"},
	{"the default protects nothing that is known", "if m.IfKnown && by == ssfilter.Unknown {", "if m.IfKnown {"},
	{"the default stands in the way of what is unknown", "if m.IfKnown && by == ssfilter.Unknown {", "if m.IfKnown && s.Socket == nil {"},
	{"one holder that matches is enough", "holds = min(holds, means(m, &by.Processes[i]))", "holds = max(holds, means(m, &by.Processes[i]))"},
	{"one protected holder is not enough", "holds = max(holds, means(m, &by.Processes[i]))", "holds = min(holds, means(m, &by.Processes[i]))"},
	{"holders that were seen are taken for all", "return by != nil && by.Complete && len(by.Processes) > 0", "return by != nil && len(by.Processes) > 0"},
	{"a name that was cut is taken for a whole one", "case len(p.Comm) >= maxComm && p.Exe != p.Comm && fitsLonger(name, p.Comm):", "case false:"},

	{"holders of long ago are decided by", "return now.Sub(h.At) > e.walks.Fresh()", "return false"},
	{"an act is done by holders of long ago", "if b.recent > 0 && s.Inode != 0 && answer.Got.Sub(b.holders.At) > b.recent {", "if b.recent < 0 {"},
	{"what cannot be counted counts as nothing", "if e.noteUnseen(r, c.unseen) && r.Grouped {", "if e.noteUnseen(r, c.unseen) && r == nil {"},
	{"what waits for a walk counts as nothing", "if c := &l.counts[i]; !c.postponed && !c.dropped {", "if c := &l.counts[i]; c != nil {"},
	{"a pid that is given away is the same group", "be.AppendUint32(b, uint32(first.PID)), first.Start)", "be.AppendUint32(b, uint32(first.PID)), 0)"},
	{"a dry run keeps a socket from who looks first", "t.is(simulated) && e.onlySays(r, action, c.s) {", "t.is(simulated) {"},

	{"who waited to be accepted is forgotten", "if w.stored = t.is(stored); e.scans.waits.add(key, w) {", "if w.stored = t.is(stored); w.stored {"},
	{"who waited is forgotten on disk", "\t\t\tt.set(stored, false) // it is not forgotten\n", ""},
	{"who waited is forgotten by a scan that misses it", "waitScans, crowdedScans = 100, 10", "waitScans, crowdedScans = 1, 1"},
	{"a scan that came to nothing showed nobody waiting", "\t\te.takeWaits(in.Result)\n\t\te.schedule.Dropped()\n", "\t\te.schedule.Dropped()\n"},
	{"a source takes for older who was accepted", "return s.Entered == 0 || agrees(track.TimesOf(s, sent, got, precision))", "return true"},
	{"silence counts before the accept", " && near(t.SilentBase(), known.SilentBase())", ""},

	// Deciding and acting.
	{"nothing is decided again right before the act", "\tb := a.basis\n\tseen, s := b.seen, answer.Socket\n", "\tb := a.basis\n\tseen, s := b.seen, answer.Socket\n\tif s.State != 0 {\n\t\treturn \"\"\n\t}\n"},
	{"a dry run acts", "if a.DryRun {\n\t\ttaken.End(now)", "if a.DryRun && now < 0 {\n\t\ttaken.End(now)"},
	{"an action is done again", "m != nil && !m.open && a.Kind != rules.Alert", "m != nil && !m.open && a.Kind != rules.Alert && a.Kind.Destructive"},
	{"what is not known of a process is taken for something else", "case !fact.Known:\n\t\treturn ssfilter.Unknown", "case !fact.Known:\n\t\treturn ssfilter.False"},
	{"a container without a name is taken for another", "case !id && o.Container == \"\":\n\t\t\tholds = ssfilter.Unknown", "case !id && o.Container == \"\":\n\t\t\tholds = ssfilter.False"},
	{"a command line that was not compared is taken for another", "case !known:\n\t\t\tholds = ssfilter.Unknown", "case !known:\n\t\t\tholds = ssfilter.False"},
	{"a failed scan counts as an empty one", "e.scanFailed(l.of, in.Err, now)\n\t\treturn\n", "e.scanFailed(l.of, in.Err, now)\n\t\tin.Result = &ScanResult{scan: l, later: never, nextMature: never}\n"},
	{"what a scan does not show is gone", "if t.of&l.of != 0 && !t.is(seen) && t.phase == waiting && e.shutOf(t) == nil {\n\t\t\te.wait(t, now)", "if t.of&l.of != 0 && !t.is(seen) && t.phase == waiting && e.shutOf(t) == nil {\n\t\t\te.drop(t, Gone, now)"},
	{"scans are skipped although groups are active", "finds == schedule.Anything || e.groupsWait(c) ||", "finds == schedule.Anything ||"},

	// Limits.
	{"a limit lets one more pass", "max(0, w.Limit.N-w.underWay-w.granted-len(w.counting(now)))", "max(0, w.Limit.N+1-w.underWay-w.granted-len(w.counting(now)))"},
	{"the limit of all rules is ignored", "limit.Throttle{own, all}", "limit.Throttle{own}"},
	{"actions under way do not count", "w.underWay++", "w.underWay += 0"},
	{"what is held has no order", "t.set(newestFirst, a.Order == rules.Newest)", "t.set(newestFirst, a.Order != rules.Newest)"},
	{"a reload forgets limits", "history: e.historyOf(r.ID)", "history: func() *history { delete(e.histories, r.ID); return e.historyOf(r.ID) }()"},
	{"a restart forgets limits", "h.real.Spend(at)", "_, _ = h, at"},
	{"a pause holds nothing back", "if w.Closed {\n\t\treturn 0", "if w.Limit.N < 0 {\n\t\treturn 0"},
	{"a pause does not end by itself", "if e.Paused() && now >= e.pausedUntil {", "if e.Paused() && now < 0 {"},

	// Groups and alerts.
	{"the ports of namespaces are not kept apart", "append(u.key[:0], byte(in.number>>8), byte(in.number))", "append(u.key[:0], 0, 1)"},
	{"growth is counted twice", "c.fresh++", "c.fresh += 2"},
	{"for is not waited out", "if r.For == 0 || sent.Sub(g.Holding) >= r.For {", "if r.For >= 0 {"},
	{"for is counted from the question", "g.Holding = got", "g.Holding = sent"},
	{"until is ignored", "over = m.all(r.Until)", "over = !holds"},
	{"a stale group is acted on", "case g.stale || rg.scanned == 0 || now.Sub(rg.scanned) > trusted:", "case false:"},
	{"what is short is not known, and counts as nothing", "case r.Whole && missing != \"\":", "case r.Whole && missing != \"\" && now < 0:"},
	{"descriptors that cannot be read are none", "\t\tc.unseen = true\n\t}\n}\n", "\t\t_ = c\n\t}\n}\n"},
	{"what was dropped ever was dropped in a minute", "of = &drops{ever: n, at: now}", "of = &drops{at: now}"},
	{"keep_firing_for is ignored", "end := g.Ended.Add(st.rule.Then[action].Alert.KeepFiringFor)", "end := g.Ended"},
}

// TestMutants looks for the code that each mutant changes, and with -break changes it in
// a copy of the tree, whose tests must fail then.
func TestMutants(t *testing.T) {
	dir := top
	if *breaks {
		dir = t.TempDir()
		list := exec.Command("sh", "-c", `git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$0" 2>/dev/null; test -f "$0/go.mod"`, dir)
		list.Dir = top
		if out, err := list.CombinedOutput(); err != nil {
			t.Fatalf("copying the tree: %v: %s", err, out)
		}
		if passed, out := tested(dir); !passed {
			t.Fatalf("the tests fail on the code as it is:\n%s", out)
		}
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			file, code := find(t, dir, m.from)
			if !*breaks {
				return
			}
			write := func(code []byte) {
				if err := os.WriteFile(file, code, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			defer write(code)
			write(bytes.Replace(code, []byte(m.from), []byte(m.to), 1))
			switch passed, out := tested(dir); {
			case passed:
				t.Error("not caught")
			case strings.Contains(out, "[build failed]"), strings.Contains(out, "[setup failed]"):
				t.Errorf("it does not build:\n%s", out)
			}
		})
	}
}

// find returns the one file of the engine that has the text.
func find(t *testing.T, dir, text string) (file string, code []byte) {
	t.Helper()
	places := 0
	err := filepath.WalkDir(filepath.Join(dir, "internal/engine"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if n := bytes.Count(b, []byte(text)); n > 0 {
			places, file, code = places+n, path, b
		}
		return err
	})
	if err != nil || places != 1 {
		t.Fatalf("the code to change stands in %d places (%v):\n%s", places, err, text)
	}
	return file, code
}

func tested(dir string) (passed bool, output string) {
	cmd := exec.Command("go", "test", "-failfast", "-vet=off", "./internal/engine/...", "./internal/sim/...")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return err == nil, string(out)
}
