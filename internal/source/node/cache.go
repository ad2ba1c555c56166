package node

import (
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
)

// cache holds the stuck sockets of the table in full, as they were when the kernel was last
// asked: a question costs microseconds, and most of them stand still for hours. What it
// holds of a socket is never older than the last answer that anybody was given.
type cache struct {
	mu      sync.Mutex
	sockets map[uint64]*cached
	scan    uint64 // the number of the present reading of the table
}

// cached is a socket of the table.
type cached struct {
	sock.Socket
	got  sock.Instant // when the answer was in
	seen uint64       // the last reading of the table that showed it
}

func newCache() cache { return cache{sockets: make(map[uint64]*cached)} }

// freshFor is how long an answer is good enough for a scan. Before anything is done to a
// socket the kernel is asked for it again.
const freshFor = 30 * time.Second

// begin begins a reading of the table.
func (c *cache) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scan++
}

// end forgets the sockets that the reading did not show.
func (c *cache) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for cookie, s := range c.sockets {
		if s.seen != c.scan {
			delete(c.sockets, cookie)
		}
	}
}

// a need is why the kernel is to be asked for a socket.
type need uint8

const (
	none    need = iota
	refresh      // it may have changed a little
	answer       // nothing is known of it, or it is another by now
)

// look marks a socket of the table as seen and returns whether the kernel is to be asked.
func (c *cache) look(e *events.Entry, known sock.Freshness, now sock.Instant) need {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sockets[e.ID.Cookie]
	switch {
	case s == nil:
		return answer
	case s.State != e.State || s.Entered != e.Entered:
		delete(c.sockets, e.ID.Cookie)
		return answer
	}
	s.seen = c.scan
	switch {
	case known == sock.Ever:
		return none
	case known == sock.Now || s.InBacklog() || s.InUse(): // what becomes of it, only the kernel tells
		return answer
	case now.Sub(s.got) > freshFor:
		return refresh
	}
	return none
}

// keep marks a socket of the table as seen.
func (c *cache) keep(cookie uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sockets[cookie]; s != nil {
		s.seen = c.scan
	}
}

// get returns a socket as it was when got was.
func (c *cache) get(cookie uint64, into *sock.Socket) (got sock.Instant, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sockets[cookie]
	if s == nil {
		return 0, false
	}
	*into = s.Socket
	return s.got, true
}

// put keeps what the kernel answered, if that is no older than what is kept.
func (c *cache) put(s *sock.Socket, got sock.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(s, got, true)
}

// renew keeps what the kernel answered about a socket that is kept already.
func (c *cache) renew(s *sock.Socket, got sock.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.take(s, got, false)
}

func (c *cache) take(s *sock.Socket, got sock.Instant, begin bool) {
	k := c.sockets[s.ID.Cookie]
	switch {
	case k == nil && !begin:
		return
	case k == nil:
		k = &cached{}
		c.sockets[s.ID.Cookie] = k
	case k.got > got, s.State == k.State && s.Entered == k.Entered && int32(k.Info.SegsIn-s.Info.SegsIn) > 0:
		return // a dump may come after an answer about the socket alone, and have read it before
	}
	k.Socket, k.got = *s, got
	if begin {
		k.seen = c.scan
	}
}

// drop forgets a socket: it is gone, or no longer in a state of the table.
func (c *cache) drop(cookie uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sockets, cookie)
}
