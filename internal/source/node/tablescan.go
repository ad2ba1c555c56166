package node

import (
	"errors"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/internal/source/patient"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// listed is an entry of the table that a scan is to show.
type listed struct {
	id   sock.ID
	need need
}

// errNoTable is the error where the table tells nothing, or is being given up; errLost,
// where it has lost something of which the maintenance does not know yet.
var (
	errNoTable = errors.New("there is no table")
	errLost    = errors.New("the table has lost an event")
)

// scanTable shows the sockets in the states, of which the table tells, and returns whose
// they are: the namespaces in which it follows all connections, but for those with so many
// that reading all of them by sock_diag is cheaper. After an error nothing was shown.
func (x *Scanner) scanTable(q *sock.Query, states ssfilter.StateSet, each func(s *sock.Socket, got sock.Instant)) (shown map[*namespace]bool, err error) {
	table := x.source.table()
	if table == nil {
		return nil, errNoTable
	}
	if x.lookup == nil {
		if x.lookup, err = patient.Open(x.source.OpenLookup); err != nil {
			return nil, err
		}
	}
	attached := x.source.follower.attached.Load()
	all, err := x.list(table, states, q.Known)
	// What was read is all there is only if nobody has ended the attachment, or has begun to
	// give the table up, which empties it.
	if err == nil {
		err = x.source.follower.programs.Attached()
	}
	if x.source.follower.attached.Load() != attached {
		err = errNoTable
	}
	if err != nil {
		return nil, err
	}
	shown = make(map[*namespace]bool, len(all))
	budget := mostRefreshed
	for n, entries := range all {
		if len(entries) > mostAsked && !x.locked[n] {
			continue
		}
		shown[n] = true
		x.ask(entries, &budget)
		x.show(q, states, n, entries, each)
	}
	x.source.cache.end()
	return shown, nil
}

// list reads the table: the sockets of each namespace in which it follows all connections.
// Which those are is asked once, and before: a namespace that is followed while the table is
// read would else be left out by it and by sock_diag both.
func (x *Scanner) list(table *events.Table, states ssfilter.StateSet, known sock.Freshness) (map[*namespace][]listed, error) {
	s := x.source
	all := make(map[*namespace][]listed)
	now, lostBefore := s.config.Now(), s.follower.lost.Load()
	var unknown []uint64
	s.cache.begin()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, n := range s.inodes {
		if s.follows(n) || x.locked[n] { // of one that is left out, what it tells is better than nothing
			all[n] = nil
		}
	}
	err := table.Read(func(e *events.Entry) {
		n := s.cookies[e.NetnsCookie]
		if n == nil {
			unknown = append(unknown, e.NetnsCookie)
			return
		}
		entries, follows := all[n]
		if !states.Has(e.State) || !follows {
			s.cache.keep(e.ID.Cookie) // for a scan that asks for it
			return
		}
		id := e.ID
		id.Netns = n.Inode
		all[n] = append(entries, listed{id, s.cache.look(e, known, now)})
	})
	if s.config.All && s.unknown.note(unknown) {
		s.kick()
	}
	if err != nil {
		return nil, err
	}
	lost, err := table.Lost()
	if err == nil && lost != lostBefore { // up to now
		err = errLost
	}
	return all, err
}

// ask asks the kernel for the sockets of which it must tell, and for some of those of which
// it told long ago. An entry is believed of an answer only if it was read after it: so it is
// about the same stay in the state, or a later one.
func (x *Scanner) ask(entries []listed, budget *int) {
	x.ids = x.ids[:0]
	for i := range entries {
		switch entries[i].need {
		case none:
			continue
		case refresh:
			if *budget--; *budget < 0 {
				continue
			}
		}
		x.ids = append(x.ids, entries[i].id)
	}
	if len(x.ids) == 0 {
		return
	}
	// What could not be asked for is shown as it was; a locked socket of which nothing is
	// known is not shown.
	x.answers, _ = x.lookup.Lookup(x.ids, x.answers)
	cache := &x.source.cache
	for i := range x.answers {
		switch a := &x.answers[i]; {
		case a.Gone:
			cache.drop(a.ID.Cookie)
		case a.Err == nil && a.Socket.Minisocket():
			cache.drop(a.ID.Cookie)
		case a.Err == nil:
			cache.put(&a.Socket, a.Got)
		}
	}
}

// show shows those entries that are what the query means, and in one of the states: what
// has come into another since is shown by sock_diag.
func (x *Scanner) show(q *sock.Query, states ssfilter.StateSet, of *namespace, entries []listed, each func(s *sock.Socket, got sock.Instant)) {
	for i := range entries {
		got, ok := x.source.cache.get(entries[i].id.Cookie, &x.socket)
		if ok && states.Has(x.socket.State) && (q.Where == nil || q.Where.Eval(&x.socket.Conn) == ssfilter.True) {
			of.name(&x.socket)
			each(&x.socket, got)
		}
	}
}

// tellEntry completes an answer about a socket by what the table tells of it, if it is about
// the same stay in its state.
func (s *Source) tellEntry(table *events.Table, of *sock.Socket, got sock.Instant) {
	if table == nil || !events.Covered.Has(of.State) || of.Minisocket() {
		return
	}
	e, ok, err := table.Get(of.ID.Cookie)
	if err != nil || !ok || e.State != of.State || e.Entered == 0 || e.Entered > got || e.ID.Local() != of.ID.Local() || e.ID.Peer() != of.ID.Peer() {
		return
	}
	const both = sock.HasBytesAcked | sock.HasBytesReceived
	if of.Info.Has&both == both && (of.Info.BytesAcked < e.Acked || of.Info.BytesReceived < e.Received) {
		return // it was connected anew, and the events were lost
	}
	of.Entered = e.Entered
	of.Unmoved = of.Info.Has&both == both && of.Info.BytesAcked == e.Acked && of.Info.BytesReceived == e.Received
}
