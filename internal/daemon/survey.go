package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// surveyWait is how long an alert waits for the names of who holds its sockets:
	// it is to go out within two seconds.
	surveyWait = time.Second
	// surveyEvery spaces the walks through /proc for the names of who holds new
	// sockets, surveyShare keeps them cheap.
	surveyEvery = 30 * time.Second
	surveyShare = 100
	// mostSurveyed bounds the memory of past walks.
	mostSurveyed = 10_000
	// mostHolders is how many an alert names.
	mostHolders = 3
)

// survey finds out who holds the sockets that alerts are about.
type survey struct {
	find    func(inodes map[uint32]struct{}) (holders.Found, error)
	now     func() sock.Instant
	known   map[uint32][]sock.Holder
	walking chan walked  // nil: no walk is under way
	waited  bool         // for that one in vain
	next    sock.Instant // when there may be another
	soon    sock.Instant // and when, for an alarm that is new
}

// walked is what one walk found.
type walked struct {
	asked map[uint32]struct{}
	found holders.Found
	err   error // nothing was learnt: what is not known stays so
	cost  time.Duration
}

func newSurvey(o *Options) *survey {
	return &survey{find: o.FindHolders, now: o.Now, known: make(map[uint32][]sock.Holder)}
}

// look has it found who holds what alarms are about, where that is not known and a
// walk is not too much: begun says that one of them is told for the first time. It
// waits for a moment, and not once closing is closed.
func (s *survey) scan(alarms []engine.Alert, begun bool, closing <-chan struct{}) {
	asked := make(map[uint32]struct{})
	unknown := false
	for i := range alarms {
		for _, x := range alarms[i].Examples {
			if x.Holders == nil && x.Inode != 0 {
				asked[x.Inode] = struct{}{}
				_, known := s.known[x.Inode]
				unknown = unknown || !known
			}
		}
	}
	if s.walking == nil && unknown && (s.now() >= s.next || begun && s.now() >= s.soon) {
		walking := make(chan walked, 1)
		s.walking = walking
		go func() {
			began := s.now()
			found, err := s.find(asked)
			walking <- walked{asked, found, err, s.now().Sub(began)}
		}()
	}
	if s.walking == nil || len(asked) == 0 {
		return
	}
	if s.waited {
		// Alerts come one after the other, and each would wait as long.
		select {
		case w := <-s.walking:
			s.take(w)
		default:
		}
		return
	}
	wait := time.NewTimer(surveyWait)
	defer wait.Stop()
	select {
	case w := <-s.walking:
		s.take(w)
	case <-closing:
	case <-wait.C:
		s.waited = true
	}
}

func (s *survey) take(w walked) {
	s.walking, s.waited = nil, false
	s.soon = s.now().Add(surveyShare * w.cost)
	s.next = max(s.soon, s.now().Add(surveyEvery))
	if w.err != nil {
		return
	}
	if len(s.known) > mostSurveyed {
		clear(s.known)
	}
	for inode := range w.asked {
		s.known[inode] = w.found.Holders[inode]
	}
}

// of names who holds the sockets of an alarm, the first of several that share one,
// by those that were looked for; known: it names somebody, or nobody can.
func (s *survey) of(a *engine.Alert) (text string, known bool) {
	held := make(map[sock.Holder]int)
	inodes, scanned, unknown := 0, 0, 0
	for i := range a.Examples {
		x := &a.Examples[i]
		holders, asked := x.Holders, x.Holders != nil
		if !asked && x.Inode != 0 {
			holders, asked = s.known[x.Inode]
		}
		if x.Inode != 0 {
			inodes++
		}
		switch {
		case !asked:
			continue
		case len(holders) == 0:
			unknown++
		default:
			held[holders[0]]++
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
	for _, o := range most[:min(len(most), mostHolders)] {
		words = append(words, fmt.Sprintf("%s[%d] %d", harmless(o.Comm), o.PID, held[o]))
	}
	if rest := len(most) - mostHolders; rest > 0 {
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

// harmless is a process's name without what chats take for a link, a mention or a
// line of its own: a process may give itself any.
func harmless(comm string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || strings.ContainsRune("<>&|[]()*~`@#:/", r) {
			return '?'
		}
		return r
	}, comm)
}
