package recording

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// appendHolders appends who holds which sockets, where that has changed, and how many
// descriptors processes use.
func (w *Writer) appendHolders(b []byte, s *Scan) []byte {
	var changed []int32
	if s.Holders != nil {
		numbers := make(map[uint32]uint32, len(s.Holders)) // of the set, by inode
		for slot := range w.entries {
			e := &w.entries[slot]
			number, known := numbers[uint32(e.row[inode])]
			if !known {
				number = w.set(s.Holders[uint32(e.row[inode])], s.Settled)
				numbers[uint32(e.row[inode])] = number
			}
			if number != e.held {
				e.held = number
				changed = append(changed, int32(slot))
			}
		}
	}
	b = append(b, bit(s.Complete, 0))
	b = binary.AppendUvarint(b, uint64(len(changed)))
	b = appendSlots(b, len(changed), func(i int) int32 { return changed[i] })
	for _, slot := range changed {
		b = binary.AppendUvarint(b, uint64(w.entries[slot].held))
	}
	b = binary.AppendUvarint(b, uint64(len(s.FDUsage)))
	for _, p := range slices.SortedFunc(maps.Keys(s.FDUsage), Process.compare) {
		b = binary.AppendUvarint(b, uint64(p.PID))
		b = binary.AppendUvarint(b, p.Start)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.FDUsage[p]))
	}
	return b
}

// set numbers the processes that hold a socket together; 0: there are none.
func (w *Writer) set(holders []sock.Holder, settled map[*sock.Owner]bool) uint32 {
	if len(holders) == 0 {
		return 0
	}
	b := binary.AppendUvarint(nil, uint64(len(holders)))
	for i := range holders {
		b = binary.AppendUvarint(b, w.processes.number(w.process(&holders[i], settled)))
	}
	return uint32(w.sets.number(string(b)))
}

func (w *Writer) process(h *sock.Holder, settled map[*sock.Owner]bool) process {
	p := process{settled: h.Owner != nil && settled[h.Owner], pid: uint64(h.PID), start: h.Start, comm: w.name(h.Comm), exe: w.name(h.Exe), owned: h.Owner != nil}
	if o := h.Owner; o != nil {
		told := func(f sock.Fact) fact { return fact{f.Known, w.name(f.Text)} }
		p.unit, p.id, p.uid = told(o.Unit), told(o.ContainerID), told(o.PodUID)
		p.container, p.named = w.name(o.Container), w.name(o.Pod)
	}
	return p
}

// name numbers a name, which may be masked.
func (w *Writer) name(s string) uint64 { return w.text(w.mask.name(s)) }

// appendNew appends the texts, processes and sets of these that are new.
func (w *Writer) appendNew(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(w.texts.fresh)))
	for _, text := range w.texts.fresh {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	b = binary.AppendUvarint(b, uint64(len(w.processes.fresh)))
	for _, p := range w.processes.fresh {
		b = append(b, bit(p.owned, 0)|bit(p.unit.known, 1)|bit(p.id.known, 2)|bit(p.uid.known, 3)|bit(p.settled, 4))
		for _, v := range [...]uint64{p.pid, p.start, p.comm, p.exe, p.unit.text, p.id.text, p.uid.text, p.container, p.named} {
			b = binary.AppendUvarint(b, v)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(w.sets.fresh)))
	for _, set := range w.sets.fresh {
		b = append(b, set...)
	}
	w.texts.fresh, w.processes.fresh, w.sets.fresh = nil, nil, nil
	return b
}

func bit(set bool, at int) byte {
	if set {
		return 1 << at
	}
	return 0
}

// The bits of what is told of a scan beside the sockets.
const (
	portsChanged = 1 << iota
	hasPressure
	hasDrops
	hasOrphans
	hasMemory
)

// appendCounters appends the ports, where they are others than before, and what is short.
func (w *Writer) appendCounters(b []byte, s *Scan) []byte {
	var told byte
	if !maps.EqualFunc(s.Ports, w.last.Ports, samePorts) {
		told |= portsChanged
	}
	p := s.Pressure
	if p != nil {
		told |= hasPressure | bit(p.ListenDrops != nil, 2) | bit(p.HasOrphans, 3) | bit(p.HasMemory, 4)
	}
	b = append(b, told)
	if told&portsChanged != 0 {
		b = binary.AppendUvarint(b, uint64(len(s.Ports)))
		for _, in := range slices.Sorted(maps.Keys(s.Ports)) {
			ports := s.Ports[in]
			b = binary.AppendUvarint(b, uint64(in))
			b = appendRange(b, ports.Ephemeral)
			b = binary.AppendUvarint(b, uint64(len(ports.Free)))
			for _, r := range ports.Free {
				b = appendRange(b, r)
			}
		}
	}
	if p == nil {
		return b
	}
	if p.ListenDrops != nil {
		b = binary.AppendUvarint(b, uint64(len(p.ListenDrops)))
		for _, in := range slices.Sorted(maps.Keys(p.ListenDrops)) {
			b = binary.AppendUvarint(b, uint64(in))
			b = binary.AppendUvarint(b, p.ListenDrops[in])
		}
	}
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(p.Orphans))
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(p.Memory))
}

func samePorts(a, b sock.Ports) bool {
	return a.Ephemeral == b.Ephemeral && slices.Equal(a.Free, b.Free)
}

func appendRange(b []byte, r ssfilter.PortRange) []byte {
	b = binary.AppendUvarint(b, uint64(r.First))
	return binary.AppendUvarint(b, uint64(r.Last))
}
