// Package counters reads what a network namespace counts of its TCP sockets:
// for microseconds it tells that a dump could find nothing new. It knows no
// single socket.
package counters

import (
	"bytes"
	"strconv"
)

// Has says which counters the kernel reported: a missing one is unknown, never
// zero.
type Has uint8

// One bit for each counter.
const (
	HasTimeWait Has = 1 << iota
	HasInSegs
)

// Counters are those of one network namespace at one instant.
type Counters struct {
	Has      Has
	TimeWait uint64 // timewait minisockets of both families: TIME_WAIT, and orphans in FIN_WAIT2
	InSegs   uint64 // TCP segments that ever arrived; it wraps, so only "the same as before" means anything
}

// Host is what the kernel counts for all network namespaces together.
type Host struct {
	Orphans     uint64 // full sockets that their programs have closed
	BufferPages uint64 // of memory, in the buffers of TCP sockets
}

// parseHost takes the text of sockstat; false: it has not both.
func parseHost(sockstat []byte) (Host, bool) {
	orphans, ok := pair(sockstat, "TCP:", "orphan")
	pages, also := pair(sockstat, "TCP:", "mem")
	return Host{orphans, pages}, ok && also
}

// parse takes the texts of sockstat and snmp.
func parse(sockstat, snmp []byte) Counters {
	var c Counters
	if n, ok := pair(sockstat, "TCP:", "tw"); ok {
		c.TimeWait, c.Has = n, c.Has|HasTimeWait
	}
	if n, ok := column(snmp, "Tcp:", "InSegs"); ok {
		c.InSegs, c.Has = n, c.Has|HasInSegs
	}
	return c
}

// pair finds the number after key in the line that label begins, as
// sockstat_seq_show writes it: "TCP: inuse 5 orphan 0 tw 2 ...".
func pair(text []byte, label, key string) (uint64, bool) {
	line, _ := labelled(text, label)
	next := false
	for field := range bytes.FieldsSeq(line) {
		if next {
			return number(field)
		}
		next = string(field) == key
	}
	return 0, false
}

// column finds the number under the heading key in the two lines that label
// begins, as snmp_seq_show writes them. Headings were added over the years, so
// the place of a column says nothing.
func column(text []byte, label, key string) (uint64, bool) {
	heads, rest := labelled(text, label)
	values, _ := labelled(rest, label)
	at, found := 0, false
	for head := range bytes.FieldsSeq(heads) {
		if found = string(head) == key; found {
			break
		}
		at++
	}
	for value := range bytes.FieldsSeq(values) {
		if at == 0 && found {
			return number(value)
		}
		at--
	}
	return 0, false
}

// labelled returns what follows label in the first line that begins with it,
// and the text after that line.
func labelled(text []byte, label string) (line, rest []byte) {
	for len(text) > 0 {
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if after, found := bytes.CutPrefix(line, []byte(label)); found {
			return after, text
		}
	}
	return nil, nil
}

func number(digits []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(digits), 10, 64)
	return n, err == nil
}
