package recording

import "github.com/sockdog/sockdog/internal/sock"

// table is the sockets as the last scan showed them: the same while a recording is written and
// while it is read.
type table struct {
	entries []entry
	slots   map[sock.Key]int32
}

// entry is a socket in the table.
type entry struct {
	row
	held uint32 // which processes hold it, by the number of their set; 0: none is known
	scan uint32 // while writing: number of the scan that showed it last
}

func newTable() table { return table{slots: make(map[sock.Key]int32)} }

// remove takes entries out, of which the last comes first. The last entry of the table comes in
// the place of each.
func (t *table) remove(slots []int32) {
	for _, slot := range slots {
		last := len(t.entries) - 1
		delete(t.slots, t.entries[slot].key())
		if int(slot) != last {
			t.entries[slot] = t.entries[last]
			t.slots[t.entries[slot].key()] = slot
		}
		t.entries = t.entries[:last]
	}
}

// process is a process that holds sockets, its texts by their numbers.
type process struct {
	pid, start       uint64
	comm, exe        uint64
	settled          bool // nobody else holds what it does, though not every process was read
	owned            bool // the rest is known
	unit, id, uid    fact
	container, named uint64 // names of the container, and of the pod
}

// fact is a sock.Fact.
type fact struct {
	known bool
	text  uint64
}
