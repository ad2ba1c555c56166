package engine

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// holderLead is how long before a socket falls due its holders are looked
	// for: a walk through /proc must not stand between due and done.
	holderLead = 5 * time.Second
	// holderPatience is how long a socket that is due waits for a walk that does not
	// end: it may show that the kernel itself holds the socket.
	holderPatience = 30 * time.Second
	// namePatience is how long one waits that was due when it was first seen, where a
	// walk can show no more than a name for the log. Others do not.
	namePatience = time.Second
	// slowWalk is what a walk takes that comes too late for some: the descriptors that
	// are new, of those who held such sockets before, are read beside it.
	slowWalk = 50 * time.Millisecond
	// readPatience is how long a walk waits for the end of that.
	readPatience = time.Second
	// walkShare spaces the walks: they cost no more than a tenth of a core; a
	// quarter where a socket falls due before the next one would have ended.
	walkShare   = 10
	urgentShare = 4
	// kernelRecheck is when a socket without any holder is scanned again: its
	// descriptor may have been on its way from one process to another.
	kernelRecheck = time.Minute
	// followAfter is when to see whether a program has closed the descriptors of
	// its killed sockets.
	followAfter = 10 * time.Second
	// followMost bounds the memory of that.
	followMost = 10_000
)

// holderLookups is who is being looked for.
type holderLookups struct {
	wants   []sock.Key
	asked   []sock.Key // in the walk under way
	walking bool
	began   sock.Instant // the walk under way
	hangs   bool         // that was said to take too long
	urgent  sock.Instant // when the first of wants falls due
	ended   sock.Instant // the last walk
	cost    time.Duration
	partial bool // it could not read every process

	// Of reading new descriptors.
	fresh    []sock.Key   // of wants: those for which that was not tried
	freshDue sock.Instant // when the first of them falls due
	tried    []sock.Key   // in the reading under way
	reading  bool
	readAt   sock.Instant // the end of the last, or its start while it is under way
	readCost time.Duration

	killed    map[uint32]string // inode to rule, of sockets that were killed
	following map[uint32]string // in the walk under way
	followAt  sock.Instant
}

func newHolderLookups() holderLookups {
	return holderLookups{urgent: never, freshDue: never, followAt: never, killed: make(map[uint32]string)}
}

func (o *holderLookups) lead() time.Duration { return holderLead + 2*walkShare*o.cost }

// nextWalk is when the next walk may begin.
func (o *holderLookups) nextWalk() sock.Instant {
	next := o.ended.Add(walkShare * o.cost)
	if o.urgent != never && !o.partial {
		next = min(next, max(o.ended.Add(urgentShare*o.cost), o.urgent.Add(-holderLead-2*o.cost)))
	}
	if o.reading { // it may make the walk needless
		next = max(next, o.readAt.Add(readPatience))
	}
	return next
}

// want has the holders of t looked for, once, and again where the kernel seems to
// hold it; it falls due at that instant.
func (o *holderLookups) want(t *tracked, key sock.Key, due sock.Instant) {
	if t.Inode == 0 || t.holders != nil && !(t.holders.Kernel && due.Sub(t.holders.At) >= kernelRecheck) {
		return
	}
	o.urgent = min(o.urgent, due)
	if t.is(wanted) {
		return
	}
	t.set(wanted, true)
	o.wants = append(o.wants, key)
	o.fresh, o.freshDue = append(o.fresh, key), min(o.freshDue, due)
}

// awaitHolders is until when a decision on t waits for its holders; 0: it does not.
func (e *Engine) awaitHolders(t *tracked, s *sock.Socket, now sock.Instant) sock.Instant {
	o := &e.lookups
	o.want(t, s.ID.Key(), now)
	switch {
	case t.holders != nil || t.Inode == 0:
		return 0 // what the kernel holds stays the kernel's until a holder is seen
	case !o.partial && mayBeKernels(s), s.UID == e.config.UID && !t.is(notOwn):
		return t.await(now.Add(holderPatience+2*walkShare*o.cost), now)
	case t.is(foreseen):
		return 0 // there was time to find a name for the log, and the act is not late for that
	default:
		return t.await(now.Add(namePatience), now)
	}
}

