package ssfilter_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// A filter knows its text and its meaning, and owes neither to package ssfilter.
type filter struct {
	expr   // its text has the states, too
	states ssfilter.StateSet
	family uint8 // that inet: or inet6: names; 0: none
}

// An expr is what an expression means, and what ss makes of it: in the kernel
// (ssfilter_bytecompile of misc/ss.c) and by itself (run_ssfilter).
type expr struct {
	text                string
	junction            string // of a list: "and" or "or"
	means, kernel, user func(s *subject) bool
	conditions          []condition
}

// A condition is an expr without expressions in it.
type condition struct {
	expr
	inKernel string                // why kernel may differ from means
	byItself string                // and user
	hidden   func(s *subject) bool // a dump may not tell
	device   bool
}

// ss is what ss makes of a socket. It filters twice: in the kernel and, what that
// gave, once more. Where it is asked for dev it compiles nothing for the kernel.
func (f *filter) ss(s *subject) bool {
	return (f.family == 0 || f.family == s.ID.Family) && (f.device() || f.kernel(s)) && f.user(s)
}

// device reports whether f asks for dev.
func (f *filter) device() bool {
	return slices.ContainsFunc(f.conditions, func(c condition) bool { return c.device })
}

// reason is why ss differs on s, by the conditions that it takes otherwise.
func (f *filter) reason(s *subject) string {
	var reasons []string
	if f.family != 0 {
		reasons = append(reasons, "inet: and inet6: hold for the whole command")
	}
	for _, c := range f.conditions {
		if c.means(s) != c.kernel(s) && !f.device() {
			reasons = append(reasons, c.inKernel)
		}
		if c.means(s) != c.user(s) {
			reasons = append(reasons, c.byItself)
		}
	}
	slices.Sort(reasons)
	return strings.Join(slices.DeleteFunc(slices.Compact(reasons), func(r string) bool { return r == "" }), "; ")
}

// hides reports whether f asks for what a dump does not tell of s.
func (f *filter) hides(s *subject) bool {
	return slices.ContainsFunc(f.conditions, func(c condition) bool { return c.hidden != nil && c.hidden(s) })
}

// plain is a condition that ss takes as we do.
func plain(text string, means func(s *subject) bool) condition {
	return condition{expr: expr{text: text, means: means, kernel: means, user: means}}
}

// alone is the expression that c is.
func (c condition) alone() expr {
	x := c.expr
	x.conditions = []condition{c}
	return x
}

func (c condition) negated(text string) condition {
	c.text = text
	c.means, c.kernel, c.user = negated(c.means), negated(c.kernel), negated(c.user)
	return c
}

func negated(f func(*subject) bool) func(*subject) bool {
	return func(s *subject) bool { return !f(s) }
}

// generator draws filters that hit what is there, and sometimes miss.
type generator struct {
	*rand.Rand
	sockets []*subject
	devices []string
	cgroups []namedCgroup
	family  uint8 // of the addresses of the filter in the making; 0: any
	tagged  bool  // it has said so
}

// namedCgroup is a directory, and the path that the kernel's id stands for.
type namedCgroup struct{ directory, path string }

// populationMarks are the marks in a Population.
var populationMarks = []uint32{0, 1, 0x10, 0x20, 0x1234, 0xffffffff}

// stateWords are the states and groups of ss 6.1.
var stateWords = []struct {
	name string
	set  ssfilter.StateSet
}{
	{"established", 1 << ssfilter.Established},
	{"syn-sent", 1 << ssfilter.SynSent},
	{"syn-recv", 1 << ssfilter.SynRecv},
	{"fin-wait-1", 1 << ssfilter.FinWait1},
	{"fin-wait-2", 1 << ssfilter.FinWait2},
	{"time-wait", 1 << ssfilter.TimeWait},
	{"unconnected", 1 << ssfilter.Close},
	{"closed", 1 << ssfilter.Close},
	{"close-wait", 1 << ssfilter.CloseWait},
	{"last-ack", 1 << ssfilter.LastAck},
	{"listening", 1 << ssfilter.Listening},
	{"closing", 1 << ssfilter.Closing},
	{"all", ssfilter.AllStates},
	{"connected", ssfilter.Connected},
	{"synchronized", ssfilter.Synchronized},
	{"bucket", ssfilter.Bucket},
	{"big", ssfilter.Big},
}

