package subject

import (
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

func containerOf(o *sock.Owner) sock.Fact {
	return sock.Fact{Text: o.ContainerName(), Known: o.ContainerID.Known}
}

func podOf(o *sock.Owner) sock.Fact {
	return sock.Fact{Text: o.PodName(), Known: o.PodUID.Known || o.Pod != ""}
}

func ownerText(value []byte) string {
	switch {
	case len(value) == 0:
		return noHolder
	case value[0] == unknown:
		return "unknown"
	}
	return plainOwner(string(value))
}

// plainOwner is the name of a unit, a container or a pod without what chats take for a link,
// a mention or a line of its own. Systemd and Kubernetes give none that has such characters;
// an @ in the middle of a word is part of a unit's name.
func plainOwner(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || strings.ContainsRune("<>&|[]()*~`#", r) {
			return '?'
		}
		return r
	}, name)
}
