package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
)

// Sysctl sets settings of a network namespace while a group fires.
var Sysctl = &Kind{Name: "sysctl", On: OnGroup, Explicit: true, Reverts: true}

// Setting is a sysctl(8) and its value: decimal numbers with one space between them.
type Setting struct{ Name, Value string }

// setting is a sysctl that may be set: it belongs to a network namespace, and no value within
// these bounds cuts that off. What it really does is not what many expect.
type setting struct {
	name        string
	numbers     int // that it has
	least, most int
	does        message.Phrase
}

// localPorts is the setting of which port_usage is a share.
const localPorts = "net.ipv4.ip_local_port_range"

// sysctls are all of them, as they are documented in the kernel's Documentation/networking/ip-sysctl.rst.
var sysctls = []setting{
	{localPorts, 2, 1024, 65535, "later calls of connect(2) and of bind(2) to port 0 choose from these ports, connect(2) first from those as even as the first one; a port of a listener in it may be taken before that listens"},
	{"net.ipv4.tcp_fin_timeout", 1, 1, 600, "it is how long FIN_WAIT2 lasts once the program has closed the socket; TIME_WAIT lasts 60s whatever it says"},
	{"net.ipv4.tcp_tw_reuse", 1, 0, 2, "with 1, connect(2) may take the port of a TIME_WAIT that is a second old, where both ends use timestamps; it does nothing for a server's sockets, and 2, the default, allows that on loopback alone"},
	{"net.ipv4.tcp_max_tw_buckets", 1, 1024, 4194304, "beyond so many, a connection that ends goes without TIME_WAIT, and late segments may reach the next one with its ports; those that there are stay"},
	{"net.ipv4.tcp_max_syn_backlog", 1, 128, 65536, "it bounds half-open connections of a listener only where SYN cookies are off"},
	{"net.ipv4.tcp_syncookies", 1, 1, 2, "1 answers by cookies once the queue of a listener is full, and 2 always, for tests; connections made so lack some options"},
	{"net.core.somaxconn", 1, 128, 65535, "it caps the backlog of later calls of listen(2): a server that listens already keeps what it has"},
	{"net.ipv4.tcp_keepalive_time", 1, 10, 32767, "it is for sockets with SO_KEEPALIVE that set no TCP_KEEPIDLE; without SO_KEEPALIVE none is asked after"},
	{"net.ipv4.tcp_keepalive_intvl", 1, 1, 32767, "it is for sockets with SO_KEEPALIVE that set no TCP_KEEPINTVL"},
	{"net.ipv4.tcp_keepalive_probes", 1, 1, 127, "it is for sockets with SO_KEEPALIVE that set no TCP_KEEPCNT"},
	{"net.ipv4.tcp_retries2", 1, 5, 15, "it is how often data is sent again before any connection of the namespace is given up, not only a dead one: 8 is some 100s, 15 some 15m"},
	{"net.ipv4.tcp_syn_retries", 1, 1, 10, "it is how often a SYN is sent again: each more doubles how long connect(2) takes to fail, 6 is one to two minutes"},
	{"net.ipv4.tcp_synack_retries", 1, 1, 10, "it is how often a SYN-ACK is sent again: fewer free the queue of half-open connections sooner, and lose slow clients"},
	{"net.ipv4.tcp_orphan_retries", 1, 1, 8, "it is how often data of a socket that its program has closed is sent again; connections that are still held are not meant"},
}

var sysctlTable = document.Table[act]{What: "sysctl", Keys: []document.Key[act]{
	document.Func("set", func(r *document.Reader, key, n *yaml.Node, a *act) { a.Sysctls = readSettings(r, key, n) }),
	after,
}}

