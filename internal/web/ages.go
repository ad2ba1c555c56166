package web

import (
	"bufio"
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// AgesPath is where a daemon serves what it has observed of the ages of sockets.
const AgesPath = "/api/v1/ages"

// AgesHead is what an answer begins with. Behind it stand the sockets.
type AgesHead struct {
	Version string `json:"version"`
	sock.Origin
	ClockNS sock.Instant `json:"clock_ns"` // of the answer
	LeftOut int          `json:"left_out"` // sockets that are known and not in the answer
}

// Ages serves what the daemon has observed of the ages of sockets. That is collected
// when a reader asks, and kept for as long as the daemon says.
type Ages struct {
	head  AgesHead
	now   func() sock.Instant
	seats chan struct{}

	mu     sync.Mutex
	demand demand
	last   *ages // nil: there is none that lasts
}

// ages is what is served for a while.
type ages struct {
	memories []sock.Memory
	left     int
	served   int
}

// An answer costs some milliseconds and, until it is sent, some megabytes where there
// are tens of thousands of sockets: both are bounded for all readers.
const (
	mostServed = 8 // answers from one collection
	mostSeats  = 3 // answers under way
)

// NewAges makes an Ages with nothing to serve.
func NewAges(version string, origin sock.Origin, now func() sock.Instant) *Ages {
	return &Ages{
		head: AgesHead{Version: version, Origin: origin}, now: now,
		demand: newDemand(), seats: make(chan struct{}, mostSeats),
	}
}

// Show stores what is known, which must not change after. It does not wait.
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
	a.demand.fulfil()
}

// Asked is ready when a reader asks and nothing lasts that was shown.
func (a *Ages) Asked() <-chan struct{} { return a.demand.asked }

// take returns what to serve a reader, or why there is nothing.
func (a *Ages) take() (*ages, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		a.demand.wait(&a.mu)
	}
	switch {
	case a.last == nil:
		return nil, "the watch loop did not answer in time"
	case a.last.served >= mostServed:
		return nil, "too many requests; try again in a second"
	}
	a.last.served++
	return a.last, ""
}

// ServeHTTP serves what is known.
func (a *Ages) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	busy := func(why string) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, why, http.StatusServiceUnavailable)
	}
	select {
	case a.seats <- struct{}{}:
		defer func() { <-a.seats }()
	default:
		busy("too many requests; try again in a second")
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

// age is a socket in an answer.
type age struct {
	Netns    string       `json:"netns,omitempty"` // empty: that of the answer
	Cookie   uint64       `json:"cookie"`
	ID       uint64       `json:"id,string"` // a reader with floating-point numbers would round it
	State    string       `json:"state"`
	Entered  sock.Instant `json:"entered_ns"`
	Quiet    sock.Instant `json:"quiet_ns"`
	Queued   sock.Instant `json:"queued_ns"`
	Acked    uint64       `json:"bytes_acked"`
	Received uint64       `json:"bytes_received"`
	SegsIn   uint32       `json:"segs_in"`
	Backlog  bool         `json:"in_backlog,omitempty"`
	Accepted bool         `json:"accepted,omitempty"`
	Exact    bool         `json:"exact,omitempty"` // it entered its state at that very instant
}

// writeAges writes one object, and holds little of it in memory.
func writeAges(out io.Writer, head *AgesHead, memories []sock.Memory) error {
	text, err := json.Marshal(head)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 32<<10)
	w.Write(text[:len(text)-1])
	w.WriteString(`,"sockets":[`)
	sockets := json.NewEncoder(w)
	for i := range memories {
		if i > 0 {
			w.WriteByte(',')
		}
		m := &memories[i]
		netns := netnsText(m.Netns)
		if netns == head.Netns {
			netns = ""
		}
		err := sockets.Encode(&age{
			netns, m.Cookie, m.ID, m.State.String(), m.Entered, m.Quiet, m.Queued, m.Acked, m.Received, m.SegsIn, m.Backlog, m.Accepted, m.Exact,
		})
		if err != nil {
			return err
		}
	}
	w.WriteString("\n]}\n")
	return w.Flush()
}

func netnsText(inode uint32) string {
	if inode == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(inode), 10)
}

// ReadAges reads an answer. It leaves out a socket whose instants are missing or
// before the boot, or whose state is unknown: another version may have written it.
func ReadAges(text []byte) (AgesHead, []sock.Memory, error) {
	var answer struct {
		AgesHead
		Sockets []age `json:"sockets"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return AgesHead{}, nil, err
	}
	memories := make([]sock.Memory, 0, len(answer.Sockets))
	for i := range answer.Sockets {
		s := &answer.Sockets[i]
		states, err := ssfilter.ParseState(s.State)
		if err != nil || len(states.States()) != 1 || s.Cookie == 0 || s.Entered <= 0 || s.Quiet <= 0 || s.Queued < 0 {
			continue
		}
		netns, _ := strconv.ParseUint(cmp.Or(s.Netns, answer.Netns), 10, 32) // 0: not known
		memories = append(memories, sock.Memory{
			Key: sock.Key{Netns: uint32(netns), Cookie: s.Cookie}, ID: s.ID, State: states.States()[0],
			Entered: s.Entered, Quiet: s.Quiet, Queued: s.Queued, Acked: s.Acked, Received: s.Received, SegsIn: s.SegsIn,
			Backlog: s.Backlog, Accepted: s.Accepted, Exact: s.Exact,
		})
	}
	return answer.AgesHead, memories, nil
}
