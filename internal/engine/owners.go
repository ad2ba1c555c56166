package engine

import (
	"log/slog"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// ownerLead is how long before a socket falls due its holders are looked
	// for: a walk through /proc must not stand between due and done.
	ownerLead = 5 * time.Second
	// ownerPatience is how long a socket that is due waits for a walk that does not
	// end: it may show that the kernel itself holds the socket.
	ownerPatience = 30 * time.Second
	// walkShare spaces the walks: they cost no more than a tenth of a core; a
	// quarter where a socket falls due before the next one would have ended.
	walkShare   = 10
	urgentShare = 4
	// kernelRecheck is when a socket without any holder is looked at again: its
	// descriptor may have been on its way from one process to another.
	kernelRecheck = time.Minute
	// followAfter is when to see whether a program has closed the descriptors of
	// its killed sockets.
	followAfter = 10 * time.Second
	// followMost bounds the memory of that.
	followMost = 10_000
)

// owners is who is being looked for.
type owners struct {
	wants   []*track
	asked   []*track // in the walk under way
	walking bool
	urgent  sock.Instant // when the first of wants falls due
	ended   sock.Instant // the last walk
	cost    time.Duration
	partial bool // it could not read every process

	killed    map[uint32]string // inode to rule, of sockets that were killed
	following map[uint32]string // in the walk under way
	followAt  sock.Instant
}

func newOwners() owners {
	return owners{urgent: never, followAt: never, killed: make(map[uint32]string)}
}

func (o *owners) lead() time.Duration { return ownerLead + 2*walkShare*o.cost }

// nextWalk is when the next walk may begin.
func (o *owners) nextWalk() sock.Instant {
	next := o.ended.Add(walkShare * o.cost)
	if o.urgent == never || o.partial {
		return next
	}
	return min(next, max(o.ended.Add(urgentShare*o.cost), o.urgent.Add(-ownerLead-2*o.cost)))
}

// want has the holders of t looked for, once, and again where the kernel seems to
// hold it; it falls due at that instant.
func (o *owners) want(t *track, due sock.Instant) {
	if t.inode == 0 || t.owner != nil && !(t.owner.Kernel && due.Sub(t.owner.at) >= kernelRecheck) {
		return
	}
	o.urgent = min(o.urgent, due)
	if t.wanted {
		return
	}
	t.wanted = true
	o.wants = append(o.wants, t)
}

// awaitsOwner reports whether a decision on t should wait for its holders.
func (e *Engine) awaitsOwner(t *track, now sock.Instant) bool {
	e.owners.want(t, now)
	if t.owner != nil || t.inode == 0 {
		return false // what the kernel holds stays the kernel's until a holder is seen
	}
	if e.owners.partial && t.ahead {
		// No walk here can show that the kernel itself holds a socket. There was
		// time to find a name for the log, and the act is not late for that.
		return false
	}
	if t.patience == 0 {
		t.patience = now.Add(ownerPatience + 2*walkShare*e.owners.cost)
	}
	return now < t.patience
}

func (o *owners) wake() sock.Instant {
	switch {
	case o.walking:
		return never
	case len(o.wants) > 0:
		return o.nextWalk()
	default:
		return max(o.nextWalk(), o.followAt)
	}
}

// resolve starts a walk through /proc for all who are wanted.
func (e *Engine) resolve(now sock.Instant) {
	o := &e.owners
	if o.walking || now < o.nextWalk() || len(o.wants) == 0 && now < o.followAt {
		return
	}
	o.asked, o.wants = o.wants, o.asked[:0]
	for _, t := range o.asked {
		e.plan.Resolve = append(e.plan.Resolve, t.inode)
	}
	if now >= o.followAt {
		o.following, o.killed, o.followAt = o.killed, make(map[uint32]string), never
		for inode := range o.following {
			e.plan.Resolve = append(e.plan.Resolve, inode)
		}
	}
	slices.Sort(e.plan.Resolve)
	e.plan.Resolve = slices.Compact(e.plan.Resolve)
	o.walking, o.urgent = true, never
}

func (in Examined) apply(e *Engine, _ sock.Instant) {
	if e.owners.ended == 0 { // a walk knows better
		e.owners.partial = !in.Complete
	}
}

func (in Owned) apply(e *Engine, now sock.Instant) {
	o := &e.owners
	o.walking, o.cost, o.ended, o.partial = false, in.Cost, now, !in.Complete
	kills := e.killsAny()
	for _, t := range o.asked {
		t.wanted = false
		held := in.Of(t.inode)
		// A walk that was refused a process does not unsay what a whole one said.
		held.Kernel = held.Kernel || t.inode != 0 && len(held.Owners) == 0 && t.owner != nil && t.owner.Kernel
		held.at = now
		t.owner = held
		if kills {
			e.usages.watch(held.Owners, now)
		}
		if t.phase == waiting && t.patience != 0 && t.alarm.in != nil {
			e.wait(t, now)
		}
	}
	clear(o.asked)
	o.asked = o.asked[:0]
	e.stillOpen(in.Holders)
	o.following = nil
}

// follow remembers a killed socket, to see later whether its program has closed
// the descriptor.
func (o *owners) follow(t *track, now sock.Instant) {
	if t.inode == 0 || len(o.killed) >= followMost {
		return
	}
	o.killed[t.inode] = t.act.Rule
	if o.followAt == never {
		o.followAt = now.Add(followAfter)
	}
}

// stillOpen says which programs have not closed the descriptors of sockets that
// were killed: those still count against their limit of open files.
func (e *Engine) stillOpen(holders map[uint32][]sock.Owner) {
	type leak struct {
		rule, comm string
		pid        int
	}
	open := make(map[leak]int)
	for inode, rule := range e.owners.following {
		for _, h := range holders[inode] {
			open[leak{rule, h.Comm, h.PID}]++
		}
	}
	leaks := make([]leak, 0, len(open))
	for l := range open {
		leaks = append(leaks, l)
	}
	slices.SortFunc(leaks, func(a, b leak) int { return a.pid - b.pid })
	for _, l := range leaks {
		e.note(slog.LevelWarn, "the program has still not closed the descriptors of sockets killed since this was last looked at: only closing them, or its end, frees those",
			slog.String("rule", l.rule), slog.Int("pid", l.pid), slog.String("comm", l.comm), slog.Int("descriptors", open[l]))
	}
}
