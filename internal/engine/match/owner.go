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

// whoever takes the holders of a socket for those that are meant, others for any that are
// not.
func whoever(*rules.Match, *subject.Holders) ssfilter.Tri { return ssfilter.True }
func others(*rules.Match, *subject.Holders) ssfilter.Tri  { return ssfilter.False }

// heldByOnly reports whether a socket is held by processes that the match means alone.
func heldByOnly(m *rules.Match, by *subject.Holders) ssfilter.Tri {
	holds := ssfilter.True
	if !allKnown(by) {
		holds = ssfilter.Unknown
	}
	for i := range processes(by) {
		holds = min(holds, means(m, &by.Processes[i]))
	}
	return holds
}

// heldByAny reports whether a process that the match means is among those that hold a
// socket.
func heldByAny(m *rules.Match, by *subject.Holders) ssfilter.Tri {
	holds := ssfilter.False
	if !allKnown(by) {
		holds = ssfilter.Unknown
	}
	for i := range processes(by) {
		holds = max(holds, means(m, &by.Processes[i]))
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

// means reports whether all that the match asks of who holds a socket holds for this
// process.
func means(m *rules.Match, p *sock.Holder) ssfilter.Tri {
	holds := ssfilter.True
	if len(m.Processes) > 0 {
		holds = called(m.Processes, p)
	}
	if len(m.Cmdlines)+len(m.Units)+len(m.Containers)+len(m.Pods) == 0 {
		return holds
	}
	o := p.Owner
	if o == nil {
		o = &unknownOwner
	}
	if len(m.Cmdlines) > 0 {
		holds = min(holds, startedAs(m.Cmdlines, o))
	}
	if len(m.Units) > 0 {
		holds = min(holds, has(m.Units, o.Unit, fits))
	}
	if len(m.Containers) > 0 {
		holds = min(holds, inContainer(m.Containers, o))
	}
	if len(m.Pods) > 0 {
		name := sock.Fact{Text: o.Pod, Known: o.Pod != "" || o.PodUID.Known && o.PodUID.Text == ""}
		holds = min(holds, has(m.Pods, name, isPod))
	}
	return holds
}

var unknownOwner sock.Owner

// startedAs reports whether the command line of a process meets one of the patterns.
func startedAs(patterns []string, o *sock.Owner) ssfilter.Tri {
	holds := ssfilter.False
	for _, pattern := range patterns {
		switch meets, known := o.Cmdline(pattern); {
		case meets:
			return ssfilter.True
		case !known:
			holds = ssfilter.Unknown
		}
	}
	return holds
}

// has reports whether a fact is one that a pattern stands for: what has none is not.
func has(patterns []string, fact sock.Fact, stands func(pattern, text string) bool) ssfilter.Tri {
	switch {
	case !fact.Known:
		return ssfilter.Unknown
	case fact.Text == "":
		return ssfilter.False
	}
	for _, pattern := range patterns {
		if stands(pattern, fact.Text) {
			return ssfilter.True
		}
	}
	return ssfilter.False
}

// inContainer reports whether a container is one of these, each told by the beginning of
// its id or by its name, which may be unknown where the id is not.
func inContainer(among []string, o *sock.Owner) ssfilter.Tri {
	switch {
	case !o.ContainerID.Known:
		return ssfilter.Unknown
	case o.ContainerID.Text == "":
		return ssfilter.False
	}
	holds := ssfilter.False
	for _, c := range among {
		switch id := rules.IsContainerID(c); {
		case id && strings.HasPrefix(o.ContainerID.Text, c), !id && o.Container != "" && fits(c, o.Container):
			return ssfilter.True
		case !id && o.Container == "":
			holds = ssfilter.Unknown
		}
	}
	return holds
}

// isPod reports whether the name of a pod is one that the pattern stands for; no wildcard
// stands for the slash after its namespace.
func isPod(pattern, name string) bool {
	namespaces, names, _ := strings.Cut(pattern, "/")
	namespace, name, _ := strings.Cut(name, "/")
	return fits(namespaces, namespace) && fits(names, name)
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
	same := 0 // most patterns begin with what must stand there, byte for byte
	for same < len(pattern) && same < len(text) && pattern[same] == text[same] && pattern[same] != '*' && pattern[same] != '?' {
		same++
	}
	if pattern, text = pattern[same:], text[same:]; pattern == "*" {
		return true
	}
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
