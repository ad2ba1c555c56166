package counters

import (
	"bytes"

	"github.com/sockdog/sockdog/internal/sock"
)

// Pressure reads what is short that all sockets of the namespace share, or all of the host.
// The limits of the host stand in the namespace alone that it began with: in others, orphans
// and memory are not known.
func (r *Reader) Pressure() (p sock.Pressure, err error) {
	text, err := r.netstat.read()
	if err != nil {
		return p, err
	}
	if n, ok := listenDrops(text); ok {
		p.ListenDrops = map[uint32]uint64{r.netns: n}
	}
	host, ok, err := r.ReadHost()
	if err != nil || !ok {
		return p, err
	}
	if text, err := r.maxOrphans.read(); err == nil {
		p.Orphans, p.HasOrphans = percent(host.Orphans, bytes.Fields(text), 1)
	}
	if text, err := r.memory.read(); err == nil {
		p.Memory, p.HasMemory = percent(host.BufferPages, bytes.Fields(text), 3)
	}
	return p, nil
}

// listenDrops finds how many connections listening sockets have dropped, in the text of
// netstat. Those for which an accept queue had no room are among them: what
// ListenOverflows counts, tcp_listendrop() counts as well.
func listenDrops(netstat []byte) (uint64, bool) { return column(netstat, "TcpExt:", "ListenDrops") }

// percent is how much of a limit is used: of the last of so many numbers.
func percent(n uint64, limits [][]byte, many int) (float64, bool) {
	if len(limits) != many {
		return 0, false
	}
	limit, ok := number(limits[many-1])
	if !ok || limit == 0 {
		return 0, false
	}
	return 100 * float64(n) / float64(limit), true
}
