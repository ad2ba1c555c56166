package world

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// workers carry out a plan, which follows from in.
type workers struct {
	*World
	in engine.Input
}

// Record keeps on disk what is to be kept.
func (w workers) Record(p *engine.Plan) {
	for _, m := range p.Remember {
		if !w.unlucky(20) {
			w.disk.memories[m.Key] = m
		}
	}
	for _, key := range p.Forget {
		if !w.unlucky(20) {
			delete(w.disk.memories, key)
		}
	}
	if p.Groups != nil && !w.unlucky(5) {
		w.disk.groups = p.Groups
	}
	if p.Stops != nil {
		w.disk.stops = p.Stops
	}
	w.Observer.Planned(w.in, p)
}

// deliver hands the engine an answer that is made a while from now, and reaches
// it a little later.
func (w workers) deliver(d time.Duration, answer func() engine.Input) {
	w.later(w.Now.Add(d), func() {
		in := answer()
		w.later(w.Now.Add(w.UpTo(time.Millisecond)), func() { w.step(in) })
	})
}

// Count reads the counters.
func (w workers) Count(bool) {
	w.deliver(w.UpTo(time.Millisecond), func() engine.Input {
		if w.unlucky(30) {
			return engine.CountersRead{}
		}
		return engine.CountersRead{OK: true, Counters: sock.Counters{InSegs: w.InSegs, HasInSegs: true, TimeWait: w.TimeWaits(), HasTimeWait: true}}
	})
}

// Scan walks the table as it changes. Where something is taken out meanwhile, it
// may miss what is left.
func (w workers) Scan(l *engine.Scan) {
	w.Logf("scan %s", l.Query.States)
	duration := w.UpTo(300 * time.Millisecond)
	cost := min(duration, w.UpTo(50*time.Millisecond))
	w.later(w.Now.Add(w.UpTo(time.Millisecond)), func() {
		sent, taken, result := w.Now, w.Taken, l.Begin(w.Now)
		table, memory := slices.Clone(w.Table), map[uint64]sock.Answer(nil)
		if w.Remembers && w.Follows {
			memory = maps.Clone(w.memory)
		}
		var waiting []func()
		chunks := 1 + w.Rand.IntN(5)
		for c := range chunks {
			part := table[len(table)*c/chunks : len(table)*(c+1)/chunks]
			w.later(sent.Add(duration*time.Duration(c)/time.Duration(chunks)), func() {
				got := w.Now.Add(w.UpTo(duration / time.Duration(chunks)))
				for _, cookie := range part {
					s := w.Sockets[cookie]
					if s == nil || !l.Query.States.Has(s.State) {
						continue
					}
					// Where all is calm, it misses only those that the engine knows.
					if w.Taken != taken && (w.Engine.Watches(s.ID.Key()) || !w.Calm) && w.Rand.IntN(10) == 0 {
						continue
					}
					shown, got := w.show(s, &l.Query, memory, got)
					if l.Query.Where != nil && l.Query.Where.Eval(&shown.Conn) == ssfilter.False {
						continue
					}
					if shown.InBacklog() {
						waiting = append(waiting, func() { w.Observer.Waits(s, &shown, l.Rules()) })
					}
					w.Observer.Shown(&shown)
					result.Take(&shown, got)
					if w.Rand.IntN(50) == 0 {
						result.Take(&shown, got)
					}
				}
			})
		}
		w.later(sent.Add(duration+time.Millisecond), func() {
			in := engine.ScanDone{Result: result, Sent: sent, Cost: cost}
			if w.unlucky(20) {
				in.Err = errors.New("cut short")
			} else {
				if l.Program() == w.program {
					for _, show := range waiting {
						show()
					}
				}
				w.Observer.Scanned(l)
			}
			w.step(in)
		})
	})
}

// FreshFor is how long the source shows the same answer about a socket that it sees
// change, if nobody is given another.
const FreshFor = 30 * time.Second

// show is what a scan shows of a socket, and when that was told. Where the source sees it
// change, that may be what it was told before the scan.
func (w workers) show(s *sim.Socket, q *sock.Query, memory map[uint64]sock.Answer, got sock.Instant) (sock.Socket, sock.Instant) {
	shown := s.Scan(q, w.Now, w.Jiffy)
	if !w.Remembers || q.Known == sock.Now || shown.Entered == 0 || ssfilter.Asks(q.Where).Autobound {
		w.remember(&shown, got)
		return shown, got
	}
	last := memory[s.ID.Cookie]
	same := last.Got != 0 && last.Socket.State == shown.State && last.Socket.Entered == shown.Entered
	if same && w.Now.Sub(last.Got) <= FreshFor && !last.Socket.InBacklog() && !last.Socket.InUse() {
		return last.Socket, last.Got
	}
	w.remember(&shown, got)
	return shown, got
}

