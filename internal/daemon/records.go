package daemon

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
)

// recordsOf returns the records of all that a plan says was decided or done. What a
// limit holds back is only summed up: it would crowd out what it lets through. Inode
// is that of the namespace that is watched alone: records about several sockets tell it.
func recordsOf(p *engine.Plan, inode uint32, now sock.Instant, at time.Time) []journal.Record {
	if len(p.Report)+len(p.Transitions)+len(p.Held) == 0 {
		return nil
	}
	netns := netnsName(inode)
	records := make([]journal.Record, 0, len(p.Report)+len(p.Transitions)+len(p.Held))
	for i := range p.Report {
		if a := &p.Report[i]; a.Result != engine.Held && !a.Waited {
			when := at
			if a.At != 0 {
				when = at.Add(-now.Sub(a.At))
			}
			records = append(records, recordOf(a, when))
		}
	}
	for i := range p.Transitions {
		records = append(records, transitionOf(&p.Transitions[i], netns, now, at))
	}
	for i := range p.Held {
		records = append(records, heldBackOf(&p.Held[i], netns, at))
	}
	return records
}

// heldBackOf puts what limits hold back into a record.
func heldBackOf(h *engine.HeldBack, netns string, at time.Time) journal.Record {
	return journal.Record{
		Time: at, Rule: h.Rule, Action: h.Kind.Name, Result: journal.Held, DryRun: h.DryRun, Netns: netns,
		Reason:  "the limits are " + h.Limit + " of the rule and " + h.LimitOfAll + " of all rules",
		Sockets: h.Began, LetGo: h.Left, Waiting: h.Waiting,
	}
}

// recordOf puts an action into a record.
func recordOf(a *engine.Action, at time.Time) journal.Record {
	s := &a.Socket
	r := journal.Record{
		Time: at, Seq: a.Seq, Rule: a.Rule, Action: a.Kind.Name, Result: journal.Result(a.Result), DryRun: a.DryRun, Reason: action.Why(a),
		Netns: netnsName(s.ID.Netns), Src: s.Zoned(s.Src), Dst: s.Zoned(s.Dst), State: s.State.String(), InStateFor: a.InStateFor, IdleFor: a.IdleFor,
		Cookie: s.ID.Cookie, Inode: s.Inode, UID: s.UID,
	}
	if len(a.Holders) > 0 {
		r.PID, r.Comm = a.Holders[0].PID, a.Holders[0].Comm
	}
	return r
}

// transitionOf puts the transition of a group into a record.
func transitionOf(t *engine.Transition, netns string, now sock.Instant, at time.Time) journal.Record {
	r := journal.Record{
		Time: at, Rule: t.Rule, Action: "group", Result: journal.Result(t.To), DryRun: t.DryRun,
		Group: subject.ByName(t.Group), Sockets: t.Count,
	}
	r.Netns = cmp.Or(r.Group["netns"], netns)
	if t.From == group.Firing && t.To == group.Quiet {
		r.Result = journal.Resolved
	}
	said := make([]string, len(t.When))
	for i, c := range t.When {
		said[i] = fmt.Sprintf("%s %s (%s)", c.Metric, t.Text(c.Metric), c)
	}
	if len(said) == 0 {
		said = []string{"sockets that are due"}
	}
	r.Reason = strings.Join(said, ", ")
	if t.Since != 0 && t.From != group.Quiet {
		r.Reason += ", for " + now.Sub(t.Since).Round(time.Millisecond).String()
	}
	return r
}

// netnsName is how a network namespace is called in records, by its inode, as lsns(8)
// calls it; "" where that is not known.
func netnsName(inode uint32) string {
	if inode == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(inode), 10)
}
