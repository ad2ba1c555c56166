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

var errNoTable = errors.New("there is no table")

// scanTable shows the sockets in the states, of which the table tells. dumped are the
// namespaces with so many that reading all of them by sock_diag is cheaper. After an error
// nothing was shown.
func (x *Scanner) scanTable(q *sock.Query, states ssfilter.StateSet, each func(s *sock.Socket, got sock.Instant)) (dumped map[*namespace]bool, err error) {
	table := x.source.table()
	if table == nil {
		return nil, errNoTable
	}
	if x.lookup == nil {
		if x.lookup, err = patient.Open(x.source.OpenLookup); err != nil {
			return nil, err
		}
	}
	all, err := x.list(table, states, q.Fresh)
	if err != nil {
		return nil, err
	}
	dumped = make(map[*namespace]bool)
	budget := mostRefreshed
	for n, entries := range all {
		if len(entries) > mostAsked {
			dumped[n] = true
			continue
		}
		x.ask(table, entries, &budget)
		x.show(q, n, entries, each)
	}
	x.source.cache.end()
	return dumped, nil
}

// list reads the table; fresh: the kernel is asked for every socket.
func (x *Scanner) list(table *events.Table, states ssfilter.StateSet, fresh bool) (map[*namespace][]listed, error) {
	s := x.source
	all := make(map[*namespace][]listed)
	now := s.config.Now()
	var unknown []uint64
	s.cache.begin()
	s.mu.RLock()
	defer s.mu.RUnlock()
	err := table.Read(func(e *events.Entry) {
		n := s.cookies[e.NetnsCookie]
		if n == nil {
			unknown = append(unknown, e.NetnsCookie)
			return
		}
		if !states.Has(e.State) || !s.follows(n) {
			s.cache.keep(e.ID.Cookie) // for a scan that asks for it
			return
		}
		id := e.ID
		id.Netns = n.Inode
		all[n] = append(all[n], listed{id, s.cache.look(e, fresh, now)})
	})
	if s.config.All && s.unknown.note(unknown) {
		s.kick()
	}
	return all, err
}

// ask asks the kernel for the sockets of which it must tell, and for some of those of which
// it told long ago. An entry is believed of an answer only if it was read after it: so it is
// about the same stay in the state, or a later one.
func (x *Scanner) ask(table *events.Table, entries []listed, budget *int) {
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

// show shows those entries that are what the query means.
func (x *Scanner) show(q *sock.Query, of *namespace, entries []listed, each func(s *sock.Socket, got sock.Instant)) {
	for i := range entries {
		got, ok := x.source.cache.get(entries[i].id.Cookie, &x.socket)
		if ok && q.States.Has(x.socket.State) && (q.Where == nil || q.Where.Eval(&x.socket.Conn) == ssfilter.True) {
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
	if err != nil || !ok || e.State != of.State || e.Entered == 0 || e.Entered > got || e.ID.SPort != of.ID.SPort || e.ID.DPort != of.ID.DPort {
		return
	}
	const both = sock.HasBytesAcked | sock.HasBytesReceived
	of.Entered = e.Entered
	of.Unmoved = of.Info.Has&both == both && of.Info.BytesAcked == e.Acked && of.Info.BytesReceived == e.Received
}
