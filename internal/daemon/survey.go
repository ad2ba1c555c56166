package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/owner"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	// surveyWait is how long an alert waits for the names of who holds its sockets:
	// it is to go out within two seconds.
	surveyWait = time.Second
	// surveyEvery spaces the walks through /proc for new names, surveyShare keeps
	// them cheap.
	surveyEvery = 30 * time.Second
	surveyShare = 100
	// mostSurveyed bounds the memory of past walks.
	mostSurveyed = 10_000
	// mostHolders is how many an alert names.
	mostHolders = 3
)

// survey finds out who holds the sockets that alerts are about.
type survey struct {
	find    func(inodes map[uint32]struct{}) (owner.Found, error)
	now     func() sock.Instant
	known   map[uint32][]sock.Owner
	walking chan walked  // nil: no walk is under way
	waited  bool         // for that one in vain
	next    sock.Instant // when there may be another
}

// walked is what one walk found.
type walked struct {
	asked map[uint32]struct{}
	found owner.Found
	cost  time.Duration
}

func newSurvey(o *Options) *survey {
	return &survey{find: o.FindOwners, now: o.Now, known: make(map[uint32][]sock.Owner)}
}

// look has the holders of these inodes found, where they are not known and a walk
// is not too much. It waits for a moment.
func (s *survey) look(inodes []uint32) {
	unknown := func(inode uint32) bool { _, known := s.known[inode]; return !known }
	if s.walking == nil && slices.ContainsFunc(inodes, unknown) && s.now() >= s.next {
		asked := make(map[uint32]struct{}, len(inodes))
		for _, inode := range inodes {
			asked[inode] = struct{}{}
		}
		walking := make(chan walked, 1)
		s.walking = walking
		go func() {
			began := s.now()
			found, _ := s.find(asked) // where /proc cannot be walked, all are unknown
			walking <- walked{asked, found, s.now().Sub(began)}
		}()
	}
	if s.walking == nil || len(inodes) == 0 {
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
	case <-wait.C:
		s.waited = true
	}
}

func (s *survey) take(w walked) {
	s.walking, s.waited = nil, false
	s.next = s.now().Add(max(surveyEvery, surveyShare*w.cost))
	if len(s.known) > mostSurveyed {
		clear(s.known)
	}
	for inode := range w.asked {
		s.known[inode] = w.found.Owners[inode]
	}
}

// of names who holds the sockets of an alarm, the first of several that share one,
// by those that were looked for.
func (s *survey) of(a *engine.Alarm) string {
	held := make(map[sock.Owner]int)
	looked, unknown := 0, 0
	for _, inode := range a.Inodes {
		owners, known := s.known[inode]
		switch {
		case !known:
			continue
		case len(owners) == 0:
			unknown++
		default:
			held[owners[0]]++
		}
		looked++
	}
	if len(held) == 0 {
		if len(a.Inodes) == 0 {
			return "unknown, or nobody: what is in time-wait belongs to no process"
		}
		if looked == 0 {
			return "not known yet"
		}
		return "unknown: no process that can be seen here"
	}
	most := slices.SortedFunc(maps.Keys(held), func(a, b sock.Owner) int {
		return cmp.Or(held[b]-held[a], a.PID-b.PID)
	})
	var words []string
	for _, o := range most[:min(len(most), mostHolders)] {
		words = append(words, fmt.Sprintf("%s[%d] %d", o.Comm, o.PID, held[o]))
	}
	if rest := len(most) - mostHolders; rest > 0 {
		words = append(words, fmt.Sprintf("%d more processes", rest))
	}
	if unknown > 0 {
		words = append(words, fmt.Sprintf("unknown %d", unknown))
	}
	text := strings.Join(words, ", ")
	if looked < a.Count {
		text += fmt.Sprintf(" (of %d that were looked at)", looked)
	}
	return text
}
