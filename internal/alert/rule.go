package alert

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
)

// ProblemLabel tells an alert about a rule itself from those about its groups.
const ProblemLabel = "problem"

// RuleLabels identify an alert about a rule itself.
func RuleLabels(a *engine.RuleAlert, instance string) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, a.Labels)
	labels["severity"] = "warning"
	labels["alertname"], labels["instance"], labels[ProblemLabel] = a.Rule, instance, string(a.Kind)
	return labels
}

// RuleAnnotations are its texts and values.
func RuleAnnotations(a *engine.RuleAlert, f Facts) map[string]string {
	said := map[string]string{"since": f.Since.UTC().Format(time.RFC3339)}
	var what, then string
	var holders []string
	switch a.Kind {
	case engine.StoppedItself:
		what = "stopped itself: " + WhyStopped(&a.Stop)
		then = "It acts no more, and what it would kill stays. Look at the program; then run sockdog rule reset " + a.Rule + ", or change the rule."
		if a.Stop.PID != 0 {
			holders = append(holders, program(a.Stop.Comm, a.Stop.PID))
		}
	case engine.TooManyToAct:
		what = fmt.Sprintf("acts on nothing: it means %s, more than its max_matches of %d", sockets(a.Sockets), a.MaxSockets)
		then = "It goes on by itself once it means fewer. See with sockdog plan what it means; then make the rule narrower, or raise max_matches."
		said["count"] = strconv.Itoa(a.Sockets)
	case engine.KillsMakeSpin:
		for _, s := range a.Spins[:min(len(a.Spins), mostPrograms)] {
			holders = append(holders, program(s.Comm, s.PID))
		}
		if more := len(a.Spins) - mostPrograms; more > 0 {
			holders = append(holders, fmt.Sprintf("%d more", more))
		}
		what = "its kills made programs spin: " + strings.Join(holders, ", ")
		then = "It leaves each of them alone until it is quiet. Restart the program, and mend it: it waits for a killed socket that it does not close."
	case engine.KillingIsNoCure:
		var leaks []string
		for _, l := range a.LeaksReturn[:min(len(a.LeaksReturn), mostPrograms)] {
			holders = append(holders, program(l.Comm, l.PID))
			leaks = append(leaks, fmt.Sprintf("%s came back %d times", program(l.Comm, l.PID), l.Returns))
		}
		if more := len(a.LeaksReturn) - mostPrograms; more > 0 {
			leaks = append(leaks, fmt.Sprintf("%d more", more))
		}
		what = "killing is not the cure: within an hour the leak of " + strings.Join(leaks, ", of ")
		then = "The rule goes on killing. Mend the program: sockdog why says what to look for."
	}
	if len(holders) > 0 {
		said["holders"] = strings.Join(holders, ", ")
	}
	said["summary"], said["description"] = ruleSummary(a, f, what), ruleDescription(a, f, what, then)
	return said
}

// mostPrograms is how many an alert names.
const mostPrograms = 3

func ruleSummary(a *engine.RuleAlert, f Facts, what string) string {
	resolved := ""
	if a.Ended != 0 {
		resolved = "resolved: "
	}
	return a.Rule + ": " + resolved + what + " on " + f.Instance
}

func ruleDescription(a *engine.RuleAlert, f Facts, what, then string) string {
	var b strings.Builder
	if a.About != "" {
		b.WriteString(a.About + "\n")
	}
	fmt.Fprintf(&b, "Rule %s: %s.\n", a.Rule, what)
	since, until := f.Since.UTC().Format(time.RFC3339), f.Until.UTC().Format(time.RFC3339)
	if a.Ended != 0 {
		fmt.Fprintf(&b, "Resolved: it lasted from %s to %s.", since, until)
		return b.String()
	}
	fmt.Fprintf(&b, "%s\nSince %s, for %s.", then, since, whole(f.Until.Sub(f.Since)))
	return b.String()
}

// harm is what acts of a rule do that has stopped itself, by the reason.
var harm = map[match.Reason]string{
	match.HolderSpins: "its kills made a program spin",
	match.HolderEnded: "after its first kills, several programs ended in a row, at last",
	match.ProbeFailed: "after its first kills, the probe of its canary failed",
}

// WhyStopped says why a rule has stopped itself.
func WhyStopped(s *sock.RuleStop) string {
	text := harm[match.Reason(s.Reason)]
	if s.PID != 0 {
		text += ": " + program(s.Comm, s.PID)
	}
	return text
}

// program names a process.
func program(comm string, pid int) string {
	return fmt.Sprintf("%s[%d]", subject.PlainName(comm), pid)
}
