package counters

import (
	"bytes"
	"strconv"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// parsePorts takes the texts of ip_local_port_range and of
// ip_local_reserved_ports, and returns the ports that inet_hash_connect() chooses
// from: those of the one that are not in the other.
func parsePorts(ephemeral, reserved []byte) (p sock.Ports, ok bool) {
	ends := bytes.Fields(ephemeral)
	if len(ends) != 2 {
		return sock.Ports{}, false
	}
	all, ok := portRange(ends[0], ends[1])
	if !ok {
		return sock.Ports{}, false
	}
	var taken []ssfilter.PortRange
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
			return sock.Ports{}, false
		}
		taken = append(taken, r)
	}
	source := ssfilter.And(ssfilter.Ports(ssfilter.Src, all), ssfilter.Not(ssfilter.Ports(ssfilter.Src, taken...)))
	free, _ := ssfilter.PortsOf(source, ssfilter.Src)
	return sock.Ports{Ephemeral: all, Free: append([]ssfilter.PortRange{}, free...)}, true
}

func portRange(first, last []byte) (ssfilter.PortRange, bool) {
	low, err := strconv.ParseUint(string(first), 10, 16)
	if err != nil {
		return ssfilter.PortRange{}, false
	}
	high, err := strconv.ParseUint(string(last), 10, 16)
	return ssfilter.PortRange{First: uint16(low), Last: uint16(high)}, err == nil && low <= high
}
