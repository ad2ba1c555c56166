// Package plan says what each rule would do now, to which sockets and when, if nothing
// changed: by one scan, without touching anything.
package plan

import (
	"cmp"
	"os"
	"slices"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/rules"
)

// Plan is what the rules of a set would do.
type Plan struct {
	set     *rules.Set
	actions []engine.Forecast     // the next first
	groups  []engine.RuleOverview // of each rule; empty where no rule is about groups
	several bool                  // network namespaces were scanned

	LeftOut error  // what of other network namespaces was not scanned, and why
	Hung    string // whose command lines could not be read; empty: nobody's that matter
}

// Make scans once and plans by what is known from before.
func Make(set *rules.Set, h *host.Host, known engine.Restored) (*Plan, error) {
	several := set.Settings.Namespaces == rules.AllNamespaces
	source, err := node.Open(node.Config{
		Now: h.Now, All: several, Kind: node.SockDiag, ProcRoot: host.ProcRoot, OpenConn: h.OpenIn,
	})
	if err != nil {
		return nil, err
	}
	defer source.Close()
	kernel, err := source.OpenScanner()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	program := match.Compile(set)
	all := engine.ScanAll(program, h.Precision)
	result := all.Begin(h.Now())
	if err := kernel.Scan(all.Query, result.Take); err != nil {
		return nil, err
	}
	found, err := holders.FindAsking(host.ProcRoot, host.HolderPass(true), result.Inodes(), program.Cmdlines)
	if err != nil {
		return nil, err
	}
	p := &Plan{set: set, several: several, LeftOut: source.State().LeftOut, Hung: found.Hung}
	p.actions = engine.Forecasts(result, engine.Config{Precision: h.Precision, Self: os.Getpid()}, h.Capabilities(), known,
		engine.HoldersFound{Holders: found.Holders, Complete: found.Complete, Settled: found.Settled}, nil, h.Now())
	slices.SortStableFunc(p.actions, func(a, b engine.Forecast) int { return cmp.Compare(a.In, b.In) })
	p.groups, err = groupsNow(set, h, kernel, source, known)
	return p, err
}

// Bound reports whether an age in the plan is a mere lower bound.
func (p *Plan) Bound() bool {
	return slices.ContainsFunc(p.actions, func(f engine.Forecast) bool { return f.Bound })
}

// groupsNow says how the rules about groups stand by the first scans of an engine. The
// result is empty where there are none.
func groupsNow(set *rules.Set, h *host.Host, kernel daemon.Scanner, source *node.Source, restored engine.Restored) ([]engine.RuleOverview, error) {
	if !slices.ContainsFunc(set.Rules, func(r rules.Rule) bool { return len(r.When) > 0 }) {
		return nil, nil
	}
	counts, err := source.OpenCounters()
	if err != nil {
		return nil, err
	}
	defer counts.Close()
	program := match.Compile(set)
	first := &firstScans{kernel: kernel, counts: counts, now: h.Now, byHolders: program.NeedsHolders, cmdlines: program.Cmdlines, fds: program.NeedsFDs}
	d := engine.Driver{Engine: engine.New(engine.Config{Precision: h.Precision, Self: os.Getpid()}), Now: h.Now, Workers: first}
	d.Start(h.Capabilities(), restored)
	d.Step(engine.RulesChanged{Program: program})
	for len(first.came) > 0 && first.err == nil {
		in := first.came[0]
		first.came = first.came[1:]
		d.Step(in)
	}
	return d.Engine.Overview(h.Now()).Rules, first.err
}

// firstScans makes the first scans that an engine wants, and does nothing else that it
// wants.
type firstScans struct {
	kernel daemon.Scanner
	counts daemon.Counters
	now    func() sock.Instant
	scans  int
	came   []engine.Input
	err    error

	byHolders bool // a rule asks who holds sockets
	cmdlines  []string
	fds       bool // or how many descriptors those use
	walks     int
}

// Count reads the counters until each class of rules was scanned for.
func (f *firstScans) Count(pressure bool) {
	if f.scans < 2 {
		f.came = append(f.came, daemon.Count(f.counts, pressure))
	}
}

// Scan reads the socket table.
func (f *firstScans) Scan(s *engine.Scan) {
	f.scans++
	sent := f.now()
	result := s.Begin(sent)
	f.err = f.kernel.Scan(s.Query, result.Take)
	f.came = append(f.came, engine.ScanDone{Result: result, Sent: sent})
}

func (*firstScans) Record(*engine.Plan)       {}
func (*firstScans) Lookup([]sock.ID)          {}
func (*firstScans) Act([]engine.Action)       {}
func (*firstScans) Sample([]spin.Process)     {}
func (*firstScans) Intend(engine.GroupAction) {}
func (*firstScans) Undo(engine.GroupAction)   {}
func (*firstScans) ActOn(engine.GroupAction)  {}
func (*firstScans) Fetch([]string)            {}

// Read finds nothing, so that the walk does not wait for it.
func (f *firstScans) Read([]uint32) {
	if f.byHolders && f.walks == 0 {
		f.came = append(f.came, engine.NewHoldersFound{})
	}
}

// Resolve walks through /proc, where groups are counted by who holds their sockets: after
// the scan for each class of rules, at most.
func (f *firstScans) Resolve(inodes []uint32) {
	if !f.byHolders || f.walks == 2 {
		return
	}
	f.walks++
	wanted := make(map[uint32]struct{}, len(inodes))
	for _, inode := range inodes {
		wanted[inode] = struct{}{}
	}
	found, err := holders.FindAsking(host.ProcRoot, host.HolderPass(true), wanted, f.cmdlines)
	in := engine.HoldersFound{Holders: found.Holders, Complete: err == nil && found.Complete, Settled: found.Settled, Err: err}
	if f.fds {
		in.FDUsage = daemon.FDUsage(found.Holders, func(h sock.Holder) (holders.Descriptors, error) { return holders.ReadDescriptorsOf(host.ProcRoot, h) })
	}
	f.came = append(f.came, in)
}
