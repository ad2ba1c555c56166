package demo

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// role is what the program and its database do with a connection.
type role int

const (
	forgot role = iota // left in the program's pool when the database closes it
	inUse              // query upon query
	upload             // the database has said all it will say, the program goes on
)

// roles are those of the program's connections, in the order in which it opens them.
var roles = []role{forgot, forgot, forgot, forgot, forgot, forgot, inUse, inUse, upload}

// count is how many connections have a role.
func count(of role) (n int) {
	for _, r := range roles {
		if r == of {
			n++
		}
	}
	return n
}

// perRound is how many the database closes at once.
const perRound = 2

// conn is one connection, as seen from the program's end.
type conn struct {
	role role
	peer nstest.Socket  // the database's end
	at   netip.AddrPort // of the program's end

	closed sock.Instant // just before the database closed it; 0: not yet
	killed bool         // sockdog says so

	// What the kernel says.
	gone   sock.Instant // its first answer that says so; 0: it is there
	state  ssfilter.State
	bytes  uint64 // received, and acknowledged by the database
	before uint64 // the same at an earlier time
}

// due is when a forgotten connection falls due: it has been in CLOSE_WAIT since
// the database closed it, and not before.
func (c *conn) due() sock.Instant { return c.closed.Add(bound) }

// problem says what is not as it should be in the end, or "".
func (c *conn) problem() string {
	want := ssfilter.Established
	if c.role == upload {
		want = ssfilter.CloseWait
	}
	switch {
	case c.role == forgot && c.gone == 0:
		return "is still there"
	case c.role == forgot && c.gone < c.due():
		return fmt.Sprintf("was gone %v before it fell due", c.due().Sub(c.gone).Round(time.Microsecond))
	case c.role == forgot && !c.killed:
		return "is gone, and sockdog does not say that it did it"
	case c.role == forgot:
		return ""
	case c.gone != 0 || c.killed:
		return "was killed, and it was in use"
	case c.state != want:
		return fmt.Sprintf("is %v, and should be %v", c.state, want)
	case c.bytes == c.before:
		return "carries no data any more"
	default:
		return ""
	}
}
