// Package counters reads what a network namespace counts of its TCP sockets:
// for microseconds it tells that a dump could find nothing new. It knows no
// single socket.
package counters

import (
	"bytes"
	"strconv"

	"github.com/sockdog/sockdog/internal/sock"
)

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
func parse(sockstat, snmp []byte) (c sock.Counters) {
	c.TimeWait, c.HasTimeWait = pair(sockstat, "TCP:", "tw")
	c.InSegs, c.HasInSegs = column(snmp, "Tcp:", "InSegs")
	return c
}

// pair finds the number after key in the line that label begins, as
// sockstat_seq_show writes it: "TCP: inuse 5 orphan 0 tw 2 ...".
func pair(text []byte, label, key string) (uint64, bool) {
	line, _ := labelled(text, label)
	for len(line) > 0 {
		var name []byte
		if name, line = word(line); string(name) == key {
			digits, _ := word(line)
			return number(digits)
		}
	}
	return 0, false
}

// column finds the number under the heading key in the two lines that label
// begins, as snmp_seq_show writes them. Headings were added over the years, so
// the place of a column says nothing.
func column(text []byte, label, key string) (uint64, bool) {
	headings, text := labelled(text, label)
	values, _ := labelled(text, label)
	for len(headings) > 0 {
		var heading, digits []byte
		heading, headings = word(headings)
		digits, values = word(values)
		if string(heading) == key {
			return number(digits)
		}
	}
	return 0, false
}

// labelled finds the rest of the line that label begins, and what follows the line.
func labelled(text []byte, label string) (line, after []byte) {
	for len(text) > 0 {
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if rest, ok := bytes.CutPrefix(line, []byte(label)); ok {
			return rest, text
		}
	}
	return nil, nil
}

// word takes the first word off a line.
func word(line []byte) (first, rest []byte) {
	first, rest, _ = bytes.Cut(bytes.TrimLeft(line, " "), []byte(" "))
	return first, rest
}

// number reads digits; what is none is 0, and not known.
func number(digits []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return 0, false
	}
	return n, true
}
