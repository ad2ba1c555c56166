package engine

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// crowded runs an engine for a rule and n sockets, until there is nothing left to do
// for a while, and returns how many bytes of memory it takes more than before. Each
// step takes no time.
func crowded(t testing.TB, r rules.Rule, n int, of func(i int) sock.Socket) (e *Engine, bytes int) {
	before := heapInUse()
	s := set(r)
	e = New(Config{Precision: benchJiffy, Self: 1})
	now := benchStart
	inputs := []Input{RulesChanged{Program: match.Compile(&s)}}
	for len(inputs) > 0 {
		in := inputs[0]
		inputs = inputs[1:]
		p := e.Step(now, in)
		if p.Count {
			inputs = append(inputs, CountersRead{})
		}
		if p.Scan != nil {
			found := p.Scan.Begin(now)
			for i := range n {
				s := of(i)
				found.Take(&s, now)
			}
			inputs = append(inputs, ScanDone{Result: found, Sent: now})
		}
		if len(p.Resolve) > 0 {
			in := HoldersFound{Holders: make(map[uint32][]sock.Holder), Complete: true}
			for _, inode := range p.Resolve {
				in.Holders[inode] = []sock.Holder{{PID: 7, Comm: "leaky"}}
			}
			inputs = append(inputs, in)
		}
		if len(p.Read) > 0 {
			inputs = append(inputs, NewHoldersFound{})
		}
		if len(p.Lookup) > 0 {
			in := LookupDone{IDs: p.Lookup}
			for _, id := range p.Lookup {
				in.Answers = append(in.Answers, sock.Answer{ID: id, Socket: of(int(id.Cookie) - 1), Sent: now, Got: now})
			}
			inputs = append(inputs, in)
		}
		if len(inputs) == 0 && p.Wake <= now.Add(time.Millisecond) {
			now = max(now, p.Wake)
			inputs = append(inputs, nil)
		}
	}
	return e, heapInUse() - before
}

func heapInUse() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// leaked is the socket of that number: on IPv6, of which the addresses are long.
func leaked(i int, age time.Duration) sock.Socket {
	s := full(ssfilter.CloseWait)
	s.ID = sock.ID{Family: 10, DPort: [2]byte{0, 80}, Cookie: uint64(i + 1)}
	binary.BigEndian.PutUint32(s.ID.Src[:], uint32(i))
	s.Src, s.Dst = s.ID.Local(), s.ID.Peer()
	s.Inode, s.UID = uint32(i+1), 1000
	s.Info.LastDataRecv, s.Info.LastAckRecv = age, age
	return s
}

// TestBytesPerSocket: what is kept of a socket that is merely watched, or held back by
// a limit, is small, its place in tables and queues included.
func TestBytesPerSocket(t *testing.T) {
	const most, n = 160, 200_000
	if size := unsafe.Sizeof(tracked{}); size > 144 {
		t.Errorf("a tracked connection is %d bytes", size)
	}
	for _, test := range []struct {
		name string
		rule rules.Rule
		age  time.Duration
	}{
		{"watched", killing("r"), 9 * time.Second},
		{"held", killing("r", limited(0, time.Hour)), time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, bytes := crowded(t, test.rule, n, func(i int) sock.Socket { return leaked(i, test.age) })
			if e.Watched() != n {
				t.Fatalf("%d are watched, want %d", e.Watched(), n)
			}
			if held := len(e.rules[0].history.real.numbers); test.name == "held" && held != n {
				t.Fatalf("%d are held, want %d", held, n)
			}
			t.Logf("%d bytes", bytes/n)
			if bytes > most*n {
				t.Errorf("%d bytes a socket, want %d at most", bytes/n, most)
			}
			runtime.KeepAlive(e)
		})
	}
}