// mayBeKernels reports whether the kernel itself may hold a socket that has an
// inode. Its own sockets (NFS, NVMe, DRBD) are made by its threads, and what it took
// over (iSCSI, NBD) by daemons: all are root's, which shows as the overflow user
// where that has no number here.
func mayBeKernels(s *sock.Socket) bool {
	const overflow = 65534
	return s.UID == 0 || s.UID == overflow
}

func (o *holderLookups) wake() sock.Instant {
	switch {
	case o.walking && !o.hangs:
		return min(o.began.Add(holderPatience), o.nextReading())
	case o.walking:
		return o.nextReading()
	case len(o.wants) > 0:
		return min(o.nextWalk(), o.nextReading())
	default:
		return max(o.nextWalk(), o.followAt)
	}
}

// nextReading is when new descriptors are to be read: never, where a walk is fast
// enough.
func (o *holderLookups) nextReading() sock.Instant {
	if o.reading || len(o.fresh) == 0 || o.ended != 0 && o.cost < slowWalk {
		return never
	}
	return max(o.readAt.Add(urgentShare*o.readCost), o.freshDue.Add(-holderLead))
}

// read has new descriptors read, for those who would come too late for a walk.
func (e *Engine) read(now sock.Instant) {
	o := &e.lookups
	if now < o.nextReading() {
		return
	}
	o.tried, o.fresh, o.freshDue = o.fresh, nil, never
	e.plan.Read = e.inodes(o.tried)
	o.reading, o.readAt = true, now
}

// inodes are those of the connections of which there is still one, each once.
func (e *Engine) inodes(keys []sock.Key) []uint32 {
	inodes := make([]uint32, 0, len(keys))
	for _, key := range keys {
		if t := e.tracks.get(key); t != nil && t.is(wanted) {
			inodes = append(inodes, t.Inode)
		}
	}
	slices.Sort(inodes)
	return slices.Compact(inodes)
}

func (in NewHoldersFound) apply(e *Engine, now sock.Instant) {
	o := &e.lookups
	o.reading, o.readAt, o.readCost = false, now, in.Cost
	kills := e.killsAny()
	for _, key := range o.tried {
		t := e.tracks.get(key)
		if t == nil || !t.is(wanted) {
			continue // another has its place
		}
		held := in.Holders[t.Inode]
		switch {
		case in.Err != nil:
		case len(held) > 0:
			e.found(t, &subject.Holders{Processes: held}, kills, now)
		default:
			t.set(notOwn, true)
			e.heard(t, now)
		}
	}
	o.tried = nil
	o.wants = slices.DeleteFunc(o.wants, func(key sock.Key) bool {
		t := e.tracks.get(key)
		return t == nil || !t.is(wanted)
	})
}

// sharedHolders are the holders that one walk found, by the first process: a program
// that leaks holds thousands of sockets.
type sharedHolders map[sock.Holder][]*subject.Holders

// of returns holders that are the same as h.
func (s sharedHolders) of(h *subject.Holders) *subject.Holders {
	var first sock.Holder
	if len(h.Processes) > 0 {
		first = h.Processes[0]
	}
	for _, known := range s[first] {
		if known.Kernel == h.Kernel && slices.Equal(known.Processes, h.Processes) {
			return known
		}
	}
	s[first] = append(s[first], h)
	return h
}

// found takes in who holds t.
func (e *Engine) found(t *tracked, held *subject.Holders, kills bool, now sock.Instant) {
	t.set(wanted, false)
	held.At = now
	t.holders = held
	if kills {
		e.usages.Watch(held.Processes, now)
	}
	e.heard(t, now)
}

// heard has t asked for anew, if it waits to hear of its holders.
func (e *Engine) heard(t *tracked, now sock.Instant) {
	if t.phase == waiting && t.patience != 0 && t.due != 0 {
		e.wait(t, now)
	}
}

