package recording_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// host is a server with that many sockets, of which one in a hundred comes and goes in five
// seconds, one in ten has done something, and one in ten leaks.
type host struct {
	random  *rand.Rand
	now     sock.Instant
	sockets []sock.Socket
	stamps  []sock.Instant // of the last segment
	cookies uint64
}

func newHost(n int) *host {
	h := &host{random: rand.New(rand.NewPCG(1, 2)), now: at(0)}
	for range n {
		h.sockets = append(h.sockets, h.open())
		h.stamps = append(h.stamps, h.now.Add(-time.Duration(h.random.IntN(3600))*time.Second))
	}
	return h
}

func (h *host) open() sock.Socket {
	h.cookies++
	s := established(h.cookies)
	s.ID.Dst = [16]byte{10, 0, byte(h.random.IntN(4)), byte(h.random.IntN(250))}
	binary.BigEndian.PutUint16(s.ID.SPort[:], uint16(32768+h.random.IntN(28000)))
	s.Info.BytesAcked, s.Info.BytesReceived, s.Info.SegsIn = uint64(h.random.IntN(1e6)), uint64(h.random.IntN(1e7)), uint32(h.random.IntN(1e4))
	if h.random.IntN(10) == 0 {
		s.State, s.RQueue = ssfilter.CloseWait, 1
	}
	s.Src, s.Dst = s.ID.Local(), s.ID.Peer()
	return s
}

// pass has five seconds pass.
func (h *host) pass() {
	h.now = h.now.Add(5 * time.Second)
	for range len(h.sockets) / 100 {
		i := h.random.IntN(len(h.sockets))
		h.sockets[i], h.stamps[i] = h.open(), h.now.Add(-time.Duration(h.random.IntN(5000))*time.Millisecond)
	}
	for range len(h.sockets) / 10 {
		i := h.random.IntN(len(h.sockets))
		info := &h.sockets[i].Info
		info.SegsIn += 1 + uint32(h.random.IntN(20))
		info.BytesReceived += uint64(h.random.IntN(20000))
		info.BytesAcked += uint64(h.random.IntN(2000))
		h.stamps[i] = h.now.Add(-time.Duration(h.random.IntN(5000)) * time.Millisecond)
	}
	for i := range h.sockets {
		elapsed := h.now.Sub(h.stamps[i]).Truncate(4 * time.Millisecond)
		info := &h.sockets[i].Info
		info.LastAckRecv, info.LastDataRecv, info.LastDataSent = elapsed, elapsed, elapsed
	}
}

func (h *host) write(b *testing.B, w *recording.Writer) {
	w.Begin()
	for i := range h.sockets {
		w.Take(&h.sockets[i], h.now.Add(20*time.Millisecond))
	}
	scan := recording.Scan{Sent: h.now, Got: h.now.Add(20 * time.Millisecond), Wall: began.Add(h.now.Sub(at(0)))}
	if err := w.End(scan); err != nil {
		b.Fatal(err)
	}
}

func header() recording.Header { return recording.Header{Precision: precision, States: "all"} }

// BenchmarkWrite records scans of 10,000 sockets, and says how much a socket takes in a scan.
func BenchmarkWrite(b *testing.B) {
	h := newHost(10_000)
	w, err := recording.NewWriter(io.Discard, header(), nil)
	if err != nil {
		b.Fatal(err)
	}
	h.pass()
	h.write(b, w)
	first := w.Size()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		h.pass()
		b.StartTimer()
		h.write(b, w)
	}
	b.ReportMetric(float64(w.Size()-first)/float64(w.Scans()-1)/10_000, "B/socket-scan")
	b.ReportMetric(float64(first)/10_000, "B/first-socket")
}

// BenchmarkRead reads them, and looks at each socket in each scan.
func BenchmarkRead(b *testing.B) {
	h := newHost(10_000)
	var file bytes.Buffer
	w, err := recording.NewWriter(&file, header(), nil)
	if err != nil {
		b.Fatal(err)
	}
	for range 60 {
		h.pass()
		h.write(b, w)
	}
	sockets := 0
	for b.Loop() {
		r, err := recording.NewReader(bytes.NewReader(file.Bytes()))
		if err != nil {
			b.Fatal(err)
		}
		for {
			scan, err := r.Next()
			if err != nil {
				break
			}
			for range r.Sockets(ssfilter.AllStates, scan.Got) {
				sockets++
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(sockets), "ns/socket-scan")
}
