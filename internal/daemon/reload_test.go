package daemon_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/rules"
)

const (
	leakAfter4s = "  - {name: leak, match: {state: close-wait, dport: 5432, in_state_for: 4s}, then: kill}\n"
	another     = "  - {name: another, match: {state: close-wait, dport: 5433, in_state_for: 2s}, then: kill}\n"
)

// A rule that says what it said before goes on where it was, and one that is new,
// changed or gone is in force at once.
func TestReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l, m := w.listen(nstest.V4, 5432), w.listen(nstest.V4, 5433)
	connected := func(l nstest.Socket) nstest.Pair {
		p := w.pair(l)
		check(t, p.Client.Keepalive())
		check(t, p.Server.Keepalive())
		return p
	}
	w.watch(often + "rules:\n" + leakAfter4s)
	p, q := connected(l), connected(m)
	s := w.hangUp(p.Client, p.Server.CloseWrite)
	other := w.hangUp(q.Client, q.Server.CloseWrite)
	w.reach(s.since.Add(3200 * time.Millisecond))
	w.lives(other, unix.BPF_TCP_CLOSE_WAIT)

	reloaded := w.options.Now()
	w.rules <- daemon.Reload{Rules: w.parse(often + "rules:\n" + another + leakAfter4s)}
	w.dies(s, 4*time.Second)
	w.knownBefore(s, reloaded)
	w.dies(other, 2*time.Second)

	w.rules <- daemon.Reload{Rules: w.parse(often + "rules:\n" + leakAfter4s)}
	p, q = connected(l), connected(m)
	other = w.hangUp(q.Client, q.Server.CloseWrite)
	w.dies(w.hangUp(p.Client, p.Server.CloseWrite), 4*time.Second)
	w.lives(other, unix.BPF_TCP_CLOSE_WAIT)
}

// What a reload changes is said by name, as far as it does anything, and what touches
// nothing.
func TestReloadSaysWhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.File, w.options.StateDir = status.RulesFile{Path: "r.yaml"}, "/var/lib/sockdog"
	rule := func(name, more string) string {
		return "  - {name: " + name + ", " + more + "match: {state: close-wait, dport: 5432, in_state_for: 5m}, then: kill}\n"
	}
	many := ""
	for i := range 100 {
		many += rule(fmt.Sprintf("many-%d", i), "dry_run: true, ")
	}
	said := func(text string) map[string]any {
		t.Helper()
		before := w.count("rules reloaded")
		w.rules <- daemon.Reload{Rules: w.parse(text)}
		w.until("the line", func() bool { return w.count("rules reloaded") > before })
		return w.attrs("rules reloaded")
	}
	w.watch("rules:\n" + rule("a", "") + rule("b", "dry_run: true, ") + rule("c", "enabled: false, dry_run: true, "))
	want := map[string]any{"rules": 3., "file": "r.yaml", "dry_run_rules": "b", "kill_possible": true, "state_dir": "/var/lib/sockdog"}
	if diff := cmp.Diff(want, w.attrs("watching")); diff != "" {
		t.Errorf("watching (-want +got):\n%s", diff)
	}
	for _, test := range []struct {
		text string
		want map[string]any
	}{
		{"# b before a, and described\nrules:\n" + rule("b", "description: B, dry_run: true, ") + rule("a", ""), map[string]any{
			"rules": 2., "removed": "c", "dry_run_rules": "b",
		}},
		{"rules:\n" + rule("d", "") + rule("a", "dry_run: true, ") + rule("b", ""), map[string]any{
			"rules": 3., "added": "d", "changed": "a, b", "dry_run_rules": "a",
		}},
		{"settings: {dry_run: true}\nrules:\n" + rule("d", ""), map[string]any{
			"rules": 1., "changed": "d", "removed": "a, b", "dry_run_rules": "all",
		}},
	} {
		if diff := cmp.Diff(test.want, said(test.text)); diff != "" {
			t.Errorf("after\n%s(-want +got):\n%s", test.text, diff)
		}
	}
	added := said("rules:\n" + many)["added"].(string)
	if !strings.HasPrefix(added, "many-0, many-1, ") || !strings.HasSuffix(added, " more") || len(added) > 400 {
		t.Errorf("of 100 rules it says %q; want the first and how many more", added)
	}
}

// attrs are those of the newest line of the log with that message.
func (w *world) attrs(msg string) map[string]any {
	w.Helper()
	var found map[string]any
	for text := range strings.Lines(w.log.String()) {
		var l map[string]any
		check(w, json.Unmarshal([]byte(text), &l))
		if l["msg"] == msg {
			found = l
		}
	}
	for _, key := range []string{"time", "level", "msg"} {
		delete(found, key)
	}
	return found
}