// resolve starts a walk through /proc for all who are wanted.
func (e *Engine) resolve(now sock.Instant) {
	o := &e.lookups
	e.read(now)
	if o.walking && !o.hangs && now >= o.began.Add(holderPatience) {
		o.hangs = true
		e.note(slog.LevelError, "a walk through /proc takes long; who holds new sockets is not known yet", slog.Duration("for", now.Sub(o.began)))
	}
	if o.walking || now < o.nextWalk() || len(o.wants) == 0 && now < o.followAt {
		return
	}
	o.asked, o.wants = o.wants, nil
	e.plan.Resolve = e.inodes(o.asked)
	if now >= o.followAt {
		o.following, o.killed, o.followAt = o.killed, make(map[uint32]string), never
		for inode := range o.following {
			e.plan.Resolve = append(e.plan.Resolve, inode)
		}
	}
	slices.Sort(e.plan.Resolve)
	e.plan.Resolve = slices.Compact(e.plan.Resolve)
	o.walking, o.began, o.urgent = true, now, never
	if o.ended != 0 && o.cost < slowWalk {
		o.fresh, o.freshDue = nil, never // it finds those, too
	}
}

func (in AccessExamined) apply(e *Engine, _ sock.Instant) {
	if e.lookups.ended == 0 { // a walk knows better
		e.lookups.partial = !in.Complete
	}
}

func (in HoldersFound) apply(e *Engine, now sock.Instant) {
	o := &e.lookups
	if o.hangs {
		o.hangs = false
		e.note(slog.LevelInfo, "the walk through /proc has ended", slog.Duration("after", now.Sub(o.began)))
	}
	o.walking, o.cost, o.ended, o.partial = false, in.Cost, now, !in.Complete
	kills, shared := e.killsAny(), make(sharedHolders)
	for _, key := range o.asked {
		t := e.tracks.get(key)
		if t == nil || !t.is(wanted) {
			continue // another has its place
		}
		held := in.Of(t.Inode)
		if len(held.Processes) == 0 && !held.Kernel && t.holders != nil {
			// A walk that was refused a process does not unsay what is known.
			held.Processes, held.Kernel = t.holders.Processes, t.holders.Kernel
		}
		e.found(t, shared.of(held), kills, now)
	}
	o.asked = nil
	e.stillOpen(in.Holders)
	o.following = nil
}

// follow remembers a killed socket, to see later whether its program has closed
// the descriptor.
func (o *holderLookups) follow(t *tracked, rule string, now sock.Instant) {
	if t.Inode == 0 || len(o.killed) >= followMost {
		return
	}
	o.killed[t.Inode] = rule
	if o.followAt == never {
		o.followAt = now.Add(followAfter)
	}
}

// stillOpen says which programs have not closed the descriptors of sockets that
// were killed: those still count against their limit of open files.
func (e *Engine) stillOpen(holders map[uint32][]sock.Holder) {
	type leak struct {
		rule, comm string
		pid        int
	}
	open := make(map[leak]int)
	for inode, rule := range e.lookups.following {
		for _, h := range holders[inode] {
			open[leak{rule, h.Comm, h.PID}]++
		}
	}
	leaks := make([]leak, 0, len(open))
	for l := range open {
		leaks = append(leaks, l)
	}
	slices.SortFunc(leaks, func(a, b leak) int { return cmp.Or(a.pid-b.pid, cmp.Compare(a.rule, b.rule)) })
	for _, l := range leaks {
		e.note(slog.LevelWarn, fmt.Sprintf("%s[%d] still holds %s of killed sockets", l.comm, l.pid, descriptorsText(open[l])),
			slog.String("rule", l.rule), slog.Int("pid", l.pid), slog.String("comm", l.comm), slog.Int("descriptors", open[l]))
	}
}

func descriptorsText(n int) string {
	if n == 1 {
		return "a descriptor"
	}
	return fmt.Sprint(n, " descriptors")
}

// killsAny reports whether any rule has anything killed.
func (e *Engine) killsAny() bool {
	return e.capabilities.Kill == "" && slices.ContainsFunc(e.program.Rules, func(r match.Rule) bool { return r.Enabled && r.Destructive && !r.DryRun })
}

// heldBy returns the processes that hold the socket, as far as they are known.
func (t *tracked) heldBy() []sock.Holder {
	if t.holders == nil {
		return nil
	}
	return t.holders.Processes
}

// Of returns the holders of an inode that was asked for.
func (in *HoldersFound) Of(inode uint32) *subject.Holders {
	held := in.Holders[inode]
	return &subject.Holders{Processes: held, Kernel: inode != 0 && in.Complete && len(held) == 0}
}
