package match

import (
	"iter"

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

// portIndex has for each port the entries to be tried, in pages of 256 ports; nil: none
// of those is named.
type portIndex [1 << 8]*[1 << 8][]int32

// indexSize bounds the memory of an index, to a few megabytes: a match stands in it
// once for each port that it names.
const indexSize = 1 << 18

// widest is the share of the room left that a match may take; a wider one is tried for
// every socket. So there is room for narrow ones to the end.
const widest = 32

func newIndex(rs []Rule, room int) *index {
	x := &index{}
	for i := range rs {
		if !rs[i].Scanned() {
			continue
		}
		for j := range rs[i].Match {
			n := int32(len(x.entries))
			x.entries = append(x.entries, entry{&rs[i].Match[j], &rs[i]})
			side, ranges, size, ok := portsOf(rs[i].Match[j].Where)
			if !ok || size > room/widest {
				x.rest = append(x.rest, n)
				continue
			}
			room -= size
			for _, r := range ranges {
				x.byPort[side].add(r, n)
			}
		}
	}
	return x
}

// add enters a match for each port of a range. Matches come in the order of the file.
func (p *portIndex) add(r ssfilter.PortRange, entry int32) {
	for port := int(r.First); port <= int(r.Last); port++ {
		page := &p[port>>8]
		if *page == nil {
			*page = new([1 << 8][]int32)
		}
		(*page)[port&0xff] = append((*page)[port&0xff], entry)
	}
}

// at returns the entries to be tried for a port.
func (p *portIndex) at(port uint16) []int32 {
	if page := p[port>>8]; page != nil {
		return page[port&0xff]
	}
	return nil
}

// portsOf returns the ports of one side outside of which an expression is certainly
// false, and how many they are: of the side where they are the fewer.
func portsOf(x ssfilter.Expr) (side ssfilter.Side, ranges []ssfilter.PortRange, fewest int, ok bool) {
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
	return side, ranges, fewest, ok
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
