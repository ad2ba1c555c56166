package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
)

// maxNamed is how many holders an alert names.
const maxNamed = 3

// heldBy names who holds the sockets of an alert, the first of several that share one,
// by those that were looked up; known: it names somebody, or nobody can.
func heldBy(a *engine.Alert) (text string, known bool) {
	held := make(map[sock.Holder]int)
	inodes, scanned, unknown := 0, 0, 0
	for i := range a.Examples {
		x := &a.Examples[i]
		if x.Inode != 0 {
			inodes++
		}
		switch {
		case x.Holders == nil:
			continue
		case len(x.Holders) == 0:
			unknown++
		default:
			held[x.Holders[0]]++
		}
		scanned++
	}
	if len(held) == 0 {
		switch {
		case a.Nobodys:
			return "nobody: what is in time-wait belongs to no process", true
		case a.Count == 0 && a.Peak == 0 && a.Overflow == 0:
			return "nobody: there is no socket", true
		case a.Overflow > 0 || len(a.Examples) == 0:
			return "unknown", false
		case inodes == 0:
			return "no process: it has closed them, or not accepted them yet", true
		case scanned == 0:
			return "not known yet", false
		}
		return "unknown: no process that can be seen here", false
	}
	most := slices.SortedFunc(maps.Keys(held), func(a, b sock.Holder) int {
		return cmp.Or(held[b]-held[a], a.PID-b.PID)
	})
	var words []string
	for _, o := range most[:min(len(most), maxNamed)] {
		words = append(words, fmt.Sprintf("%s[%d] %d", subject.PlainName(o.Comm), o.PID, held[o]))
	}
	if rest := len(most) - maxNamed; rest > 0 {
		words = append(words, fmt.Sprintf("%d more processes", rest))
	}
	if unknown > 0 {
		words = append(words, fmt.Sprintf("unknown %d", unknown))
	}
	text = strings.Join(words, ", ")
	if scanned < max(a.Count, a.Peak) {
		text += fmt.Sprintf(" (of the %d examined)", scanned)
	}
	return text, true
}
