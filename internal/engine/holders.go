package engine

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/walk"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	// nameTimeout is how long a socket waits that was due when it was first seen, where
	// a walk can show no more than a name for the log. Others do not.
	nameTimeout = time.Second
	// kernelRecheck is when a socket without any holder is looked up again: its
	// descriptor may have been on its way from one process to another.
	kernelRecheck = time.Minute
	// leakedAfter is when to see whether a program has closed the descriptors of
	// its killed sockets.
	leakedAfter = 10 * time.Second
	// maxKilled bounds the memory of that.
	maxKilled = 10_000
)

// HoldersFound says which processes hold the asked inodes. Those are of sockets of all
// network namespaces: the kernel has one sockfs.
type HoldersFound struct {
	Holders  map[uint32][]sock.Holder
	FDUsage  map[spin.Process]float64 // of those, in percent of their RLIMIT_NOFILE; one of which it is not known is absent
	Complete bool                     // every process of the host was read
	Settled  map[*sock.Owner]bool     // of such holders alone it is known all the same that nobody else holds their sockets
	Cost     time.Duration            // of CPU
	Err      error                    // nothing was learnt
}

// NewHoldersFound says which processes hold the asked inodes by a descriptor that is
// new since they were last read. What is not found may be anywhere, but not with the
// watchdog.
type NewHoldersFound struct {
	Holders map[uint32][]sock.Holder
	Cost    time.Duration // of CPU
	Err     error         // nothing was learnt
}

// AccessExamined says whether a walk can show every process of the host, and all its
// descriptors.
type AccessExamined struct{ Complete bool }

// Of returns the holders of an inode that was asked for.
func (in *HoldersFound) Of(inode uint32) *subject.Holders {
	held := in.Holders[inode]
	return &subject.Holders{Processes: held, Complete: in.Complete || in.settled(held), Kernel: inode != 0 && in.Complete && len(held) == 0}
}

// settled reports whether nobody else holds a socket that these do, whoever could not be read.
func (in *HoldersFound) settled(held []sock.Holder) bool {
	unsettled := func(h sock.Holder) bool { return !in.Settled[h.Owner] }
	return len(held) > 0 && !slices.ContainsFunc(held, unsettled)
}

// heldBy returns the processes that hold the socket, as far as they are known.
func (t *tracked) heldBy() []sock.Holder {
	if t.holders == nil {
		return nil
	}
	return t.holders.Processes
}

// subject returns what rules match: an answer about t, and who holds it.
func (t *tracked) subject(s *sock.Socket) subject.Subject { return heldSubject(s, t.holders) }

// heldSubject returns an answer about a socket, and who holds it: nobody does where no
// descriptor stands for it any more.
func heldSubject(s *sock.Socket, h *subject.Holders) subject.Subject {
	if s.Inode == 0 {
		h = nobody
	}
	return subject.Subject{Socket: s, Holders: h}
}

// mustLook reports whether it is to be looked for again who holds t before something is
// decided by that. Holders matter to an act only while they are recent: a descriptor can
// be passed on. Where not every process could be read, a walk soon after will not do
// better.
func (e *Engine) mustLook(t *tracked, acts bool, now sock.Instant) bool {
	h := t.holders
	switch {
	case t.Inode == 0:
		return false
	case h == nil, !h.Complete && t.is(wanted):
		return true
	case !h.Complete:
		return now.Sub(h.At) >= kernelRecheck
	case acts:
		return now.Sub(h.At) > e.walks.Fresh()
	default:
		return now.Sub(h.At) > e.walks.Believed()
	}
}

// wantHolders has the holders of t looked for, once, and again where the kernel seems
// to hold it; it falls due at that instant.
func (e *Engine) wantHolders(t *tracked, key sock.Key, due sock.Instant) {
	switch {
	case t.Inode == 0 || t.holders != nil && !e.outdated(t, due):
	case t.is(wanted):
		e.walks.Hasten(due)
	default:
		t.set(wanted, true)
		e.walks.Want(walk.Want{Cookie: key.Cookie, Netns: key.Netns, Inode: t.Inode}, due)
	}
}

