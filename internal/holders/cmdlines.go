package holders

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

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

// cmdlines are the patterns that command lines are compared with.
type cmdlines struct {
	patterns []string
	asked    string
	compiled []*regexp.Regexp
}

// meets says which of the patterns a command line meets.
func (c *cmdlines) meets(line string) string {
	var met []string
	for i, pattern := range c.compiled {
		if pattern.MatchString(line) {
			met = append(met, c.patterns[i])
		}
	}
	return sock.Patterns(met)
}

// lineReader reads command lines. To read that of a process waits for its memory map, and so for
// whatever that process does with it: for good, where it waits for a disk that is gone. Who takes
// too long is left behind, and its command line is not known until the kernel has answered at last.
type lineReader struct {
	mu   sync.Mutex
	hung map[int]bool // by PID: those left behind
}

const (
	// lineTimeout is how long the reading of one command line may take.
	lineTimeout = 2 * time.Second
	// mostHungLines is beyond how many that were left behind no command line is read: each
	// keeps a thread.
	mostHungLines = 8
)

// read reads the command line of the process whose directory is at path: its arguments, with spaces
// between them.
func (l *lineReader) read(dir int, path string, pid int) (line string, known bool) {
	if !l.mayRead(pid) {
		return "", false
	}
	fd, err := unix.Openat(dir, path+"/cmdline", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := readLine(fd)
		unix.Close(fd)
		done <- result{line, err}
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.hung, pid)
	}()
	late := time.NewTimer(lineTimeout)
	defer late.Stop()
	select {
	case r := <-done:
		return r.line, r.err == nil
	case <-late.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case r := <-done: // just now, and it is not noted any more
		return r.line, r.err == nil
	default:
		if l.hung == nil {
			l.hung = make(map[int]bool)
		}
		l.hung[pid] = true
		return "", false
	}
}

// mayRead reports whether nobody waits for that process already, nor too many for others.
func (l *lineReader) mayRead(pid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.hung[pid] && len(l.hung) < mostHungLines
}

// Hung says of which processes the command line cannot be read, for they hang in the kernel; empty:
// there are none.
func (f *Finder) Hung() string {
	l := &f.owners.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	switch pids := slices.Sorted(maps.Keys(l.hung)); len(pids) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("process %d hangs when its command line is read, as on a stuck mount: whether it is meant cannot be known", pids[0])
	default:
		return fmt.Sprintf("%d processes hang when their command lines are read, as on a stuck mount, the first is %d: whether they are meant cannot be known", len(pids), pids[0])
	}
}

// maxCmdline bounds the command lines that are compared. Of a longer one nothing is known.
const maxCmdline = 64 << 10

var errLongLine = errors.New("the command line is too long to be compared")

// readLine reads a command line.
func readLine(fd int) (string, error) {
	line := make([]byte, 0, 4096)
	for {
		if len(line) == cap(line) {
			if len(line) >= maxCmdline {
				return "", errLongLine
			}
			line = append(make([]byte, 0, 4*cap(line)), line...)
		}
		n, err := unix.Read(fd, line[len(line):cap(line)])
		if err != nil {
			return "", err
		}
		if n == 0 {
			return strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " "), nil
		}
		line = line[:len(line)+n]
	}
}
