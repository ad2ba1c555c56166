package recording

import (
	"math"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// readNew takes in the texts, processes and sets of these that are new.
func (r *Reader) readNew(p *parser) {
	for range p.count(maxEntries - len(r.texts)) {
		r.texts = append(r.texts, p.text())
	}
	for range p.count(maxEntries - len(r.processes)) {
		r.processes = append(r.processes, r.readProcess(p))
	}
	for range p.count(maxEntries - len(r.sets)) {
		set := make([]sock.Holder, 0, 1)
		for range p.count(len(r.processes)) {
			at := p.number(uint64(len(r.processes) - 1))
			if at == 0 {
				p.fail()
			}
			set = append(set, r.processes[at])
		}
		if p.err != nil {
			return
		}
		r.sets = append(r.sets, set)
	}
}

func (r *Reader) readProcess(p *parser) sock.Holder {
	known := p.flags(1<<5 - 1)
	h := sock.Holder{PID: int(p.number(math.MaxInt32)), Start: p.number(math.MaxUint64), Comm: r.textOf(p), Exe: r.textOf(p)}
	told := func(at int) sock.Fact { return sock.Fact{Text: r.textOf(p), Known: known&(1<<at) != 0} }
	o := sock.Owner{Unit: told(1), ContainerID: told(2), PodUID: told(3), Container: r.textOf(p), Pod: r.textOf(p)}
	if known&1 != 0 {
		h.Owner = &o
		r.settled[h.Owner] = known&(1<<4) != 0
	}
	return h
}

// textOf takes the number of a text, and returns that.
func (r *Reader) textOf(p *parser) string { return r.texts[p.number(uint64(len(r.texts)-1))] }

// readCounters takes in the ports, and what is short. Each scan has maps of its own, which
// nobody changes.
func (r *Reader) readCounters(p *parser) {
	told := p.flags(portsChanged | hasPressure | hasDrops | hasOrphans | hasMemory)
	if told&portsChanged != 0 {
		r.scan.Ports = make(map[uint32]sock.Ports)
		for range p.count(maxEntries) {
			in := uint32(p.number(math.MaxUint32))
			ports := sock.Ports{Ephemeral: readRange(p)}
			for range p.count(math.MaxUint16) {
				ports.Free = append(ports.Free, readRange(p))
			}
			r.scan.Ports[in] = ports
		}
	}
	r.scan.Pressure = nil
	if told&hasPressure == 0 {
		return
	}
	pressure := &sock.Pressure{HasOrphans: told&hasOrphans != 0, HasMemory: told&hasMemory != 0}
	if told&hasDrops != 0 {
		pressure.ListenDrops = make(map[uint32]uint64)
		for range p.count(maxEntries) {
			in := uint32(p.number(math.MaxUint32))
			pressure.ListenDrops[in] = p.number(math.MaxUint64)
		}
	}
	pressure.Orphans, pressure.Memory = p.percent(), p.percent()
	r.scan.Pressure = pressure
}

func readRange(p *parser) ssfilter.PortRange {
	first, last := p.number(math.MaxUint16), p.number(math.MaxUint16)
	if last < first {
		p.fail()
	}
	return ssfilter.PortRange{First: uint16(first), Last: uint16(last)}
}

// readHolders takes in who holds which sockets, and how many descriptors processes use.
func (r *Reader) readHolders(p *parser) {
	r.scan.Complete, r.scan.Settled = p.flags(1) != 0, r.settled
	for _, slot := range r.readSlots(p, p.count(len(r.entries)), len(r.entries)) {
		r.entries[slot].held = uint32(p.number(uint64(len(r.sets) - 1)))
	}
	r.scan.FDUsage = make(map[Process]float64)
	for range p.count(maxEntries) {
		of := Process{PID: int(p.number(math.MaxInt32)), Start: p.number(math.MaxUint64)}
		r.scan.FDUsage[of] = p.percent()
	}
}

// HoldersOf returns who holds the socket of an inode, by the last scan; nobody is to change it.
func (r *Reader) HoldersOf(of uint32) []sock.Holder {
	if r.byInode == nil {
		r.byInode = make(map[uint32]uint32, len(r.entries))
		for i := range r.entries {
			if e := &r.entries[i]; e.held != 0 {
				r.byInode[uint32(e.row[inode])] = e.held
			}
		}
	}
	return r.sets[r.byInode[of]]
}
