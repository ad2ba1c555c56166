package holders

import (
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/owner"
	"github.com/sockdog/sockdog/internal/podnames"
	"github.com/sockdog/sockdog/internal/sock"
)

// owners reads where processes belong. Those that belong to the same have one value in
// common, from walk to walk.
type owners struct {
	names    *podnames.Names
	cmdlines atomic.Pointer[cmdlines]

	mu    sync.Mutex
	known map[sock.Owner]*sock.Owner
}

// maxOwners bounds what is known: beyond that it is made anew.
const maxOwners = 1 << 12

func newOwners(logs string) *owners {
	return &owners{names: podnames.New(logs), known: make(map[sock.Owner]*sock.Owner)}
}

// of reads where the process belongs whose directory is at path; nil: that cannot be read.
// rooted is as for owner.Parse.
func (o *owners) of(dir int, path string, rooted bool) *sock.Owner {
	var buf [4096]byte
	file, err := readFileAt(dir, path+"/cgroup", buf[:])
	if err != nil || len(file) == len(buf) { // a path may be as long as that, and its end tells most
		return nil
	}
	at := owner.Parse(string(file), rooted)
	if at.PodUID.Text != "" || at.ContainerID.Text != "" {
		at.Pod, at.Container = o.names.Of(at.PodUID.Text, at.ContainerID.Text)
	}
	if asked := o.cmdlines.Load(); asked != nil {
		at.CmdlineAsked, at.CmdlineMeets = asked.compare(dir, path)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	known := o.known[at]
	if known == nil {
		if len(o.known) == maxOwners {
			clear(o.known)
		}
		known = &at
		o.known[at] = known
	}
	return known
}

// AskCmdlines has the command lines of processes compared with these regular expressions from
// now on. Without any, none is read: to read that of a process waits for its memory map.
func (f *Finder) AskCmdlines(patterns []string) error {
	if len(patterns) == 0 {
		f.owners.cmdlines.Store(nil)
		return nil
	}
	c := &cmdlines{patterns: patterns, asked: sock.Patterns(patterns)}
	for _, pattern := range patterns {
		compiled, err := regexp.Compile(pattern)
		if err != nil {
			return err
		}
		c.compiled = append(c.compiled, compiled)
	}
	f.owners.cmdlines.Store(c)
	return nil
}

// FindAsking is Find of a new Finder, with the command lines of holders compared with the
// patterns. A pass that fails is tried once more where a walk leaves it open who holds some:
// it may have thought it needless.
func FindAsking(root string, pass Pass, wanted map[uint32]struct{}, patterns []string) (Found, error) {
	f := NewFinder(root, pass)
	if err := f.AskCmdlines(patterns); err != nil {
		return Found{}, err
	}
	found, err := f.Find(wanted)
	if err == nil && pass != nil && !found.settlesAll(wanted) {
		if exact, err := f.findByPass(wanted); err == nil {
			return exact, nil
		}
	}
	return found, err
}

// settlesAll reports whether it is known of each socket who holds it.
func (f *Found) settlesAll(wanted map[uint32]struct{}) bool {
	if f.Complete {
		return true
	}
	unsettled := func(h sock.Holder) bool { return !f.Settled[h.Owner] }
	for inode := range wanted {
		if held := f.Holders[inode]; len(held) == 0 || slices.ContainsFunc(held, unsettled) {
			return false
		}
	}
	return true
}

// cmdlines are the patterns that command lines are compared with.
type cmdlines struct {
	patterns []string
	asked    string
	compiled []*regexp.Regexp
}

// maxCmdline bounds the command lines that are compared. Of a longer one nothing is known.
const maxCmdline = 64 << 10

// compare compares the command line of the process whose directory is at path: its arguments,
// with spaces between them. Nothing is known where that cannot be read.
func (c *cmdlines) compare(dir int, path string) (asked, meets string) {
	fd, err := unix.Openat(dir, path+"/cmdline", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", ""
	}
	defer unix.Close(fd)
	line := make([]byte, 0, 4096)
	for {
		if len(line) == cap(line) {
			if len(line) >= maxCmdline {
				return "", ""
			}
			line = append(make([]byte, 0, 4*cap(line)), line...)
		}
		n, err := unix.Read(fd, line[len(line):cap(line)])
		if err != nil {
			return "", ""
		}
		if n == 0 {
			break
		}
		line = line[:len(line)+n]
	}
	text := strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")
	var met []string
	for i, pattern := range c.compiled {
		if pattern.MatchString(text) {
			met = append(met, c.patterns[i])
		}
	}
	return c.asked, sock.Patterns(met)
}
