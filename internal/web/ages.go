package web

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// AgesPath is where a daemon tells what it has observed of the ages of sockets.
const AgesPath = "/api/v1/ages"

// Origin is what the instants of ages mean something in: one boot of the host, and
// one network namespace in it.
type Origin struct {
	BootID      string `json:"boot_id"`
	Netns       string `json:"netns"`                  // its inode
	NetnsCookie uint64 `json:"netns_cookie,omitempty"` // SO_NETNS_COOKIE; 0: the kernel has none
}

// AgesHead is what an answer begins with. Behind it stand the sockets.
type AgesHead struct {
	Version string `json:"version"`
	Origin
	ClockNS sock.Instant `json:"clock_ns"` // of the answer
	LeftOut int          `json:"left_out"` // sockets of which more is known, beside those that are told
}

// Ages is where the daemon shows what it has observed of the ages of sockets. It is
// made when somebody asks, and kept for as long as the daemon says.
type Ages struct {
	head  AgesHead
	now   func() sock.Instant
	asked chan struct{}
	seats chan struct{}

	mu    sync.Mutex
	last  *ages         // nil: there is none that lasts
	shown chan struct{} // closed with the next; nil: nobody waits for it
}

// ages is what is told for a while.
type ages struct {
	memories []sock.Memory
	left     int
	told     int
}

// What is told costs some milliseconds and, while it is told, some megabytes where
// there are tens of thousands of sockets: both are bounded for all who ask.
const (
	mostTold  = 8 // times, of one that is shown
	mostSeats = 3 // answers under way
)

// NewAges makes an Ages with nothing to show.
func NewAges(version string, origin Origin, now func() sock.Instant) *Ages {
	return &Ages{
		head: AgesHead{Version: version, Origin: origin}, now: now,
		asked: make(chan struct{}, 1), seats: make(chan struct{}, mostSeats),
	}
}

// Show puts up what is known, which is not changed after. It does not wait.
func (a *Ages) Show(memories []sock.Memory, left int, lasts time.Duration) {
	shown := &ages{memories: memories, left: left}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = shown
	time.AfterFunc(lasts, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.last == shown {
			a.last = nil
		}
	})
	if a.shown != nil {
		close(a.shown)
		a.shown = nil
	}
}

// Asked is ready when somebody asks, and nothing lasts that was shown.
func (a *Ages) Asked() <-chan struct{} { return a.asked }

// take returns what is to be told to one who asks, or why nothing is.
func (a *Ages) take() (*ages, string) {
	if shown := a.wanted(); shown != nil {
		wait := time.NewTimer(waitFor)
		defer wait.Stop()
		select {
		case <-shown:
		case <-wait.C:
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.last == nil:
		return nil, "the watch loop did not answer in time"
	case a.last.told >= mostTold:
		return nil, "too many ask: again in a second"
	}
	a.last.told++
	return a.last, ""
}

// wanted asks for something to tell, and returns what is closed when it is there;
// nil: there is something.
func (a *Ages) wanted() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != nil {
		return nil
	}
	if a.shown == nil {
		a.shown = make(chan struct{})
	}
	select {
	case a.asked <- struct{}{}:
	default: // somebody else has asked
	}
	return a.shown
}

// ServeHTTP tells what is known.
func (a *Ages) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	busy := func(why string) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, why, http.StatusServiceUnavailable)
	}
	select {
	case a.seats <- struct{}{}:
		defer func() { <-a.seats }()
	default:
		busy("too many ask: again in a second")
		return
	}
	known, why := a.take()
	if known == nil {
		busy(why)
		return
	}
	head := a.head
	head.ClockNS, head.LeftOut = a.now(), known.left
	w.Header().Set("Content-Type", "application/json")
	if err := writeAges(w, &head, known.memories); err != nil {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
}

// writeAges writes one object, and holds but a little of it in memory.
func writeAges(out io.Writer, head *AgesHead, memories []sock.Memory) error {
	text, err := json.Marshal(head)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 32<<10)
	w.Write(text[:len(text)-1])
	w.WriteString(`,"sockets":[`)
	for i := range memories {
		if i > 0 {
			w.WriteByte(',')
		}
		w.WriteByte('\n')
		w.Write(appendAge(w.AvailableBuffer(), &memories[i]))
	}
	w.WriteString("\n]}\n")
	return w.Flush()
}

func appendAge(b []byte, m *sock.Memory) []byte {
	number := func(key string, n uint64) { b = strconv.AppendUint(append(b, key...), n, 10) }
	number(`{"cookie":`, m.Cookie)
	number(`,"id":"`, m.ID) // in a string: who reads it as a floating-point number would round it
	b = append(append(append(b, `","state":"`...), m.State.String()...), '"')
	instant := func(key string, i sock.Instant) { b = strconv.AppendInt(append(b, key...), int64(i), 10) }
	instant(`,"entered_ns":`, m.Entered)
	instant(`,"quiet_ns":`, m.Quiet)
	instant(`,"queued_ns":`, m.Queued)
	number(`,"bytes_acked":`, m.Acked)
	number(`,"bytes_received":`, m.Received)
	number(`,"segs_in":`, uint64(m.SegsIn))
	if m.Backlog {
		b = append(b, `,"in_backlog":true`...)
	}
	if m.Accepted {
		b = append(b, `,"accepted":true`...)
	}
	return append(b, '}')
}

// ReadAges reads an answer. A socket of which it does not say what belongs to it is
// left out, as is one whose state is none: another version may have written it.
func ReadAges(text []byte) (AgesHead, []sock.Memory, error) {
	var answer struct {
		AgesHead
		Sockets []struct {
			Cookie   uint64       `json:"cookie"`
			ID       uint64       `json:"id,string"`
			State    string       `json:"state"`
			Entered  sock.Instant `json:"entered_ns"`
			Quiet    sock.Instant `json:"quiet_ns"`
			Queued   sock.Instant `json:"queued_ns"`
			Acked    uint64       `json:"bytes_acked"`
			Received uint64       `json:"bytes_received"`
			SegsIn   uint32       `json:"segs_in"`
			Backlog  bool         `json:"in_backlog"`
			Accepted bool         `json:"accepted"`
		} `json:"sockets"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return AgesHead{}, nil, err
	}
	netns, _ := strconv.ParseUint(answer.Netns, 10, 32) // 0: not known
	memories := make([]sock.Memory, 0, len(answer.Sockets))
	for i := range answer.Sockets {
		s := &answer.Sockets[i]
		states, err := ssfilter.ParseState(s.State)
		if err != nil || len(states.States()) != 1 || s.Cookie == 0 || s.Entered <= 0 || s.Quiet <= 0 || s.Queued < 0 {
			continue
		}
		memories = append(memories, sock.Memory{
			Key: sock.Key{Netns: uint32(netns), Cookie: s.Cookie}, ID: s.ID, State: states.States()[0],
			Entered: s.Entered, Quiet: s.Quiet, Queued: s.Queued, Acked: s.Acked, Received: s.Received, SegsIn: s.SegsIn,
			Backlog: s.Backlog, Accepted: s.Accepted,
		})
	}
	return answer.AgesHead, memories, nil
}
