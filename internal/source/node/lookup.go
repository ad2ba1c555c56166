package node

import (
	"errors"
	"slices"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
)

// Lookup asks for single sockets of any namespace, and destroys them. It is for one thread.
type Lookup struct {
	source  *Source
	order   []int // of the questions, by namespace
	ids     []sock.ID
	answers []sock.Answer
}

// OpenLookup returns a lookup for the calling thread.
func (s *Source) OpenLookup() (*Lookup, error) {
	_ = sockdiag.RaiseNetAdmin() // who probes the host tells what follows from an error
	l := &Lookup{source: s}
	// What cannot be opened is said at the start, and not when the first socket is due.
	conn, err := s.own.conn()
	if err != nil {
		return nil, err
	}
	s.own.giveBack(conn)
	return l, nil
}

// Close ends it.
func (l *Lookup) Close() error { return nil }

// Lookup is that of sockdiag.Conn, over all namespaces: a socket of a namespace that is gone
// is gone. The answers tell since when the sockets have been in their states, where the
// table knows.
func (l *Lookup) Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	answers = slices.Grow(answers[:0], len(ids))[:len(ids)]
	l.order = l.order[:0]
	for i := range ids {
		l.order = append(l.order, i)
	}
	slices.SortStableFunc(l.order, func(a, b int) int { return int(int64(ids[a].Netns) - int64(ids[b].Netns)) })
	var failed error
	for rest := l.order; len(rest) > 0; {
		n := 1
		for n < len(rest) && ids[rest[n]].Netns == ids[rest[0]].Netns {
			n++
		}
		l.ids = l.ids[:0]
		for _, i := range rest[:n] {
			l.ids = append(l.ids, ids[i])
		}
		failed = errors.Join(failed, l.ask())
		for k, i := range rest[:n] {
			answers[i] = l.answers[k]
		}
		rest = rest[n:]
	}
	l.tell(answers)
	return answers, failed
}

// ask asks for sockets of one namespace.
func (l *Lookup) ask() (err error) {
	n := l.source.namespace(l.ids[0].Netns)
	conn, err := n.conn()
	if err == nil {
		l.answers, err = conn.Lookup(l.ids, l.answers)
		n.giveBack(conn)
		for i := range l.answers {
			n.name(&l.answers[i].Socket)
		}
		if !isLeft(err) {
			return err
		}
	}
	gone := isLeft(err)
	now := l.source.config.Now()
	l.answers = l.answers[:0]
	for i := range l.ids {
		a := sock.Answer{ID: l.ids[i], Gone: gone, Sent: now, Got: now}
		if !gone {
			a.Err = err
		}
		l.answers = append(l.answers, a)
	}
	if gone {
		return nil
	}
	return err
}

// tell completes the answers by the table, which is read after them.
func (l *Lookup) tell(answers []sock.Answer) {
	table := l.source.table()
	if table == nil {
		return
	}
	for i := range answers {
		switch a := &answers[i]; {
		case a.Gone:
			l.source.cache.drop(a.ID.Cookie)
		case a.Err == nil:
			l.source.tellEntry(table, &a.Socket, a.Got)
			l.source.cache.renew(&a.Socket, a.Got)
		}
	}
}

// Destroy destroys a socket.
func (l *Lookup) Destroy(id sock.ID) error {
	n := l.source.namespace(id.Netns)
	conn, err := n.conn()
	if err == nil {
		defer n.giveBack(conn)
		err = conn.Destroy(id)
	}
	if isLeft(err) {
		return sock.ErrGone
	}
	return err
}
