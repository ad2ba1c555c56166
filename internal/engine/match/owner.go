package match

import (
	"strings"
	"unicode/utf8"

	"github.com/sockdog/sockdog/internal/engine/subject"
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

// whoever takes the holders of a socket for those that are named, others for any that are
// not.
func whoever([]string, *subject.Holders) ssfilter.Tri { return ssfilter.True }
func others([]string, *subject.Holders) ssfilter.Tri  { return ssfilter.False }

// heldByOnly reports whether a socket is held by processes of these names alone.
func heldByOnly(names []string, by *subject.Holders) ssfilter.Tri {
	holds := ssfilter.True
	if !allKnown(by) {
		holds = ssfilter.Unknown
	}
	for i := range processes(by) {
		holds = min(holds, called(names, &by.Processes[i]))
	}
	return holds
}

// heldByAny reports whether a process of these names is among those that hold a socket.
func heldByAny(names []string, by *subject.Holders) ssfilter.Tri {
	holds := ssfilter.False
	if !allKnown(by) {
		holds = ssfilter.Unknown
	}
	for i := range processes(by) {
		holds = max(holds, called(names, &by.Processes[i]))
	}
	return holds
}

// allKnown reports whether it is known who holds a socket. Where not every process could be
// read, another may hold it; and nobody holds what waits in an accept queue, what its
// program has closed, and a minisocket.
func allKnown(by *subject.Holders) bool {
	return by != nil && by.Complete && len(by.Processes) > 0
}

func processes(by *subject.Holders) []sock.Holder {
	if by == nil {
		return nil
	}
	return by.Processes
}

// maxComm is how long a process's name can be: the kernel cuts what is longer
// (TASK_COMM_LEN).
const maxComm = 15

// called reports whether a process, or the file that it executes, has one of the names.
func called(names []string, p *sock.Holder) ssfilter.Tri {
	holds := ssfilter.False
	if p.Comm == "" || p.Exe == "" {
		holds = ssfilter.Unknown
	}
	for _, name := range names {
		switch {
		case p.Comm != "" && fits(name, p.Comm), p.Exe != "" && fits(name, p.Exe):
			return ssfilter.True
		case len(p.Comm) >= maxComm && p.Exe != p.Comm && fitsLonger(name, p.Comm):
			holds = ssfilter.Unknown
		}
	}
	return holds
}

// fitsLonger reports whether the pattern stands for a text that is longer and begins with
// this one.
func fitsLonger(pattern, text string) bool {
	begin, _, starred := strings.Cut(pattern, "*")
	for text != "" && begin != "" {
		_, size := utf8.DecodeRuneInString(text)
		switch {
		case begin[0] == '?':
			begin, text = begin[1:], text[size:]
		case strings.HasPrefix(begin, text[:size]):
			begin, text = begin[size:], text[size:]
		default:
			return false
		}
	}
	return starred || begin != ""
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
