package alert

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sock"
)

// What receivers are told of a rule itself.
func TestTextsOfRules(t *testing.T) {
	since := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	stopped := func(why match.Reason, pid int, comm string) engine.Problem {
		return engine.Problem{Kind: engine.StoppedItself, Stop: sock.RuleStop{Reason: string(why), PID: pid, Comm: comm}}
	}
	leaks := func(pids ...int) engine.Problem {
		p := engine.Problem{Kind: engine.KillingIsNoCure}
		for _, pid := range pids {
			p.LeaksReturn = append(p.LeaksReturn, engine.Leaker{Holder: sock.Holder{PID: pid, Comm: "java"}, Returns: 3 + pid%2})
		}
		return p
	}
	var got strings.Builder
	for _, test := range []struct {
		name    string
		problem engine.Problem
		about   string
		ended   sock.Instant
	}{
		{"its kills made a program spin", stopped(match.HolderSpins, 4711, "java"), "The shop forgets to close.", 0},
		{"the same, reset", stopped(match.HolderSpins, 4711, "java"), "The shop forgets to close.", 1},
		{"a probe failed, of nobody who is known", stopped(match.ProbeFailed, 0, ""), "", 0},
		{"programs ended, the last of which has a hostile name", stopped(match.HolderEnded, 7, "<!channel>\nok"), "", 0},
		{"too many sockets", engine.Problem{Kind: engine.TooManyToAct, Sockets: 12000, MaxSockets: 10000}, "", 0},
		{"programs spin", engine.Problem{Kind: engine.KillsMakeSpin, Spins: []spin.Spin{{PID: 7, Comm: "java"}, {PID: 12, Comm: "nginx"}}}, "", 0},
		{"a leak that returns", leaks(4711), "", 0},
		{"many of them", leaks(1, 2, 3, 4, 5), "", 0},
	} {
		a := engine.RuleAlert{Rule: "postgres-close-wait", About: test.about, Labels: map[string]string{"team": "shop", "severity": "x"}, Problem: test.problem, Ended: test.ended}
		fmt.Fprintf(&got, "=== %s\n", test.name)
		writeTexts(&got, RuleLabels(&a, "web-1"), RuleAnnotations(&a, Facts{Instance: "web-1", Since: since, Until: since.Add(90 * time.Second)}))
	}
	compareGolden(t, "testdata/rules.golden", got.String())
}
