package counters

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
)

// PortRange is the ports from First to Last.
type PortRange struct{ First, Last uint16 }

// Ports are the local ports of a namespace that connect(2) may choose.
type Ports struct {
	Ephemeral PortRange   // ip_local_port_range
	Free      []PortRange // of those, the ones that are not reserved
}

// parsePorts takes the texts of ip_local_port_range and of
// ip_local_reserved_ports, and returns the ports that inet_hash_connect() chooses
// from: those of the one that are not in the other.
func parsePorts(ephemeral, reserved []byte) (p Ports, ok bool) {
	ends := bytes.Fields(ephemeral)
	if len(ends) != 2 {
		return Ports{}, false
	}
	all, ok := portRange(ends[0], ends[1])
	if !ok {
		return Ports{}, false
	}
	var taken []PortRange
	for text := range bytes.SplitSeq(bytes.TrimSpace(reserved), []byte(",")) {
		if len(text) == 0 {
			continue // none is
		}
		first, last, several := bytes.Cut(text, []byte("-"))
		if !several {
			last = first
		}
		r, ok := portRange(first, last)
		if !ok {
			return Ports{}, false
		}
		taken = append(taken, r)
	}
	slices.SortFunc(taken, func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	free := []PortRange{}
	next := int(all.First) // the first port that nothing is known of yet
	for _, r := range taken {
		if end := min(int(r.First)-1, int(all.Last)); next <= end {
			free = append(free, PortRange{uint16(next), uint16(end)})
		}
		next = max(next, int(r.Last)+1)
	}
	if next <= int(all.Last) {
		free = append(free, PortRange{uint16(next), all.Last})
	}
	return Ports{all, free}, true
}

func portRange(first, last []byte) (PortRange, bool) {
	low, err := strconv.ParseUint(string(first), 10, 16)
	if err != nil {
		return PortRange{}, false
	}
	high, err := strconv.ParseUint(string(last), 10, 16)
	return PortRange{uint16(low), uint16(high)}, err == nil && low <= high
}
