package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// story is what the reader sees: what happens, when it happens.
type story struct {
	out   io.Writer
	began time.Time
}

func (s *story) opening() {
	fmt.Fprintf(s.out, "A program leaks connections, and sockdog heals it: all in a network namespace of its own.\n\n    %s\n\n",
		strings.ReplaceAll(strings.TrimSpace(ruleFile), "\n", "\n    "))
}

// tell says what has just happened.
func (s *story) tell(format string, args ...any) {
	fmt.Fprintf(s.out, "%5.2fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// ending says what is true in the end, and reports whether that is good.
func (s *story) ending(conns []*conn) bool {
	var all, good [3]int // by role
	var least, most time.Duration
	fmt.Fprintln(s.out, "\nIn the kernel's socket table:")
	for _, c := range conns {
		all[c.role]++
		if p := c.problem(); p != "" {
			fmt.Fprintf(s.out, "  WRONG: the connection from %v %s\n", c.at, p)
			continue
		}
		good[c.role]++
		if c.role != forgot {
			continue
		}
		late := c.gone.Sub(c.due())
		most = max(most, late)
		if good[forgot] == 1 || late < least {
			least = late
		}
	}
	fmt.Fprintf(s.out, "  %d of %d forgotten connections are gone", good[forgot], all[forgot])
	if good[forgot] > 0 {
		fmt.Fprintf(s.out, ", %v to %v after each fell due", least.Round(time.Millisecond), most.Round(time.Millisecond))
	}
	fmt.Fprintf(s.out, "\n  %d of %d in use are untouched\n", good[inUse], all[inUse])
	fmt.Fprintf(s.out, "  %d of %d in CLOSE_WAIT that still sends is untouched\n\n", good[upload], all[upload])
	if good != all {
		fmt.Fprintln(s.out, "Not healed.")
		return false
	}
	fmt.Fprintf(s.out, "Healed, in %.1fs.\n", time.Since(s.began).Seconds())
	return true
}