func oneOf[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

// often is true n times of 100.
func (g *generator) often(n int) bool { return g.IntN(100) < n }

func (g *generator) filter() filter {
	g.family, g.tagged = 0, false
	if g.often(10) {
		g.family = oneOf[uint8](g, unix.AF_INET, unix.AF_INET6)
	}
	f := filter{states: ssfilter.AllStates}
	var states string
	if g.often(50) {
		states, f.states = g.states()
	}
	f.expr = plain("", func(*subject) bool { return true }).alone()
	if states == "" || g.often(90) {
		f.expr = g.expr(3)
	}
	f.text = strings.TrimSpace(states + " " + f.text)
	if g.tagged {
		f.family = g.family
	}
	return f
}

// states is the words that select states, and which those are.
func (g *generator) states() (words string, set ssfilter.StateSet) {
	for set == 0 { // which we refuse
		words = ""
		for range 1 + g.IntN(3) {
			state := oneOf(g, stateWords...)
			word := oneOf(g, "state", "state", "exclude", "excl")
			switch {
			case word == "state":
				set |= state.set
			case words == "":
				set = ssfilter.AllStates &^ state.set
			default:
				set &^= state.set
			}
			words += fmt.Sprintf(" %s %s", word, oneOf(g, state.name, strings.ToUpper(state.name)))
		}
	}
	return strings.TrimSpace(words), set
}

// expr is an expression, with blanks around all tokens and parentheses wherever
// and meets or: ss gives both the same precedence.
func (g *generator) expr(depth int) expr {
	if depth == 0 || g.often(30) {
		return g.condition().alone()
	}
	if g.often(25) {
		x := g.expr(depth - 1)
		if x.junction != "" || g.often(10) {
			x.text = "( " + x.text + " )"
		}
		x.text, x.junction = oneOf(g, "not ", "! ")+x.text, ""
		x.means, x.kernel, x.user = negated(x.means), negated(x.kernel), negated(x.user)
		return x
	}
	list := expr{junction: oneOf(g, "and", "or")}
	words := []string{" or ", " | ", " || "}
	if list.junction == "and" {
		words = []string{" and ", " & ", " && ", " "}
	}
	var items []expr
	for i := range 2 + g.IntN(2) {
		x := g.expr(depth - 1)
		if x.junction != "" && (x.junction != list.junction || g.often(50)) || g.often(10) {
			x.text = "( " + x.text + " )"
		}
		if i > 0 {
			list.text += oneOf(g, words...)
		}
		list.text += x.text
		list.conditions = append(list.conditions, x.conditions...)
		items = append(items, x)
	}
	// A list of or holds where one item does, a list of and does not where one does not.
	decides := list.junction == "or"
	list.means = func(s *subject) bool {
		return slices.ContainsFunc(items, func(x expr) bool { return x.means(s) == decides }) == decides
	}
	list.kernel = func(s *subject) bool {
		return slices.ContainsFunc(items, func(x expr) bool { return x.kernel(s) == decides }) == decides
	}
	list.user = func(s *subject) bool {
		return slices.ContainsFunc(items, func(x expr) bool { return x.user(s) == decides }) == decides
	}
	return list
}

func (g *generator) condition() condition {
	switch n := g.IntN(100); {
	case n < 30:
		return g.port()
	case n < 65:
		return g.host()
	case n < 73:
		return g.device()
	case n < 84:
		return g.mark()
	case n < 90:
		return autobound()
	case len(g.cgroups) > 0:
		return g.cgroup()
	}
	return g.port()
}

// equal is "=" in one of its spellings, or nothing; unequal is "!=".
func (g *generator) equal() string   { return oneOf(g, " ", " = ", " == ", " eq ") }
func (g *generator) unequal() string { return oneOf(g, " != ", " ne ", " neq ") }

// equality gives c a value, and one of the two operators of equality.
func (g *generator) equality(key, value string, c condition) condition {
	if g.often(30) {
		return c.negated(key + g.unequal() + value)
	}
	c.text = key + g.equal() + value
	return c
}

func (g *generator) side() ssfilter.Side { return oneOf(g, ssfilter.Src, ssfilter.Dst) }

func end(s *subject, side ssfilter.Side) netip.AddrPort {
	if side == ssfilter.Src {
		return s.Src
	}
	return s.Dst
}

// number prints n as C reads it.
func (g *generator) number(n uint32) string {
	return fmt.Sprintf(oneOf(g, "%d", "%d", "%#x", "%#o"), n)
}

// portNear is a port that a socket has, or one beside it.
func (g *generator) portNear(side ssfilter.Side) uint16 {
	if g.often(5) {
		return oneOf[uint16](g, 0, 1, math.MaxUint16)
	}
	port := end(oneOf(g, g.sockets...), side).Port()
	if g.often(30) {
		port += oneOf[uint16](g, 1, math.MaxUint16)
	}
	return port
}

func (g *generator) port() condition {
	side := g.side()
	key := side.String()[:1] + "port"
	port := g.portNear(side)
	value := g.number(uint32(port))
	for _, service := range []string{"ssh", "http", "https", "postgresql"} {
		if n, err := net.LookupPort("tcp", service); err == nil && n == int(port) {
			value = service
		}
	}
	value = oneOf(g, "", ":") + value
	of := func(s *subject) uint16 { return end(s, side).Port() }
	switch g.IntN(6) {
	case 0:
		return plain(key+oneOf(g, " >= ", " ge ", " geq ")+value, func(s *subject) bool { return of(s) >= port })
	case 1:
		return plain(key+oneOf(g, " <= ", " le ", " leq ")+value, func(s *subject) bool { return of(s) <= port })
	case 2:
		return plain(key+oneOf(g, " > ", " gt ")+value, func(s *subject) bool { return of(s) > port })
	case 3:
		return plain(key+oneOf(g, " < ", " lt ")+value, func(s *subject) bool { return of(s) < port })
	}
	if g.often(3) {
		return g.equality(key, oneOf(g, "*", ":*"), plain("", func(*subject) bool { return true }))
	}
	return g.equality(key, value, plain("", func(s *subject) bool { return of(s) == port }))
}

// host is a condition on the address of one side, its port, or both.
func (g *generator) host() condition {
	side := g.side()
	sample := end(oneOf(g, g.sockets...), side)
	port, suffix := -1, ""
	if g.often(25) {
		port = int(g.portNear(side))
		suffix = fmt.Sprintf(":%d", port)
	} else if g.often(5) {
		suffix = ":*"
	}
	hasPort := func(s *subject) bool { return port < 0 || int(end(s, side).Port()) == port }

	family := "" // that is named
	if g.family != 0 && g.often(60) {
		g.tagged = true
		family = map[uint8]string{unix.AF_INET: "inet:", unix.AF_INET6: "inet6:"}[g.family]
	}
	if g.often(15) || g.family == unix.AF_INET && sample.Addr().Is6() || g.family == unix.AF_INET6 && sample.Addr().Is4() {
		c := plain(fmt.Sprintf("%s%s%s*%s", side, g.equal(), family, suffix), hasPort)
		if suffix != "" && family == "" && g.often(50) {
			c.text = fmt.Sprintf("%s%s%s", side, g.equal(), suffix)
		}
		if family != "" {
			c.means = func(s *subject) bool {
				return hasPort(s) && end(s, side).Addr().Is4() == (g.familyOf(family) == unix.AF_INET)
			}
		}
		return c
	}

	addr := sample.Addr()
	if g.often(5) {
		addr = addr.Prev() // which is nobody's, most often
	}
	if !addr.IsValid() {
		addr = sample.Addr()
	}
	prefix := netip.PrefixFrom(addr, addr.BitLen())
	if g.often(60) {
		prefix = netip.PrefixFrom(addr, g.IntN(addr.BitLen()+1))
	}
	literal := addr.String()
	inside := prefix
	if addr.Is4() && g.family == 0 && g.often(10) { // mapped
		prefix = netip.PrefixFrom(netip.AddrFrom16(addr.As16()), prefix.Bits()+96)
		literal = "::ffff:" + literal
	}
	switch {
	case prefix.IsSingleIP() && g.often(80):
	case prefix.Addr().Is4() && g.often(20):
		literal += "/" + net.IP(net.CIDRMask(prefix.Bits(), 32)).String()
	case prefix.Addr().Is4() && prefix.Bits() <= 16 && g.often(50):
		b := addr.As4()
		literal = fmt.Sprintf("%d.%d/%d", b[0], b[1], prefix.Bits())
	default:
		literal += fmt.Sprintf("/%d", prefix.Bits())
	}
	if prefix.Addr().Is6() || g.often(10) {
		literal = "[" + literal + "]"
	}
	c := condition{
		inKernel: "an IPv6 prefix has mapped addresses, and no others of IPv4",
		byItself: "ss compares addresses of different families bit by bit",
	}
	c.means = func(s *subject) bool { return hasPort(s) && inside.Contains(end(s, side).Addr()) }
	c.kernel = func(s *subject) bool { return hasPort(s) && bytecodeContains(prefix, raw(s, side)) }
	c.user = func(s *subject) bool { return hasPort(s) && ssContains(prefix, raw(s, side)) }
	c.text = fmt.Sprintf("%s%s%s%s%s", side, g.equal(), family, literal, suffix)
	return c
}

func (g *generator) familyOf(word string) uint8 {
	if word == "inet:" {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// raw is an address as the kernel has it: mapped where the socket is of IPv6.
func raw(s *subject, side ssfilter.Side) []byte {
	b := s.ID.Src[:]
	if side == ssfilter.Dst {
		b = s.ID.Dst[:]
	}
	if s.ID.Family == unix.AF_INET {
		return b[:4]
	}
	return b
}

var mappedPrefix = []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}

// sameBits compares as many leading bits.
func sameBits(a, b []byte, n int) bool {
	whole := n / 8
	return bytes.Equal(a[:whole], b[:whole]) && (n%8 == 0 || (a[whole]^b[whole])>>(8-n%8) == 0)
}

// bytecodeContains is the comparison of inet_diag_bc_run: IPv4 is not in an IPv6
// prefix, but mapped addresses are, in both kinds.
func bytecodeContains(prefix netip.Prefix, addr []byte) bool {
	if bits, ok := bytes.CutPrefix(addr, mappedPrefix); ok && len(addr) == 16 && prefix.Addr().Is4() {
		addr = bits
	}
	want := prefix.Addr().AsSlice()
	return len(want) == len(addr) && sameBits(want, addr, prefix.Bits())
}

// ssContains is inet2_addr_match of misc/ss.c: it takes four bytes for an address of
// IPv6 that goes on with zeros, and sixteen, cut, for one of IPv4. A prefix of no
// bits has every address.
func ssContains(prefix netip.Prefix, addr []byte) bool {
	want, have := make([]byte, 16), make([]byte, 16)
	copy(want, prefix.Addr().AsSlice())
	copy(have, addr)
	if sameBits(want, have, prefix.Bits()) {
		return true
	}
	bits, ok := bytes.CutPrefix(addr, mappedPrefix)
	return ok && prefix.Addr().Is4() && sameBits(want, bits, prefix.Bits())
}

func (g *generator) device() condition {
	device, err := net.InterfaceByName(oneOf(g, g.devices...))
	if err != nil {
		panic(err) // it was made, and is never removed
	}
	index, value := uint32(device.Index), device.Name
	if g.often(40) {
		if g.often(30) {
			index = oneOf[uint32](g, 0, 77)
		}
		value = fmt.Sprint(index)
	}
	c := plain("", func(s *subject) bool { return s.Iface == index })
	c.device = true
	return g.equality("dev", value, c)
}

func (g *generator) mark() condition {
	mark, mask := oneOf(g, populationMarks...), uint32(math.MaxUint32)
	value := g.number(mark)
	if g.often(40) {
		mask = oneOf[uint32](g, 0, 0x10, 0x30, 0xff, 0xffff0000)
		if g.often(80) { // or no mark has it
			mark &= mask
		}
		value = g.number(mark) + "/" + g.number(mask)
	}
	c := plain("", func(s *subject) bool { return s.known.Mark&mask == mark })
	c.byItself = "to ss the mark of a minisocket is 0: no dump tells it"
	c.user = func(s *subject) bool { return s.Mark&mask == mark }
	c.hidden = func(s *subject) bool { return !s.HasMark }
	return g.equality("fwmark", value, c)
}

func (g *generator) cgroup() condition {
	group := oneOf(g, g.cgroups...)
	value := group.directory
	if group.path != "/" && g.often(30) { // ss knows no "/"
		value = oneOf(g, group.path, group.path[1:])
	}
	c := plain("", func(s *subject) bool { return s.known.Cgroup == group.path })
	c.hidden = func(s *subject) bool { return s.Cgroup == "" }
	return g.equality("cgroup", value, c)
}

func autobound() condition {
	c := plain("autobound", func(s *subject) bool { return s.known.Autobound == ssfilter.True })
	c.byItself = "autobound is to ss only what has a port of net.ipv4.ip_local_port_range"
	c.user = func(s *subject) bool { return s.ephemeral.First <= s.Src.Port() && s.Src.Port() <= s.ephemeral.Last }
	c.hidden = func(*subject) bool { return true }
	return c
}
