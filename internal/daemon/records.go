package daemon

import (
	"cmp"
	"strconv"
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
func recordsOf(p *engine.Plan, names netnsNames, inode uint32, now sock.Instant, at time.Time) []journal.Record {
	n := len(p.Report) + len(p.Transitions) + len(p.ReportGroups) + len(p.Held)
	if n == 0 {
		return nil
	}
	records := make([]journal.Record, 0, n)
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
		records = append(records, transitionOf(&p.Transitions[i], now, at))
		r := &records[len(records)-1]
		names.put(r, cmp.Or(netnsOf(r.Group), inode))
	}
	for i := range p.ReportGroups {
		a, when := &p.ReportGroups[i], at
		if a.At != 0 {
			when = at.Add(-now.Sub(a.At))
		}
		records = append(records, groupRecordOf(a, names, inode, when))
	}
	for i := range p.Held {
		records = append(records, heldBackOf(&p.Held[i], at))
		names.put(&records[len(records)-1], inode)
	}
	return records
}

// heldBackOf puts what limits hold back into a record.
func heldBackOf(h *engine.HeldBack, at time.Time) journal.Record {
	return journal.Record{
		Time: at, Rule: h.Rule, Action: h.Kind.Name, Result: journal.Held, DryRun: h.DryRun,
		Reason:  action.WhyHeld(h),
		Sockets: h.Began, LetGo: h.Left, Waiting: h.Waiting,
		Routine: h.Routine(),
	}
}

// recordOf puts an action into a record.
func recordOf(a *engine.Action, at time.Time) journal.Record {
	s := &a.Socket
	r := journal.Record{
		Time: at, Seq: a.Seq, Rule: a.Rule, Action: a.Kind.Name, Result: journal.Result(a.Result), DryRun: a.DryRun, Reason: action.Why(a), Via: string(a.Via), Before: a.Before,
		Netns: netnsText(s.ID.Netns), NetnsName: s.NetnsName(), Src: s.Zoned(s.Src), Dst: s.Zoned(s.Dst), State: s.State.String(), InStateFor: a.InStateFor, IdleFor: a.IdleFor, SilentFor: a.SilentFor,
		Cookie: s.ID.Cookie, Inode: s.Inode, UID: s.UID,
	}
	if len(a.Holders) > 0 {
		first := &a.Holders[0]
		r.PID, r.Comm, r.Holders = first.PID, first.Comm, holdersOf(a.Holders)
		r.Unit, r.Container, r.Pod = first.Owner.UnitName(), first.Owner.ContainerName(), first.Owner.PodName()
	}
	return r
}

// holdersOf are the first of several processes that hold a socket; nil: there are not several.
func holdersOf(held []sock.Holder) (all journal.Holders) {
	if len(held) < 2 {
		return nil
	}
	for _, h := range held[:min(len(held), journal.MostHolders)] {
		all = append(all, journal.Holder{PID: h.PID, Comm: h.Comm})
	}
	return all
}

// groupRecordOf puts an action on a group into a record.
func groupRecordOf(a *engine.GroupAction, names netnsNames, inode uint32, at time.Time) journal.Record {
	r := journal.Record{
		Time: at, Seq: a.Seq, Rule: a.Rule, Action: a.Kind().Name, Result: journal.Result(a.Result), DryRun: a.DryRun, Reason: action.WhyGroup(a),
		Group: subject.ByName(a.Group), Sockets: a.Count, PID: a.Process.PID, Comm: a.Process.Comm,
	}
	names.put(&r, cmp.Or(a.Netns, inode))
	return r
}

// transitionOf puts the transition of a group into a record.
func transitionOf(t *engine.Transition, now sock.Instant, at time.Time) journal.Record {
	r := journal.Record{
		Time: at, Rule: t.Rule, Action: "group", Result: journal.Result(t.To), DryRun: t.DryRun,
		Group: subject.ByName(t.Group), Sockets: t.Count,
	}
	if t.From == group.Firing && t.To == group.Quiet {
		r.Result = journal.Resolved
	}
	r.Reason = cmp.Or(action.When(t.When, &t.Measured), "sockets that are due")
	if t.Since != 0 && t.From != group.Quiet {
		held := ", for "
		if t.To != group.Firing { // they hold no more
			held = "; they had held for "
			if len(t.When) < 2 {
				held = "; it had held for "
			}
		}
		r.Reason += held + now.Sub(t.Since).Round(time.Millisecond).String()
	}
	return r
}

// netnsNames returns the name of a network namespace, by its inode; nil: none has one.
type netnsNames func(inode uint32) string

// name returns the name of a network namespace, or "".
func (names netnsNames) name(inode uint32) string {
	if names == nil || inode == 0 {
		return ""
	}
	return names(inode)
}

// put says in a record which network namespace it is about; 0: that is not known.
func (names netnsNames) put(r *journal.Record, inode uint32) {
	r.Netns, r.NetnsName = netnsText(inode), names.name(inode)
}

// netnsText is how a network namespace is called in records, by its inode, as lsns(8)
// calls it; "" where that is not known.
func netnsText(inode uint32) string {
	if inode == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(inode), 10)
}

// netnsOf returns the network namespace that labels of a group name, or 0.
func netnsOf(labels map[string]string) uint32 {
	inode, _ := strconv.ParseUint(labels["netns"], 10, 32) // 0: it is no number
	return uint32(inode)
}
