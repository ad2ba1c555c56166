package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/status"
)

// sampleUsage reads how much CPU the holders of sockets use. What it waits for, no
// kill waits for.
func (d *watch) sampleUsage(processes []spin.Process) {
	in := engine.Sampled{Usages: make([]spin.Usage, 0, len(processes))}
	for _, p := range processes {
		u, err := d.ReadUsage(p.PID)
		gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || err == nil && u.Start != p.Start
		if err == nil || gone {
			in.Usages = append(in.Usages, spin.Usage{Process: p, At: d.Now(), CPU: u.CPU, Lived: u.Lived, Waited: u.Waited, Runs: u.Runs, Gone: gone})
		}
	}
	d.workers.send(in)
}

// mostSpins is how many programs that spin are named: one is enough to begin with.
const mostSpins = 3

// spinning is the problem that kills have set programs spinning.
func spinning(spins []spin.Spin, now time.Time) status.Problem {
	var lines []string
	for _, s := range spins[:min(len(spins), mostSpins)] {
		uses := fmt.Sprintf("uses %.0f%% of a core", 100*s.After)
		if waits := 100 * s.Waits; waits >= 1 {
			uses += fmt.Sprintf(", and waits for %.0f%% more,", waits)
		}
		lines = append(lines, fmt.Sprintf("%s[%d] %s since rule %s killed sockets of it, and used %.0f%% before: the rule leaves its others alone until it is quiet",
			subject.PlainName(s.Comm), s.PID, uses, s.Rule, 100*s.Before))
	}
	if more := len(spins) - mostSpins; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return status.Problem{
		Kind: "spin", Text: strings.Join(lines, "\n"), Since: now,
		Cure: "restart the program, and mend it: it waits for a killed socket, and does not close what poll(2) or epoll(7) reports as broken",
	}
}
