package subject

import (
	"cmp"
	"strings"
	"unicode"

	"github.com/sockdog/sockdog/internal/sock"
)

// appendOf returns what appends where the first process that holds a socket belongs: to
// nothing, or nobody knows.
func appendOf(text func(o *sock.Owner) sock.Fact) func(b []byte, s Subject) []byte {
	return func(b []byte, s Subject) []byte {
		first, ok := s.Holders.First()
		if !ok {
			return b
		}
		fact := sock.Fact{}
		if first.Owner != nil {
			fact = text(first.Owner)
		}
		if !fact.Known {
			return append(b, unknown)
		}
		return append(b, fact.Text...)
	}
}

// unknown stands for what nobody knows: no name has it.
const unknown = 0

func unitOf(o *sock.Owner) sock.Fact { return o.Unit }

// shownID is how much of a container's id is shown: as much as other programs show.
const shownID = 12

// containerOf is the name of a container, or else its id, by which it is known as well.
func containerOf(o *sock.Owner) sock.Fact {
	id := o.ContainerID
	id.Text = cmp.Or(o.Container, id.Text[:min(len(id.Text), shownID)])
	return id
}

// podOf is the name of a pod with its namespace, or else its uid.
func podOf(o *sock.Owner) sock.Fact {
	if o.Pod != "" {
		return sock.Fact{Text: o.Pod, Known: true}
	}
	return o.PodUID
}

func ownerText(value []byte) string {
	switch {
	case len(value) == 0:
		return noHolder
	case value[0] == unknown:
		return "unknown"
	}
	return PlainOwner(string(value))
}

// PlainOwner is the name of a unit, a container or a pod without what chats take for a link,
// a mention or a line of its own. Systemd and Kubernetes give none that has such characters;
// an @ in the middle of a word is part of a unit's name.
func PlainOwner(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || strings.ContainsRune("<>&|[]()*~`#", r) {
			return '?'
		}
		return r
	}, name)
}