// unknownOfHolders says what must be known of who holds the socket so that an action that is
// due is done; "": that is not what stands against it.
func (e *Engine) unknownOfHolders(t *tracked, s *sock.Socket, r *ruleState, a *rules.Action, now sock.Instant) match.Reason {
	by, times := e.subjectOf(t, s, r, a), t.Times()
	if !e.program.HoldersDecideFor(r.Rule, a) || s.Inode == 0 || match.Any(r.Exclude, by) == ssfilter.True {
		return ""
	}
	if but, _ := r.DecideBut(a, &times, by, 0, now, true); but != match.Due {
		return ""
	}
	if by.HoldersKnown() {
		return match.OwnerUnknown
	}
	return match.HoldersUnknown
}

// recalls reports whether it was found not long ago who holds t.
func (e *Engine) recalls(t *tracked, now sock.Instant) bool {
	return t.holders != nil && t.holders.Complete && now.Sub(t.holders.At) <= e.walks.Renew()
}

// recallHolders takes over what walks for scans have found of who holds t, and forgets what
// is not to be believed any more.
func (e *Engine) recallHolders(t *tracked, now sock.Instant) {
	if !e.holdersDecide() || t.Inode == 0 {
		return
	}
	if h := e.holders.cache.of(t.Cookie, t.Inode); h != nil && (t.holders == nil || !t.holders.Complete || h.At > t.holders.At) {
		t.holders = h
	}
	if t.holders != nil && now.Sub(t.holders.At) > e.walks.Believed() {
		t.holders = nil
	}
}

// outdated reports whether what is known of who holds t is to be found again for what
// falls due at that instant.
func (e *Engine) outdated(t *tracked, due sock.Instant) bool {
	if e.holdersDecide() {
		return e.mustLook(t, true, due)
	}
	return t.holders.Kernel && due.Sub(t.holders.At) >= kernelRecheck
}

// awaitHolders returns until when a decision on t waits for its holders; 0: it does not.
func (e *Engine) awaitHolders(t *tracked, s *sock.Socket, now sock.Instant) sock.Instant {
	if t.holders == nil || t.holders.Kernel {
		e.wantHolders(t, s.ID.Key(), now)
	}
	switch {
	case t.holders != nil || t.Inode == 0:
		return 0 // what the kernel holds stays the kernel's until a holder is seen
	case e.walks.Complete() && sock.MayBeKernels(s.UID), s.UID == e.config.UID && !t.is(notOwn):
		return t.await(now.Add(e.walks.Patience()), now)
	case t.is(foreseen):
		return 0 // there was time to find a name for the log, and the act is not late for that
	default:
		return t.await(now.Add(nameTimeout), now)
	}
}

// findHolders begins to look for the holders that are wanted.
func (e *Engine) findHolders(now sock.Instant) {
	for _, w := range e.killed.due(now) {
		e.walks.Want(w, never)
	}
	hung := e.walks.Hangs()
	e.plan.Resolve, e.plan.Read = e.walks.Begin(now)
	if e.plan.Resolve != nil && e.program.NeedsHolders {
		e.plan.Resolve = e.holders.begin(e.plan.Resolve)
	}
	if e.walks.Hangs() && !hung {
		e.note(WalkHangs, slog.Duration("for", e.walks.Took(now)))
	}
}

func (in AccessExamined) apply(e *Engine, _ sock.Instant) { e.walks.Examined(in.Complete) }

func (in NewHoldersFound) apply(e *Engine, now sock.Instant) {
	kills, shared := e.killsAny(), make(sharedHolders)
	began := e.walks.ReadingBegan()
	for _, w := range e.walks.Read(in.Cost, now) {
		t := e.trackOf(w)
		switch held := in.Holders[w.Inode]; {
		case in.Err != nil || t == nil || !t.is(wanted):
		case len(held) > 0 && e.holdersDecide():
			if t.holders == nil { // a name for the log; whether they are all, only a walk tells
				t.holders = shared.of(&subject.Holders{Processes: held, At: began})
				e.decideSoon(t, now)
			}
		case len(held) > 0:
			e.foundHolders(t, shared.of(&subject.Holders{Processes: held, At: began}), kills, now)
		default:
			t.set(notOwn, true)
			e.decideSoon(t, now)
		}
	}
	e.walks.Forget(func(w walk.Want) bool {
		t := e.trackOf(w)
		return !w.Alert && w.Killed == "" && (t == nil || !t.is(wanted))
	})
}

