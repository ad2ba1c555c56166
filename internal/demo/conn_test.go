package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The demo must be able to fail: it exits with status 0 only where no connection
// has a problem.
func TestEnding(t *testing.T) {
	const closed = sock.Instant(time.Hour)
	healed := conn{role: forgot, closed: closed, gone: closed.Add(bound), killed: true}
	used := conn{role: inUse, state: ssfilter.Established, bytes: 2, before: 1}
	sending := conn{role: upload, state: ssfilter.CloseWait, bytes: 2, before: 1}
	tests := []struct {
		name string
		of   conn
		but  func(c *conn)
		want string // "": healed
	}{
		{"healed", healed, func(*conn) {}, ""},
		{"survivor", healed, func(c *conn) { c.gone = 0 }, "is still there"},
		{"early", healed, func(c *conn) { c.gone-- }, "before it fell due"},
		{"closed by somebody else", healed, func(c *conn) { c.killed = false }, "sockdog does not say that it did it"},
		{"in use", used, func(*conn) {}, ""},
		{"killed in use", used, func(c *conn) { c.gone = closed }, "was killed, and it was in use"},
		{"said to be killed", used, func(c *conn) { c.killed = true }, "was killed, and it was in use"},
		{"in another state", used, func(c *conn) { c.state = ssfilter.CloseWait }, "is close-wait, and should be established"},
		{"silent", used, func(c *conn) { c.bytes = c.before }, "carries no data any more"},
		{"still sending", sending, func(*conn) {}, ""},
		{"no longer half-closed", sending, func(c *conn) { c.state = ssfilter.LastAck }, "is last-ack, and should be close-wait"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := test.of
			test.but(&c)
			var out strings.Builder
			s := story{out: &out, began: time.Now()}
			if good := s.ending([]*conn{&c}); good != (test.want == "") {
				t.Errorf("the ending is good: %v", good)
			}
			if !strings.Contains(out.String(), test.want) {
				t.Errorf("the ending does not say %q:\n%s", test.want, &out)
			}
		})
	}
}
