package match

import (
	"cmp"
	"iter"
	"slices"

	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// index finds the matches that can hold for a socket by its ports, so that a
// thousand rules cost little more than the few that mean it. A match that names
// a port is certainly false at any other.
type index struct {
	entries []entry // the matches of the rules that scans are made for, in the order of the file
	byPort  [2]portIndex
	rest    []int32 // entries to be tried for every socket
}

type entry struct {
	match *rules.Match
	rule  *Rule
}

// portIndex says for each port which entries are to be tried. Between two
// neighbouring starts that does not change.
type portIndex struct {
	starts  []uint16
	pages   [257]int32 // pages[p] of the starts are below p<<8
	ends    []int32    // those of interval i end at ends[i+1]
	entries []int32
}

// indexSize bounds the memory of an index, to a megabyte: a match that names a
// wide range stands in it once for each interval that the ports of all matches
// divide that range into. What does not fit is tried for every socket; the widest
// are left out first.
const indexSize = 1 << 18

// indexed is a match in the making of an index.
type indexed struct {
	entry  int32
	side   ssfilter.Side
	ranges []ssfilter.PortRange
	size   int // how many intervals it stands in
}

func newIndex(rs []Rule, most int) *index {
	x := &index{}
	var all []indexed
	for i := range rs {
		if !rs[i].Scanned() {
			continue
		}
		for j := range rs[i].Match {
			n := int32(len(x.entries))
			x.entries = append(x.entries, entry{&rs[i].Match[j], &rs[i]})
			if side, ranges, ok := portsOf(rs[i].Match[j].Where); ok {
				all = append(all, indexed{entry: n, side: side, ranges: ranges})
			} else {
				x.rest = append(x.rest, n)
			}
		}
	}
	for i := range all {
		x.byPort[all[i].side].divide(all[i].ranges)
	}
	x.byPort[ssfilter.Src].sort()
	x.byPort[ssfilter.Dst].sort()
	for i := range all {
		all[i].size = x.byPort[all[i].side].intervals(all[i].ranges)
	}
	slices.SortStableFunc(all, func(a, b indexed) int { return cmp.Compare(a.size, b.size) })
	fit, size := 0, 0
	for fit < len(all) && size+all[fit].size <= most {
		size += all[fit].size
		fit++
	}
	for _, wide := range all[fit:] {
		x.rest = append(x.rest, wide.entry)
	}
	slices.Sort(x.rest)
	inOrder := all[:fit]
	slices.SortFunc(inOrder, func(a, b indexed) int { return cmp.Compare(a.entry, b.entry) })
	for side := range x.byPort {
		x.byPort[side].fill(slices.DeleteFunc(slices.Clone(inOrder), func(m indexed) bool { return int(m.side) != side }))
	}
	return x
}

// portsOf returns the ports of one side outside of which an expression is certainly
// false: of the side where they are the fewer.
func portsOf(x ssfilter.Expr) (side ssfilter.Side, ranges []ssfilter.PortRange, ok bool) {
	fewest := 0
	for _, of := range []ssfilter.Side{ssfilter.Dst, ssfilter.Src} {
		named, some := ssfilter.PortsOf(x, of)
		n := 0
		for _, r := range named {
			n += int(r.Last-r.First) + 1
		}
		if some && (!ok || n < fewest) {
			side, ranges, ok, fewest = of, named, true, n
		}
	}
	return side, ranges, ok
}

// divide lets intervals begin and end where the ranges do.
func (p *portIndex) divide(ranges []ssfilter.PortRange) {
	for _, r := range ranges {
		p.starts = append(p.starts, r.First)
		if after := r.Last + 1; after > 0 {
			p.starts = append(p.starts, after)
		}
	}
}

// sort makes the starts ready to be searched.
func (p *portIndex) sort() {
	slices.Sort(p.starts)
	p.starts = slices.Compact(p.starts)
	for _, start := range p.starts {
		p.pages[start>>8+1]++
	}
	for i := 1; i < len(p.pages); i++ {
		p.pages[i] += p.pages[i-1]
	}
}

// interval returns the number of the interval that a port is in: 0 is the one before
// the first start.
func (p *portIndex) interval(port uint16) int {
	low, high := p.pages[port>>8], p.pages[port>>8+1]
	for low < high {
		if mid := (low + high) / 2; p.starts[mid] <= port {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return int(low)
}

// intervals returns how many of them the ranges cover.
func (p *portIndex) intervals(ranges []ssfilter.PortRange) (n int) {
	for _, r := range ranges {
		n += p.interval(r.Last) - p.interval(r.First) + 1
	}
	return n
}

// fill enters the matches, which come in the order of the file.
func (p *portIndex) fill(all []indexed) {
	visit := func(do func(interval int, entry int32)) {
		for _, m := range all {
			for _, r := range m.ranges {
				last := p.interval(r.Last)
				for i := p.interval(r.First); i <= last; i++ {
					do(i, m.entry)
				}
			}
		}
	}
	p.ends = make([]int32, len(p.starts)+2)
	visit(func(i int, _ int32) { p.ends[i+1]++ })
	for i := 1; i < len(p.ends); i++ {
		p.ends[i] += p.ends[i-1]
	}
	p.entries = make([]int32, p.ends[len(p.ends)-1])
	next := slices.Clone(p.ends)
	visit(func(i int, entry int32) {
		p.entries[next[i]] = entry
		next[i]++
	})
}

// at returns the entries to be tried for a port.
func (p *portIndex) at(port uint16) []int32 {
	i := p.interval(port)
	return p.entries[p.ends[i]:p.ends[i+1]]
}

// RulesFor yields the rules of which the socket is a candidate, in the order of the file.
func (x *index) RulesFor(s subject.Subject) iter.Seq[*Rule] {
	return func(yield func(*Rule) bool) {
		var last *Rule
		for r := range x.Candidates(s) {
			if r != last && !yield(r) {
				return
			}
			last = r // the next may be another match of the same rule
		}
	}
}

// Candidates yields the matches that the socket may come to meet in the state it is
// in, in the order of the file, each after its rule.
func (x *index) Candidates(s subject.Subject) iter.Seq2[*Rule, *rules.Match] {
	return func(yield func(*Rule, *rules.Match) bool) {
		lists := [...][]int32{x.byPort[ssfilter.Dst].at(s.Dst.Port()), x.byPort[ssfilter.Src].at(s.Src.Port()), x.rest}
		for {
			first := -1
			for i, list := range lists {
				if len(list) > 0 && (first < 0 || list[0] < lists[first][0]) {
					first = i
				}
			}
			if first < 0 {
				return
			}
			e := &x.entries[lists[first][0]]
			lists[first] = lists[first][1:]
			if Lasts(e.match, s) != ssfilter.False && !yield(e.rule, e.match) {
				return
			}
		}
	}
}
