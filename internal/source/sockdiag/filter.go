package sockdiag

import (
	"cmp"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/rules/ssfilter"
)

// bytecode is the attribute that makes the kernel evaluate an expression.
func (c *Conn) bytecode(x ssfilter.Expr) ([]byte, error) {
	program, err := ssfilter.Compile(x, numbers{c})
	if err != nil {
		return nil, err
	}
	// Not nl.RtAttr: it finds out the byte order under no lock, for every thread.
	attr := native.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(program)))
	attr = native.AppendUint16(attr, inetDiagReqBytecode)
	return append(attr, program...), nil // a program's length is a multiple of 4
}

// mostRanges is how many ranges of ports of each side are sure to fit into a
// program: each takes up to 28 of its bytes.
const mostRanges = 256

// portsOf is the part of an expression that always fits into a program, which
// every kernel takes: the ports outside of which it is false. It is nil where the
// expression may hold for any port.
func portsOf(x ssfilter.Expr) ssfilter.Expr {
	var sides []ssfilter.Expr
	for _, side := range []ssfilter.Side{ssfilter.Src, ssfilter.Dst} {
		if ranges, ok := ssfilter.PortsOf(x, side); ok {
			sides = append(sides, ssfilter.Ports(side, coarse(ranges, mostRanges)...))
		}
	}
	return ssfilter.And(sides...)
}

// coarse makes at most n ranges of ports of more, which are sorted and disjoint,
// by filling the narrowest gaps between them.
func coarse(ranges []ssfilter.PortRange, n int) []ssfilter.PortRange {
	if len(ranges) <= n {
		return ranges
	}
	gap := func(i int) int { return int(ranges[i].First) - int(ranges[i-1].Last) } // before the i-th
	kept := make([]int, 0, len(ranges)-1)
	for i := 1; i < len(ranges); i++ {
		kept = append(kept, i)
	}
	slices.SortFunc(kept, func(i, j int) int { return cmp.Compare(gap(j), gap(i)) })
	kept = kept[:n-1]
	slices.Sort(kept)
	few := make([]ssfilter.PortRange, 0, n)
	first := ranges[0].First
	for _, i := range kept {
		few = append(few, ssfilter.PortRange{First: first, Last: ranges[i-1].Last})
		first = ranges[i].First
	}
	return append(few, ssfilter.PortRange{First: first, Last: ranges[len(ranges)-1].Last})
}

// unfit reports whether the kernel cannot select by an expression.
func unfit(err error) bool { return refused(err) || errors.Is(err, ssfilter.ErrTooLarge) }

// why puts it into words.
func why(err error) string {
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return "the kernel refuses the filter: " + errno.Error()
	}
	return "the filter is too large for the kernel"
}