// A reload with many mistakes, or large ones, is one line of bounded length.
func TestManyMistakesAreOneLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.File = status.RulesFile{Path: "r.yaml"}
	w.watch("rules: []")
	text := "rules:\n"
	for i := range 900 {
		text += fmt.Sprintf("  - {name: r%d, match: {state: [\"%s\"]}}\n", i, strings.Repeat("ä\\\"", 200))
	}
	_, err := rules.Parse(strings.NewReader(text))
	w.rules <- daemon.Reload{Err: fmt.Errorf("r.yaml: %w", err)}
	bad := func(l line) bool { return strings.HasPrefix(l.Msg, "rules not reloaded") }
	w.until("the line", func() bool { return len(w.lines(bad)) == 1 })
	told := w.lines(bad)[0].Error
	if whole, _ := json.Marshal(told); len(whole) > 1800 || !strings.HasPrefix(told, "r.yaml:2:") || !strings.HasSuffix(told, "and 897 more: sockdog check r.yaml") {
		t.Errorf("%d bytes: %s; want the first mistakes and a count", len(whole), whole)
	}
	w.rules <- daemon.Reload{Err: errors.New("open " + strings.Repeat("long/", 800))}
	w.until("the line", func() bool { return len(w.lines(bad)) == 2 })
	if told := w.lines(bad)[1].Error; len(told) > 1000 || !utf8.ValidString(told) {
		t.Errorf("an error of %d bytes: %.100s…", len(told), told)
	}
}

// Rules with a mistake change nothing.
func TestBadReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.pair(w.listen(nstest.V4, 5432))
	check(t, p.Client.Keepalive())
	w.watch(often + "rules:\n" + leakAfter4s)
	s := w.hangUp(p.Client, p.Server.CloseWrite)
	w.reach(s.since.Add(3200 * time.Millisecond))
	reloaded := w.options.Now()
	w.rules <- daemon.Reload{Err: errors.New("line 3: unknown key: mach")}
	w.rules <- daemon.Reload{Rules: w.options.Rules, Again: true}
	w.dies(s, 4*time.Second)
	w.knownBefore(s, reloaded)
	bad := w.lines(func(l line) bool { return strings.HasPrefix(l.Msg, "rules not reloaded") })
	if len(bad) != 1 || bad[0].Level != "ERROR" || !strings.Contains(bad[0].Error, "unknown key: mach") {
		t.Errorf("lines about the bad rules: %+v, want one error that says what is wrong", bad)
	}
}

// The service manager hears what happens (sd_notify(3)).
func TestNotify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	var heard []string
	w.options.Notify = func(state string) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, state)
	}
	hears := func(what string) {
		t.Helper()
		w.until(what+" for the service manager", func() bool {
			mu.Lock()
			defer mu.Unlock()
			for i, state := range heard {
				if strings.HasPrefix(state, what) {
					heard = heard[i+1:]
					return true
				}
			}
			return false
		})
	}
	w.options.WatchdogEvery = 100 * time.Millisecond
	stop := w.watch(often + leaked)
	hears("READY=1\nSTATUS=1 rule,")
	hears("WATCHDOG=1")
	w.rules <- daemon.Reload{Rules: w.parse(often + "rules:\n" + another + leakAfter4s)}
	hears("RELOADING=1\nMONOTONIC_USEC=")
	hears("READY=1\nSTATUS=2 rules")
	w.rules <- daemon.Reload{Err: errors.New("bad")}
	hears("RELOADING=1\nMONOTONIC_USEC=")
	hears("READY=1\nSTATUS=rules NOT in force: bad; 2 rules")
	w.rules <- daemon.Reload{Rules: w.options.Rules}
	hears("READY=1\nSTATUS=1 rule,")
	stop()
	hears("STOPPING=1")
}

// What namespaces are watched is settled at the start: rules that say otherwise are
// refused, and said to be so still when they are read again; those in force stay.
func TestReloadOfNamespaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.options.File = status.RulesFile{Path: "r.yaml"}
	current := w.show()
	w.watch(often + "rules:\n" + leakAfter4s)
	all := w.parse("settings: {namespaces: all}\nrules:\n" + strings.Replace(another, "dport: 5433", "dport: 5433, user: nobody", 1))
	refused := func(l line) bool { return strings.HasPrefix(l.Msg, "rules not reloaded") }
	still := func(l line) bool { return l.Msg == "rules read again; they are still not in force" }
	for times, again := range []bool{false, true} {
		w.rules <- daemon.Reload{Rules: all, Again: again}
		w.until("refusal", func() bool { return len(w.lines(refused)) == 1 && len(w.lines(still)) == times })
	}
	const why = "settings.namespaces is read at the start; restart sockdog"
	if l := w.lines(refused)[0]; l.Error != why {
		t.Errorf("refused because %q, want %q", l.Error, why)
	}
	w.until("problem", func() bool {
		s := current()
		return !s.File.OK && s.File.Error == why && len(s.Rules) == 1 && s.Rules[0].Name == "leak"
	})
	w.rules <- daemon.Reload{Rules: w.options.Rules}
	w.until("end of the problem", func() bool { return current().File.OK })
}