// remember has the source keep what it told of a socket last. A scan may have read it before
// an answer that came first: that the segments tell.
func (w workers) remember(shown *sock.Socket, got sock.Instant) {
	last := w.memory[shown.ID.Cookie]
	newer := last.Got <= got
	if last.Socket.State == shown.State && last.Socket.Entered == shown.Entered && last.Socket.Info.SegsIn != shown.Info.SegsIn {
		newer = last.Socket.Info.SegsIn < shown.Info.SegsIn
	}
	if newer {
		w.memory[shown.ID.Cookie] = sock.Answer{Socket: *shown, Got: got}
	}
}

// Lookup answers for single sockets, each at an instant of its own.
func (w workers) Lookup(ids []sock.ID) {
	w.later(w.Now.Add(w.UpTo(time.Millisecond)), func() {
		in, sent := engine.LookupDone{IDs: ids}, w.Now
		if w.unlucky(30) {
			in.Err = errors.New("no answer")
			ids = ids[:w.Rand.IntN(len(ids))]
		}
		w.later(sent.Add(w.UpTo(2*time.Millisecond)), func() {
			got := w.Now.Add(w.UpTo(2 * time.Millisecond))
			for _, id := range in.IDs[len(ids):] {
				if s := w.Sockets[id.Cookie]; s != nil {
					s.Disturbed = true
				}
			}
			for _, id := range ids {
				in.Answers = append(in.Answers, w.answer(id, sent, got))
			}
			w.later(got, func() { w.step(in) })
		})
	})
}

// answer is what the kernel says of one socket.
func (w workers) answer(id sock.ID, sent, got sock.Instant) sock.Answer {
	a := sock.Answer{ID: id, Sent: sent, Got: got}
	s := w.Sockets[id.Cookie]
	switch {
	case s == nil:
		a.Gone = true
	case w.unlucky(50):
		a.Err = errors.New("no memory")
		s.Disturbed = true
	default:
		a.Socket = s.Report(w.Now, w.Jiffy)
		w.remember(&a.Socket, got)
		if s.InAcceptQueue() {
			known := a.Socket
			known.Autobound = ssfilter.TriOf(!s.Bound) // as a scan has said
			var all []*match.Rule
			for i := range w.program.Rules {
				all = append(all, &w.program.Rules[i])
			}
			w.Observer.Waits(s, &known, all)
		}
		w.Observer.Answered(s)
	}
	return a
}

// Act does what was decided, one batch after the other. The record of the
// intent comes first and survives.
func (w workers) Act(actions []engine.Action) {
	record := 3 * time.Millisecond
	if w.Rand.IntN(20) == 0 {
		record = 3 * time.Second // a slow disk
	}
	w.Busy = max(w.Busy, w.Now).Add(w.UpTo(record))
	w.later(w.Busy, func() {
		for i := range actions {
			a := &actions[i]
			w.disk.spent = append(w.disk.spent, sock.Spent{Rule: sock.RuleSum(a.Rule), N: 1, At: a.Decided, Expires: a.Decided.Add(a.Window)})
			for _, share := range a.Shares {
				w.disk.spent = append(w.disk.spent, sock.Spent{Rule: share, N: 1, At: a.Decided, Expires: a.Decided.Add(a.ShareWindow), Share: true})
			}
		}
		w.later(w.Now.Add(w.UpTo(time.Millisecond)), func() {
			in := engine.ActionsDone{Outcomes: make([]engine.Outcome, len(actions))}
			for i := range actions {
				in.Outcomes[i] = w.act(&actions[i])
			}
			done := w.Now.Add(w.UpTo(time.Millisecond))
			for i := range in.Outcomes {
				o := &in.Outcomes[i]
				o.At = done
				w.Observer.Acted(o, w.Sockets[o.Act.Socket.ID.Cookie])
			}
			w.later(done, func() { w.step(in) })
		})
	})
}

