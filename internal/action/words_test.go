package action

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// TestWords: each reason that the engine has to leave a single socket alone has words.
// Those that are only counted have none.
func TestWords(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../engine/match/reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	counted := map[match.Reason]bool{match.HolderSpins: true, match.HolderEnded: true, match.ProbeFailed: true, match.NotPossible: true}
	reasons := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			reason, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			reasons++
			if has := Words(match.Reason(reason)) != ""; has == counted[match.Reason(reason)] {
				t.Errorf("%s has words: %v", reason, has)
			}
		}
		return true
	})
	if want := len(words) + len(counted); reasons != want {
		t.Errorf("there are %d reasons, and words for %d", reasons, want)
	}
}

func TestWhy(t *testing.T) {
	socket := sock.Socket{Conn: ssfilter.Conn{State: ssfilter.CloseWait}, Inode: 1}
	plain := engine.Grounds{InStateFor: 312_345_678 * time.Microsecond, IdleFor: time.Hour, StalledFor: time.Minute, SilentFor: 2 * time.Minute}
	met := func(m rules.Match) engine.Grounds { g := plain; g.Match = &m; return g }
	grouped := plain
	grouped.When = []rules.Condition{{Metric: rules.Count, Op: rules.Greater, Number: 3}, {Metric: rules.PortUsage, Op: rules.GreaterEqual, Number: 80}}
	grouped.Group = group.Measured{Count: 4, PortUsage: 81.23}
	const full = "close-wait for 5m12.345s, allowed 5m0s, eof-read-not-closed"
	inState := met(rules.Match{InStateFor: 5 * time.Minute})
	for _, test := range []struct {
		name string
		a    engine.Action
		want string
	}{
		{"in its state", engine.Action{Grounds: inState}, full},
		{"idle", engine.Action{Grounds: met(rules.Match{IdleFor: time.Minute})}, "close-wait for 5m12.345s, idle for 1h0m0s, allowed 1m0s, eof-read-not-closed"},
		{"stalled", engine.Action{Grounds: met(rules.Match{StalledFor: time.Second})}, "close-wait for 5m12.345s, stalled for 1m0s, allowed 1s, eof-read-not-closed"},
		{"silent", engine.Action{Grounds: met(rules.Match{SilentFor: time.Minute})}, "close-wait for 5m12.345s, nothing received for 2m0s, allowed 1m0s, eof-read-not-closed"},
		{"in a group", engine.Action{Grounds: grouped},
			"close-wait for 5m12.345s, eof-read-not-closed, one of a group with count 4 (fires at count > 3) and port_usage 81.2% (fires at port_usage >= 80%)"},
		{"shut down before", engine.Action{Grounds: engine.Grounds{InStateFor: 61 * time.Second, ShutFor: time.Minute}, Result: engine.Done}, "close-wait for 1m1s, shut down 1m0s ago, eof-read-not-closed"},
		{"failed", engine.Action{Grounds: inState, Result: engine.Failed, Err: errors.New("no memory")}, full + ": no memory"},
		{"not possible", engine.Action{Grounds: inState, Kind: rules.Kill, Reason: match.NotPossible, Err: errors.New("no privilege")}, full + "; no privilege"},
		{"switched off", engine.Action{Grounds: inState, Kind: rules.Kill, Reason: match.NotPossible, Err: match.SwitchedOff{Err: errors.New("denied")}},
			full + "; kill is switched off: denied"},
		{"still there", engine.Action{Grounds: inState, Reason: match.StillThere}, full + "; the kernel still shows it"},
		{"changed", engine.Action{Grounds: inState, Result: engine.Changed, Reason: match.Progressed}, "it made progress meanwhile"},
	} {
		test.a.Socket = socket
		if got := Why(&test.a); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	if got, want := Wanted(&inState, &socket, true), "close-wait for ≥5m12.345s, allowed 5m0s, eof-read-not-closed"; got != want {
		t.Errorf("with lower bounds: %q, want %q", got, want)
	}
}

// What holds sockets back is named, and the limits only where they do, or nothing says why.
func TestWhyHeld(t *testing.T) {
	held := func(why ...match.Reason) *engine.HeldBack {
		return &engine.HeldBack{Limit: "2/1m", LimitOfAll: "9/1m", Why: why}
	}
	const limits, canary = "the limits are 2/1m of the rule and 9/1m of all rules", "what the first kills did to the program is still to be seen"
	for _, test := range []struct {
		held *engine.HeldBack
		want string
	}{
		{held(), limits},
		{held(match.RuleLimit), limits},
		{held(match.CanaryWaits), canary},
		{held(match.CanaryWaits, match.LimitOfAll), limits + "; " + canary},
		{&engine.HeldBack{Shut: match.Paused, Why: []match.Reason{match.RuleLimit}}, "acting is paused"},
	} {
		if got := WhyHeld(test.held); got != test.want {
			t.Errorf("%+v: %q, want %q", test.held, got, test.want)
		}
	}
}
