package rules

import (
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Lint returns what is unwise in a rules file though it may be meant. Where the
// file has problems, they are the error, and the warnings are about the rest.
func Lint(r io.Reader, more ...*Kind) (warnings Problems, err error) {
	p, f, err := read(r, reading{kinds: more})
	if err != nil {
		return nil, err
	}
	if problems := p.Problems(); len(problems) > 0 {
		err = problems
	}
	p.Forget()
	if f.given != nil {
		p.lint(f, err == nil)
	}
	return p.Problems(), err
}

func (p *parser) lint(f *file, good bool) {
	if good && len(f.rules) == 0 {
		p.Report(f.given["rules"], "there are no rules: nothing is watched")
	}
	if f.settings.DryRun {
		p.Report(f.settings.given["dry_run"], "dry_run is on for all rules: nothing is touched")
	}
	p.lintProtect(f)
	p.lintNetns(f, f.protect)
	for _, r := range f.receivers {
		p.lintReceiver(r)
	}
	for i, d := range f.rules {
		if d.DryRun {
			p.Report(d.given["dry_run"], "dry_run is on: this rule touches nothing")
		}
		if d.broken {
			continue // what it means is not known
		}
		if d.Enabled && !d.given.Has("then") {
			p.Report(d.head(), "without then, this rule only logs: name an action, or write then: log if that is meant")
		}
		p.lintNetns(f, slices.Concat(d.match, d.exclude))
		for _, s := range d.match {
			p.lintBounds(s)
		}
		if d.kill() == nil && d.dashed() {
			p.Report(d.given["match"], dashes)
		}
		p.lintGroups(d)
		for i := range d.then {
			if a := &d.then[i]; a.Kind == Keepalive {
				p.lintKeepalive(d, a)
			}
		}
		p.lintSysctl(d)
		p.lintEscalation(d)
		if kill := d.kill(); kill != nil {
			p.lintBrakes(d, kill)
			for _, s := range d.match {
				p.lintKill(s)
				p.lintConfined(s, f)
				p.lintProtected(s, f)
			}
			p.lintShadow(d, kill, f.rules[:i])
		}
	}
	if p.pairs > maxPairs {
		p.Report(f.given["rules"], "there are too many rules to compare with each other: warnings about protected and shadowed rules may be missing")
	}
}

// maxPairs is how many pairs of mappings are compared for a file: of protect with those
// of match, and of one rule with those of the rules before it.
const maxPairs = 500_000

// compares takes so many comparisons from those that are left.
func (p *parser) compares(pairs int) bool {
	p.pairs += pairs
	return p.pairs <= maxPairs
}

// kill returns the rule's destructive action on sockets, if it has one and is in force.
func (d *draft) kill() *act {
	if !d.Enabled {
		return nil
	}
	for i := range d.then {
		if d.then[i].takes() {
			return &d.then[i]
		}
	}
	return nil
}

// carefulLimit is what a rule about live connections may take in a minute that nothing else
// keeps from doing harm.
const carefulLimit = 60

// lintEscalation warns of a kill that a shutdown before it leaves nothing to do.
func (p *parser) lintEscalation(d *draft) {
	shut := slices.IndexFunc(d.then, func(a act) bool { return a.Kind == Shutdown })
	if shut < 0 {
		return
	}
	for i := range d.then[shut:] {
		if a := &d.then[shut+i]; a.Kind == Kill && a.After <= d.then[shut].After {
			p.Report(a.at, "shutdown comes first, and this kill only where that is not possible: give it a longer after, to kill what the peer does not end")
		}
	}
}

// lintBrakes warns of a rule about live connections that nothing stops in time.
func (p *parser) lintBrakes(d *draft, kill *act) {
	live := slices.ContainsFunc(d.match, func(s *selection) bool { return s.given.Wrote("state") && s.States&^ssfilter.Dead != 0 })
	if !live || !kill.Kind.takesSockets() {
		return
	}
	rate := float64(kill.Limit.N) / kill.Limit.Per.Minutes()
	switch {
	case kill.Canary == nil && rate > carefulLimit:
		p.Report(kill.given["canary"], "without a canary, and with a limit of more than %d a minute, a mistake in this rule breaks that many live connections before anybody looks", carefulLimit)
	case kill.Most >= 1:
		p.Report(kill.given["most"], "with most: 100%%, this rule may take every live connection of a program at once: leave most out, or say why in description")
	}
}

// lintProtect warns of a list that leaves the way in unprotected, unless a rule
// is about that.
func (p *parser) lintProtect(f *file) {
	kills := func(d *draft) bool { return d.kill() != nil }
	meant := func(d *draft) bool {
		return d.broken || kills(d) && slices.ContainsFunc(d.match, func(s *selection) bool { return s.namesSSH() != "" })
	}
	broken := func(s *selection) bool { return s.broken }
	if !f.given.Wrote("protect") || slices.ContainsFunc(f.protect, broken) || !slices.ContainsFunc(f.rules, kills) || slices.ContainsFunc(f.rules, meant) {
		return
	}
	for _, side := range []ssfilter.Side{ssfilter.Src, ssfilter.Dst} {
		session := &selection{Match: Match{States: ssfilter.Of(ssfilter.Established)}, terms: []ssfilter.Expr{ssfilter.Ports(side, ssh)}}
		if !slices.ContainsFunc(f.protect, func(s *selection) bool { return s.covers(session) }) {
			p.Report(f.given["protect"], "this list replaces the default, and ssh is not protected: add \"sport = :22 or dport = :22\"")
			return
		}
	}
}

// lintNetns warns of network namespaces that are told apart where one is watched.
func (p *parser) lintNetns(f *file, all []*selection) {
	if !f.watchesOne() {
		return
	}
	for _, s := range all {
		if len(s.Netns) > 0 {
			p.Report(s.given["netns"], "without namespaces: all, sockdog sees the sockets of its own network namespace alone: this means all of them, or none")
		}
	}
}

// watchesOne reports whether the file certainly means one network namespace to be watched.
func (f *file) watchesOne() bool {
	in := f.settings.given
	read := f.given.Wrote("settings") && in != nil && (in.Wrote("namespaces") || !in.Has("namespaces"))
	return f.settings.Namespaces == SelfNamespace && (read || !f.given.Has("settings"))
}

// keepalive is how often Go's net package probes a peer (net.KeepAliveConfig).
const keepalive = 15 * time.Second

// settled are the states in which everything that was sent is acknowledged.
const settled = ssfilter.Unconnected | 1<<ssfilter.TimeWait | 1<<ssfilter.FinWait2 | 1<<ssfilter.SynRecv

// ended are the states in which the peer has said that it sends no more.
const ended ssfilter.StateSet = 1<<ssfilter.CloseWait | 1<<ssfilter.LastAck | 1<<ssfilter.Closing | 1<<ssfilter.TimeWait

// lintBounds warns of times that never come.
func (p *parser) lintBounds(s *selection) {
	if s.given.Wrote("state") && s.States.Has(ssfilter.TimeWait) && s.InStateFor >= ssfilter.TimeWaitLen {
		p.Report(s.given["in_state_for"], "Linux keeps TIME_WAIT for 60s: this never holds for a time-wait socket")
	}
	if s.StalledFor > 0 && s.States != 0 && s.States&^settled == 0 {
		p.Report(s.given["stalled_for"], "in the state %s nothing is left to send: stalled_for never holds", s.States)
	}
	if s.SilentFor > 0 && s.States != 0 && s.States&^ended == 0 {
		p.Report(s.given["silent_for"], "in the state %s the peer sends no more: silent_for says what idle_for says, or in_state_for", s.States)
	}
	if keys := s.OfHolders(); len(keys) > 0 && s.States != 0 && s.States&^unheld == 0 {
		p.Report(s.given[keys[0].Name], "no process holds a socket in the state %s: %s is never certain there", s.States, keys[0].Name)
	}
}

// unheld are states in which only a remainder of a connection is left, or its beginning:
// no descriptor stands for it.
const unheld ssfilter.StateSet = 1<<ssfilter.TimeWait | 1<<ssfilter.SynRecv

// lintGroups warns of a group that flaps, and of one that is killed for by a single
// scan.
func (p *parser) lintGroups(d *draft) {
	if !d.given.Has("when") {
		return
	}
	held := func(k document.Placed[GroupKey]) bool { return slices.Contains(ofHolders, k.Value) }
	if i := slices.IndexFunc(d.groupBy, held); i >= 0 && !slices.ContainsFunc(d.match, func(s *selection) bool { return s.States&^unheld != 0 }) {
		p.Report(d.groupBy[i].At, "no process holds the sockets of this rule: %s does not tell them apart", d.groupBy[i].Value)
	}
	if d.untilMeets() && !d.untilCovers() {
		p.Report(d.until[0].At, "until may hold while when does: a group would keep ending and firing again; let until begin where when ends")
	}
	if d.given.Has("until") && d.given.Has("group_by") && !d.untilEmpty() {
		p.Report(d.until[0].At, "until does not hold without sockets: a group whose last socket is gone would fire until the rules change; leave until out, or let it hold for 0")
	}
	if kill := d.kill(); kill != nil && !d.given.Has("for") {
		p.Report(kill.at, "without for, a single scan makes a group fire, and its sockets are killed at once: a minute or more is safer")
	}
}

// lintKill warns of a kill that comes too soon, does no good or never comes.
func (p *parser) lintKill(s *selection) {
	server := p.lintServer(s)
	for name, bound := range map[string]time.Duration{"in_state_for": s.InStateFor, "idle_for": s.IdleFor, "stalled_for": s.StalledFor, "silent_for": s.SilentFor} {
		if bound > 0 && bound < keepalive && !server {
			p.Report(s.given[name], "%s is shorter than a keepalive interval (15s in Go): a program or peer that is only slow looks stuck; a minute or more is safer", name)
		}
	}
	if s.SilentFor > 0 && s.IdleFor == 0 && s.States&^ended != 0 {
		p.Report(s.given["silent_for"], "a connection on which the peer has nothing to say looks the same, an idle one or a stream that only this side sends: name peers that answer, and a time longer than any answer takes")
	}
	if i := slices.IndexFunc(s.Netns, func(n Netns) bool { return n.Inode != 0 }); i >= 0 {
		p.Report(s.given["netns"], "once the network namespace %s is gone, the kernel gives this number to another, whose sockets are then killed: give it a name (ip netns attach)", s.Netns[i])
	}
	if s.given.Wrote("state") && s.States.Has(ssfilter.TimeWait) {
		p.Report(s.given["state"], "a time-wait socket holds no descriptor and is gone within 60s: killing it only lets late segments reach the next connection")
	}
	if s.InBacklog != nil && *s.InBacklog {
		p.Report(s.given["in_backlog"], "a socket in an accept queue is never killed: this rule does nothing")
	}
	untouched := func(v Verdict) bool { return v == InBacklog || v == StillSending && s.StalledFor == 0 }
	if i := slices.IndexFunc(s.Verdicts, untouched); i >= 0 {
		p.Report(s.given["verdict"], "a socket with the verdict %s is never killed", s.Verdicts[i])
	}
}

// lintConfined warns of a user who says little of whose sockets are meant.
func (p *parser) lintConfined(s *selection, f *file) {
	only := len(s.Users) > 0 && len(s.Netns)+len(s.Cgroups)+len(s.Units)+len(s.Containers)+len(s.Pods) == 0 && !ssfilter.WithinCgroups(s.filter)
	if only && f.settings.Namespaces == AllNamespaces {
		p.Report(s.given["user"], "with namespaces: all, every pod may run programs as this user: pod, netns or cgroup says which are meant")
	}
}

// answering is how long a server may take for an answer, as far as anybody can say.
const answering = 5 * time.Minute

// lintServer warns of a server's sockets in CLOSE_WAIT that are killed while it may be
// at work, and reports whether it did: a client that has sent its request and closes for
// sending waits for the answer.
func (p *parser) lintServer(s *selection) bool {
	key, bound := "in_state_for", s.InStateFor
	if s.IdleFor > bound {
		key, bound = "idle_for", s.IdleFor
	}
	if s.SilentFor > bound {
		key, bound = "silent_for", s.SilentFor
	}
	if !s.given.Wrote("state") || !s.States.Has(ssfilter.CloseWait) || s.StalledFor > 0 || bound == 0 || bound >= answering {
		return false
	}
	_, server := ssfilter.PortsOf(s.Where, ssfilter.Src)
	anyPeer := s.filter == nil && s.dport == nil && s.dst == nil
	if server || anyPeer {
		p.Report(s.given[key], "a server may still be answering a client that closed for sending, and this kills the request: choose a time longer than any answer takes, and 5m or more")
	}
	return server || anyPeer
}

// lintProtected warns of a match whose sockets are protected: all of them, or
// those of ssh, by a rule that the file does not show.
func (p *parser) lintProtected(s *selection, f *file) {
	if key := s.namesSSH(); key != "" && !f.given.Has("protect") {
		p.Report(s.given[key], "a file without protect protects ssh, so no socket of port %d is killed: if you mean those, write protect: [], or a list of what else to protect", SSHPort)
		return
	}
	if p.protectsAgents(s, f) {
		return
	}
	if p.compares(len(f.protect)) && slices.ContainsFunc(f.protect, func(o *selection) bool { return !o.broken && o.covers(s) }) {
		p.Report(s.at, "every socket of this match is protected: the rule kills none")
	}
}

// protectsAgents warns of a match of programs that are protected by default.
func (p *parser) protectsAgents(s *selection, f *file) bool {
	if len(s.Processes) == 0 || !subset(s.Processes, protectedPrograms) || f.given.Has("protect") {
		return false
	}
	p.Report(s.given["process"], "a file without protect protects what %s holds, so the rule kills none of it: if you mean that, write a protect of your own, such as \"sport = :22 or dport = :22\"", strings.Join(s.Processes, " or "))
	return true
}

// namesSSH is the key that names the port of ssh, and not a range around it, or "".
func (s *selection) namesSSH() string {
	switch {
	case ssfilter.NamesPort(s.filter, SSHPort):
		return "filter"
	case ssfilter.NamesPort(s.sport, SSHPort):
		return "sport"
	case ssfilter.NamesPort(s.dport, SSHPort):
		return "dport"
	}
	return ""
}

// lintShadow warns of a rule that an earlier one leaves nothing to do.
func (p *parser) lintShadow(d *draft, kill *act, earlier []*draft) {
	if len(d.match) == 0 {
		return
	}
	for _, e := range earlier {
		first := e.kill()
		if first == nil || e.broken || e.DryRun || len(e.exclude) > 0 || e.given.Has("when") { // kills only while a group fires
			continue
		}
		if !p.compares(len(d.match) * len(e.match)) {
			return
		}
		taken := func(s *selection) bool {
			return slices.ContainsFunc(e.match, func(o *selection) bool {
				return o.before(s, kill.After-first.After) && o.covers(s)
			})
		}
		if !slices.ContainsFunc(d.match, func(s *selection) bool { return !taken(s) }) {
			p.Report(d.head(), "the rule %q on line %d takes every socket of this one first: put this one before it, or remove it", e.Name, e.head().Line)
			return
		}
	}
}

// covers reports whether every socket of o is certainly one of s, times apart.
// It may miss that where the two say the same in different words.
func (s *selection) covers(o *selection) bool {
	if o.States&^s.States != 0 {
		return false
	}
	for _, outer := range s.terms {
		implied := func(inner ssfilter.Expr) bool { return ssfilter.Covers(outer, inner) }
		if !slices.ContainsFunc(o.terms, implied) {
			return false
		}
	}
	return subset(o.Users, s.Users) &&
		subset(o.Netns, s.Netns) &&
		coversCgroups(s.Cgroups, o.Cgroups) &&
		subset(o.Processes, s.Processes) && subset(o.Cmdlines, s.Cmdlines) && subset(o.Units, s.Units) && subset(o.Containers, s.Containers) && subset(o.Pods, s.Pods) &&
		subset(o.Verdicts, s.Verdicts) &&
		(s.Unread == nil || o.Unread != nil && *s.Unread == *o.Unread) &&
		(s.InBacklog == nil || o.InBacklog != nil && *s.InBacklog == *o.InBacklog) &&
		(s.Keepalive == nil || o.Keepalive != nil && *s.Keepalive == *o.Keepalive)
}

// before reports whether the times of s hold no later than those of o, which
// acts by more later than s.
func (s *selection) before(o *selection, more time.Duration) bool {
	no := func(mine, other time.Duration) bool { return mine > 0 && (other == 0 || mine > other+more) }
	return !no(s.InStateFor, o.InStateFor) && !no(s.IdleFor, o.IdleFor) && !no(s.StalledFor, o.StalledFor) && !no(s.SilentFor, o.SilentFor)
}

// subset reports whether the values that few allows are among those of many,
// where none means any.
func subset[T comparable](few, many []T) bool {
	if len(many) == 0 {
		return true
	}
	return len(few) > 0 && !slices.ContainsFunc(few, func(v T) bool { return !slices.Contains(many, v) })
}