func (in HoldersFound) apply(e *Engine, now sock.Instant) {
	if e.walks.Hangs() {
		e.note(WalkEnded, slog.Duration("after", e.walks.Took(now)))
	}
	kills, shared, open := e.killsAny(), make(sharedHolders), make(map[leak]int)
	wants := e.walks.Walked(in.Complete, in.Cost, now)
	e.names.walked(wants, &in, now)
	e.takeHolders(&in, wants, now)
	for _, w := range wants {
		t, held := e.trackOf(w), in.Of(w.Inode)
		held.At = e.walks.Began()
		switch {
		case w.Killed != "":
			e.killed.asked--
			e.historyOf(sock.RuleSum(w.Killed)).descriptors.add(held)
			for _, p := range held.Processes {
				open[leak{w.Killed, p.Comm, p.PID}]++
			}
			continue
		case t == nil:
			continue
		case len(held.Processes) == 0 && !held.Complete && t.holders != nil:
			// A walk that was refused a process does not unsay who held it: one that cannot be
			// read may hold it now.
			held.Processes, held.Kernel = t.holders.Processes, t.holders.Kernel
		}
		e.foundHolders(t, shared.of(held), kills, now)
	}
	byPID := func(a, b leak) int { return cmp.Or(a.pid-b.pid, cmp.Compare(a.rule, b.rule)) }
	for _, l := range slices.SortedFunc(maps.Keys(open), byPID) {
		e.note(StillOpen, slog.String("rule", l.rule), slog.Int("pid", l.pid), slog.String("comm", l.comm), slog.Int("descriptors", open[l]))
	}
}

// trackOf returns the track of the socket whose holders were wanted; nil: it is gone,
// or another.
func (e *Engine) trackOf(w walk.Want) *tracked {
	if t := e.tracks.get(w.Key()); t != nil && t.Inode == w.Inode {
		return t
	}
	return nil
}

// foundHolders takes in who holds t; kills: some rule has sockets killed.
func (e *Engine) foundHolders(t *tracked, held *subject.Holders, kills bool, now sock.Instant) {
	news := t.is(wanted) || t.holders == nil || !same(t.holders, held)
	t.set(wanted, false)
	t.holders = held
	if kills {
		e.usages.Watch(held.Processes, now)
	}
	if news && e.holdersDecide() && t.phase == waiting && t.is(blocked) {
		e.wait(t, now)
		return
	}
	e.decideSoon(t, now)
}

// same reports whether two walks have found the same.
func same(a, b *subject.Holders) bool {
	return a.Kernel == b.Kernel && a.Complete == b.Complete && slices.Equal(a.Processes, b.Processes)
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
		if same(known, h) {
			return known
		}
	}
	s[first] = append(s[first], h)
	return h
}

// decideSoon has t asked for anew, if it waits to hear of its holders.
func (e *Engine) decideSoon(t *tracked, now sock.Instant) {
	if t.phase == waiting && t.holdersBy != 0 && t.due != 0 {
		e.wait(t, now)
	}
}

// killsAny reports whether any rule has anything killed.
func (e *Engine) killsAny() bool {
	return slices.ContainsFunc(e.program.Rules, func(r match.Rule) bool {
		return r.Enabled && !r.DryRun && slices.ContainsFunc(r.Then, func(a rules.Action) bool {
			return a.Kind.Destructive && a.Kind.On == rules.OnSocket && e.capabilities.CannotAny(a.Kind) == nil
		})
	})
}

// leak is a program that holds descriptors of sockets that were killed for a rule.
type leak struct {
	rule, comm string
	pid        int
}

// killed are sockets that were killed, and whose programs may not have closed the
// descriptors: those still count against their limit of open files.
type killed struct {
	fresh []walk.Want  // that are to be looked for
	at    sock.Instant // when to do so
	asked int          // that are looked for
}

func (k *killed) add(inode uint32, rule string, now sock.Instant) {
	if inode == 0 || len(k.fresh) >= maxKilled {
		return
	}
	if len(k.fresh) == 0 {
		k.at = now.Add(leakedAfter)
	}
	k.fresh = append(k.fresh, walk.Want{Inode: inode, Killed: rule})
}

// wake returns when due has something to return.
func (k *killed) wake() sock.Instant {
	if len(k.fresh) == 0 || k.asked > 0 {
		return never
	}
	return k.at
}

// due returns those that are to be looked for now.
func (k *killed) due(now sock.Instant) (due []walk.Want) {
	if now >= k.wake() {
		due, k.fresh, k.asked = k.fresh, nil, len(k.fresh)
	}
	return due
}