func (w workers) act(a *engine.Action) engine.Outcome {
	o := engine.Outcome{Act: *a}
	s := w.Sockets[a.Socket.ID.Cookie]
	switch {
	case s == nil:
		o.Gone, o.Err = true, sock.ErrGone
		return o
	case w.unlucky(40):
		o.Err = errors.New("no memory")
		s.Disturbed = true
		return o
	}
	o.Last = sock.Answer{ID: s.ID, Socket: s.Report(w.Now, w.Jiffy), Sent: w.Now, Got: w.Now}
	w.remember(&o.Last.Socket, w.Now)
	switch {
	case a.Decided < w.Ruled:
		o.Changed = match.NewRules
	case w.Paused():
		o.Changed = match.Paused
		s.Disturbed = true
	default:
		o.Changed = a.Recheck(&o.Last)
	}
	if o.Changed == "" && a.Via == rules.ViaHolder && !w.held(s, a.Holders) {
		o.Changed = match.HolderChanged
	}
	w.Observer.Acts(&o, s)
	if o.Changed != "" {
		return o
	}
	if a.Kind == rules.Keepalive {
		if s.Keepalive == 0 {
			s.Keepalive, s.Changed = time.Second+w.UpTo(5*time.Second), w.Now
			w.Probe(s)
		}
		return o
	}
	if a.Via == rules.ViaHolder && !w.Calm && w.shuts.IntN(25) == 0 {
		o.Refused, o.Err = true, sock.ErrRefused
		s.Disturbed = true
		return o
	}
	if w.unlucky(40) {
		o.Unsure, o.Err = true, sock.ErrUnconfirmed
		s.Disturbed = true
		if w.Rand.IntN(2) == 0 {
			s.Told++
			return o
		}
	}
	w.spin(s)
	if s.Told++; w.unlucky(100) {
		s.Disturbed = true
		return o
	}
	if a.Kind == rules.Shutdown {
		w.shutDown(s)
		return o
	}
	w.Remove(s)
	return o
}

// shutDown shuts a connection down. Its peer may be gone, or leave it at an acknowledgement.
func (w workers) shutDown(s *sim.Socket) {
	dead := s.Queued != sim.Never || w.shuts.IntN(2) == 0
	upTo := func(d time.Duration) time.Duration { return time.Duration(w.shuts.Int64N(int64(d))) + 1 }
	w.ShutDown(s)
	if w.shuts.IntN(6) == 0 { // its program makes another connection of it, and shuts that down, too
		w.After(s, upTo(5*time.Second), func() { w.anew(s) })
		return
	}
	if dead {
		return
	}
	answers := func(d time.Duration, do func()) {
		w.After(s, d, func() {
			if s.Shut != 0 && !s.Mini {
				do()
			}
		})
	}
	answers(upTo(10*time.Second), func() {
		if s.State == ssfilter.LastAck {
			w.Remove(s)
			return
		}
		s.Queued = sim.Never
		w.Advance(s, 1, 0)
		s.State, s.Entered, s.Seen = ssfilter.FinWait2, w.Now, s.Followed
		if w.shuts.IntN(2) == 0 {
			answers(upTo(20*time.Second), func() { w.TimeWait(s, ssfilter.TimeWait, sock.TimeWaitLen) })
		}
	})
}

// anew makes another connection of what was shut down, which its program shuts down at once.
func (w workers) anew(s *sim.Socket) {
	s.Conn++
	s.Told, s.Queued, s.LastData = 0, sim.Never, w.Now
	w.Advance(s, 0, 0)
	s.State, s.Entered, s.Shut, s.Seen = ssfilter.FinWait2, w.Now, w.Now, s.Followed
	if w.shuts.IntN(2) == 0 { // and otherwise the peer has said what it said before
		s.Segs, s.Acked, s.Received = 2, 1, 0
	}
}

// Intend writes the record of what is about to be done about a group, which survives.
func (w workers) Intend(a engine.GroupAction) {
	d := time.Duration(w.groups.Int64N(int64(3*time.Millisecond))) + 1
	if w.groups.IntN(20) == 0 {
		d = 4 * time.Second // a slow disk
	}
	w.Intends = max(w.Intends, w.Now.Add(d))
	w.later(w.Now.Add(d), func() {
		if a.Window > 0 {
			w.disk.spent = append(w.disk.spent, sock.Spent{Rule: sock.RuleSum(a.Limit()), N: 1, At: w.Now, Expires: w.Now.Add(a.Window), Own: !a.Kind().Destructive})
		}
		w.later(w.Now.Add(1), func() { w.step(engine.GroupIntended{Act: a}) })
	})
}

// Undo puts back what it has done.
func (w workers) Undo(a engine.GroupAction) {
	d := time.Duration(w.groups.Int64N(int64(3*time.Millisecond))) + 1
	w.Observer.Undoes(&a)
	w.later(w.Now.Add(d), func() { w.step(engine.GroupUndone{Act: a, At: w.Now}) })
}

// ActOn does it, which takes up to its timeout, and a moment where it has none.
func (w workers) ActOn(a engine.GroupAction) {
	d := time.Duration(w.groups.Int64N(int64(10*time.Millisecond))) + 1
	if o := a.Action.Exec; o != nil && w.groups.IntN(4) == 0 {
		d = o.Timeout
	}
	w.Observer.Runs(&a)
	ended := false
	end := func() {
		if ended {
			return
		}
		ended = true
		in := engine.GroupActed{Act: a, At: w.Now}
		switch w.groups.IntN(6) {
		case 0:
			in.Err = errors.New("exit status 1")
		case 1:
			in.Changed = match.Replaced
		case 2:
			if a.Kind().On == rules.OnProcess {
				in.Gone, in.Err = true, sock.ErrGone
			}
		}
		w.step(in)
	}
	w.ends = append(w.ends, end)
	w.later(w.Now.Add(d), end)
}