func readSettings(r *document.Reader, key, n *yaml.Node) (all []Setting) {
	entries := r.Named(n, "set")
	if t := document.Target(n); t.Kind == yaml.MappingNode && len(t.Content) == 0 {
		r.Report(key, "this sets nothing: name a sysctl, such as net.ipv4.ip_local_port_range: \"15000 60999\"")
	}
	for _, e := range entries {
		i := slices.IndexFunc(sysctls, func(s setting) bool { return s.name == e.Key.Value })
		if i < 0 {
			r.Report(e.Key, "%v", unknownSysctl(e.Key.Value))
			continue
		}
		value := document.Scalar("a number", sysctls[i].parse)(r, e.Value)
		all = append(all, Setting{e.Key.Value, value})
	}
	slices.SortFunc(all, func(a, b Setting) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// SysctlNames are the names of the settings that rules may set.
func SysctlNames() []string {
	var names []string
	for _, s := range sysctls {
		names = append(names, s.name)
	}
	return names
}

func unknownSysctl(name string) error {
	for _, of := range []string{"fs.", "kernel.", "vm.", "dev.", "user."} {
		if strings.HasPrefix(name, of) {
			return message.Errorf("%q is of the whole host: sockdog sets only what belongs to one network namespace", name)
		}
	}
	return message.Unknown("sysctl", name, "set", SysctlNames())
}

// parse reads the value of a sysctl: so many numbers within its bounds, ascending.
func (s setting) parse(text string) (string, error) {
	fields := strings.Fields(text)
	if len(fields) != s.numbers {
		return "", message.Errorf("%s takes %s, not %q", s.name, message.Phrase([]string{"", "one number", "two numbers, such as \"15000 60999\""}[s.numbers]), text)
	}
	before := uint64(0)
	for i, f := range fields {
		n, err := document.Number(f, uint64(s.least), uint64(s.most))
		if err != nil {
			return "", err
		}
		if i > 0 && n <= before {
			return "", message.Errorf("%q is no range: the second port must be the higher one", text)
		}
		before, fields[i] = n, strconv.FormatUint(n, 10)
	}
	return strings.Join(fields, " "), nil
}

// checkSysctl holds a sysctl action to setting something.
func checkSysctl(r *document.Reader, a *act) {
	if a.lacks("set") {
		r.Report(a.at, "sysctl needs what to set: write - sysctl: {set: {net.ipv4.ip_local_port_range: \"15000 60999\"}}")
	}
}

// checkNamespaceOf refuses a rule of which it is not known in which network namespace to
// set what.
func (p *parser) checkNamespaceOf(f *file) {
	if f.settings.Namespaces != AllNamespaces {
		return
	}
	for _, d := range f.rules {
		for i := range d.then {
			byNetns := func(k document.Placed[GroupKey]) bool { return k.Value == ByNetns || k.Value == "" }
			unread := d.given.Has("group_by") && len(d.groupBy) == 0
			if a := &d.then[i]; a.Kind == Sysctl && d.given.Has("when") && !unread && !slices.ContainsFunc(d.groupBy, byNetns) {
				p.Report(a.at, "with namespaces: all, sysctl is set in the network namespace that a group is of: write group_by: [netns]")
				d.broken = true
			}
		}
	}
}

// measures reports whether when asks for the metric.
func (d *draft) measures(m Metric) bool {
	return slices.ContainsFunc(d.when, func(c document.Placed[Condition]) bool { return c.Value.Metric == m })
}

// lintSysctl says what each setting really does, and warns of one that ends its own group.
func (p *parser) lintSysctl(d *draft) {
	for i := range d.then {
		a := &d.then[i]
		for _, s := range a.Sysctls {
			j := slices.IndexFunc(sysctls, func(known setting) bool { return known.name == s.Name })
			p.Report(a.at, "%s: %s", s.Name, sysctls[j].does)
		}
		sets := func(s Setting) bool { return s.Name == localPorts }
		if slices.ContainsFunc(a.Sysctls, sets) && d.measures(PortUsage) && !d.given.Has("until") {
			p.Report(a.at, "with another range port_usage is another: the group ends, the range is put back, and all begins anew; give until a threshold that the range alone does not meet")
		}
	}
}

func (s Setting) String() string { return fmt.Sprintf("%s=%s", s.Name, s.Value) }
