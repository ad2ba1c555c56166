package match

import (
	"strings"
	"unicode/utf8"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// inNetns reports whether the socket is of one of the network namespaces. Of a namespace
// that has no name just now, all names are wrong.
func inNetns(among []rules.Netns, s *sock.Socket) ssfilter.Tri {
	holds := ssfilter.False
	for _, n := range among {
		switch {
		case n.Name == "" && s.ID.Netns == 0, n.Name != "" && s.NetnsNames == "":
			holds = max(holds, ssfilter.Unknown)
		case n.Name == "" && s.ID.Netns == n.Inode, n.Name != "" && strings.Contains(s.NetnsNames, "/"+n.Name+"/"):
			return ssfilter.True
		}
	}
	return holds
}

// inCgroup reports whether the path is that of one of the cgroups, or below it.
func inCgroup(among []string, path string) ssfilter.Tri {
	if path == "" {
		return ssfilter.Unknown
	}
	for _, pattern := range among {
		if reaches(pattern, path) {
			return ssfilter.True
		}
	}
	return ssfilter.False
}

// reaches reports whether the path begins with what the pattern stands for. Both begin
// with a slash, and no wildcard stands for one.
func reaches(pattern, path string) bool {
	for pattern != "" {
		if path == "" {
			return false
		}
		var wanted, name string
		wanted, pattern = element(pattern)
		if name, path = element(path); !fits(wanted, name) {
			return false
		}
	}
	return true
}

// element parts the first element of a path from the rest, which is empty or begins with
// a slash.
func element(path string) (first, rest string) {
	path = path[1:]
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}

// fits reports whether the text is one that the pattern stands for: in it, * is any text
// and ? is one character.
func fits(pattern, text string) bool {
	again, from := "", "" // the pattern after the last *, and the text that it is tried on
	starred := false
	for {
		_, size := utf8.DecodeRuneInString(text)
		switch {
		case strings.HasPrefix(pattern, "*"):
			pattern = pattern[1:]
			again, from, starred = pattern, text, true
		case text == "" && pattern == "":
			return true
		case text != "" && strings.HasPrefix(pattern, "?"):
			pattern, text = pattern[1:], text[size:]
		case text != "" && strings.HasPrefix(pattern, text[:size]):
			pattern, text = pattern[size:], text[size:]
		case starred && from != "":
			_, size := utf8.DecodeRuneInString(from)
			from = from[size:]
			pattern, text = again, from
		default:
			return false
		}
	}
}