// held reports whether one of these processes holds s.
func (w workers) held(s *sim.Socket, by []sock.Holder) bool {
	return slices.ContainsFunc(by, func(h sock.Holder) bool { return slices.Contains(s.HeldAt(w.Now), h.PID) })
}

// spin has the program of a killed socket spin for a while, in some worlds.
func (w workers) spin(s *sim.Socket) {
	if pid := s.HeldAt(w.Now)[0]; w.Rand.IntN(10) == 0 && w.Spinning {
		w.Spins[pid] = w.Now.Add(w.UpTo(30 * time.Second))
		w.programs[pid%len(w.programs)].Uses(1, w.Now)
	}
}

// Fetch makes probes, some of which fail.
func (w workers) Fetch(urls []string) {
	for _, url := range urls {
		w.deliver(w.UpTo(2*time.Second), func() engine.Input {
			in := engine.Probed{URL: url}
			if w.unlucky(10) {
				in.Err = errors.New("no answer")
			}
			return in
		})
	}
}

// Sample reads the CPU usage of processes, which now and then cannot be read.
func (w workers) Sample(processes []spin.Process) {
	w.deliver(w.UpTo(50*time.Millisecond), func() engine.Input {
		var in engine.Sampled
		for _, p := range processes {
			s := &w.programs[p.PID%len(w.programs)]
			u := spin.Usage{Process: p, At: w.Now, CPU: s.Used(w.Now), Lived: w.Now.Sub(0), Gone: w.unlucky(100)}
			if s.Cores > 0 && w.Now >= w.Spins[p.PID] {
				s.Uses(0, w.Now)
			}
			in.Usages = append(in.Usages, u)
		}
		return in
	})
}

// Resolve walks through /proc.
func (w workers) Resolve(inodes []uint32) {
	cost, began := w.UpTo(w.Walking), w.Now
	w.deliver(cost+w.UpTo(20*time.Millisecond), func() engine.Input {
		in := engine.HoldersFound{Holders: w.holders(inodes, nil, began), Complete: true, Cost: cost}
		if w.Passes && w.unlucky(6) { // a process cannot be read
			in.Complete = false
			for _, inode := range slices.Sorted(maps.Keys(in.Holders)) {
				if in.Holders[inode][0].PID != 1 && w.Rand.IntN(3) == 0 {
					delete(in.Holders, inode)
				}
			}
			in.Settled = map[*sock.Owner]bool{nil: w.Rand.IntN(2) == 0} // it is apart from all others, perhaps
		}
		return in
	})
}

// Read reads the descriptors that are new. It may find any socket, and none; those of
// the watchdog it finds.
func (w workers) Read(inodes []uint32) {
	cost := w.UpTo(w.Walking / 10)
	w.deliver(cost, func() engine.Input {
		if w.unlucky(10) {
			return engine.NewHoldersFound{Cost: cost, Err: errors.New("no /proc")}
		}
		found := slices.DeleteFunc(slices.Clone(inodes), func(uint32) bool { return w.Rand.IntN(3) == 0 })
		return engine.NewHoldersFound{Holders: w.holders(found, inodes, w.Now), Cost: cost}
	})
}

// holders are the processes that hold sockets with the inodes, or own ones that the
// watchdog has, each as it was at some instant since then.
func (w workers) holders(inodes, own []uint32, since sock.Instant) map[uint32][]sock.Holder {
	holders := make(map[uint32][]sock.Holder)
	for _, cookie := range w.Table {
		s := w.Sockets[cookie]
		if s == nil {
			continue
		}
		if s.Inode == 0 || s.ByKernel || !slices.Contains(inodes, s.Inode) && !(s.BySelf && slices.Contains(own, s.Inode)) {
			continue
		}
		// Where its start is not known, it is not to be watched.
		read := w.Now.Add(-w.UpTo(w.Now.Sub(since) + 1))
		holders[s.Inode] = Holders(s, max(read, since), uint64(w.Run%2))
	}
	return holders
}

// programNames are what processes are called, by PID.
var programNames = []string{"", "sockdog", "leaky", "server", "worker"}

// Holders are those of a socket at an instant, which all started at once.
func Holders(s *sim.Socket, at sock.Instant, start uint64) (holders []sock.Holder) {
	for _, pid := range s.HeldAt(at) {
		holders = append(holders, sock.Holder{PID: pid, Start: start, Comm: programNames[pid], Exe: programNames[pid]})
	}
	return holders
}
