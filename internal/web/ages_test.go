package web

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

var observed = []sock.Memory{
	{
		Key: sock.Key{Netns: 4026531840, Cookie: 1<<64 - 1}, ID: 1<<64 - 2, State: ssfilter.CloseWait, Entered: 1<<63 - 1, Quiet: 1<<62 + 1, Queued: 7,
		Acked: 1<<63 + 1, Received: 1<<64 - 3, SegsIn: 1<<32 - 1,
	},
	{Key: sock.Key{Netns: 4026531840, Cookie: 2}, ID: 3, State: ssfilter.Established, Entered: 4, Quiet: 5, SegsIn: 6},
	{Key: sock.Key{Netns: 4026532700, Cookie: 3}, ID: 3, State: ssfilter.LastAck, Entered: 4, Quiet: 5, SegsIn: 6, Exact: true},
}

// TestAgesAreReadAsTheyAreWritten holds both ends to one form, to the last bit.
func TestAgesAreReadAsTheyAreWritten(t *testing.T) {
	head := AgesHead{Version: "v1", Origin: sock.Origin{BootID: "b", Netns: "4026531840", NetnsCookie: 1<<64 - 1}, ClockNS: 1<<63 - 1, LeftOut: 9}
	for _, want := range [][]sock.Memory{observed, {}} {
		var text bytes.Buffer
		if err := writeAges(&text, &head, want); err != nil {
			t.Fatal(err)
		}
		gotHead, got, err := ReadAges(text.Bytes())
		if err != nil {
			t.Fatalf("%v in %s", err, text.Bytes())
		}
		if diff := cmp.Diff(head, gotHead) + cmp.Diff(want, got); diff != "" {
			t.Errorf("read (-want +got):\n%s", diff)
		}
	}
}

// An age may reach back beyond the clock's zero: the reader leaves out that socket, and
// takes in the others.
func TestAgesBeforeTheBoot(t *testing.T) {
	old := sock.Memory{Key: sock.Key{Cookie: 1}, ID: 2, State: ssfilter.CloseWait, Entered: -3, Quiet: -2, SegsIn: 4}
	var text bytes.Buffer
	if err := writeAges(&text, &AgesHead{Origin: sock.Origin{Netns: "4026531840"}}, append([]sock.Memory{old}, observed...)); err != nil {
		t.Fatal(err)
	}
	_, got, err := ReadAges(text.Bytes())
	if diff := cmp.Diff(observed, got); err != nil || diff != "" {
		t.Errorf("%v; read (-want +got):\n%s", err, diff)
	}
}

// What another version says may hold more, and what it says too little of is left
// out: an instant that is missing must not read as the boot.
func TestReadAgesOfAnotherVersion(t *testing.T) {
	const rest = `"quiet_ns":5,"queued_ns":0,"bytes_acked":1,"bytes_received":1,"segs_in":4`
	for _, test := range []struct {
		name, socket string
		known        bool
	}{
		{"as now", `{"cookie":1,"id":"2","state":"close-wait","entered_ns":3,` + rest + `}`, true},
		{"more", `{"colour":"red","cookie":1,"id":"2","state":"close-wait","entered_ns":3,` + rest + `}`, true},
		{"no cookie", `{"id":"2","state":"close-wait","entered_ns":3,` + rest + `}`, false},
		{"no instant", `{"cookie":1,"id":"2","state":"close-wait",` + rest + `}`, false},
		{"an instant before the boot", `{"cookie":1,"id":"2","state":"close-wait","entered_ns":-3,` + rest + `}`, false},
		{"an unknown state", `{"cookie":1,"id":"2","state":"asleep","entered_ns":3,` + rest + `}`, false},
		{"several states", `{"cookie":1,"id":"2","state":"all","entered_ns":3,` + rest + `}`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, got, err := ReadAges([]byte(`{"boot_id":"b","new":[],"sockets":[` + test.socket + `]}`))
			if err != nil || (len(got) == 1) != test.known {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	for _, text := range []string{"", "[]", `{"sockets":[{"cookie":-1}]}`, `{"sockets":[{"cookie":1`} {
		if _, got, err := ReadAges([]byte(text)); err == nil {
			t.Errorf("%q: no error, and %v", text, got)
		}
	}
}

// TestAges: the loop is asked once for all who ask within a while, and who asks
// waits for it no longer than somebody does who can do without.
func TestAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewAges("v1", sock.Origin{BootID: "b"}, func() sock.Instant { return 11 })
		get := func() (int, string) {
			answer := httptest.NewRecorder()
			a.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, AgesPath, nil))
			return answer.Code, answer.Body.String()
		}
		began := time.Now()
		if code, _ := get(); code != http.StatusServiceUnavailable || time.Since(began) != waitFor {
			t.Errorf("%d after %v, want 503 after %v: the loop hangs", code, time.Since(began), waitFor)
		}
		<-a.Asked()
		a.Show(observed, 3, time.Second)
		for i := range mostServed + 1 {
			code, text := get()
			if want := i < mostServed; (code == http.StatusOK) != want || want && !strings.HasPrefix(text, `{"version":"v1","boot_id":"b","netns":"","clock_ns":11,"left_out":3,"sockets":[`) {
				t.Errorf("answer %d: %d %s", i, code, text)
			}
		}
		select {
		case <-a.Asked():
			t.Error("the loop is asked for what lasts")
		default:
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if a.last != nil {
			t.Error("what nobody asks for is kept")
		}
		go func() {
			<-a.Asked()
			a.Show(nil, 0, time.Second)
		}()
		if code, text := get(); code != http.StatusOK || !strings.Contains(text, `"sockets":[`+"\n]}") {
			t.Errorf("%d %s", code, text)
		}
	})
}

// Who reads slowly holds what is told in memory: so few may.
func TestAgesSeats(t *testing.T) {
	a := NewAges("v1", sock.Origin{}, func() sock.Instant { return 11 })
	a.Show(observed, 0, time.Hour)
	release := make(chan struct{})
	slow := make(chan struct{})
	for range mostSeats {
		go func() {
			a.ServeHTTP(&slowReader{httptest.NewRecorder(), slow, release}, httptest.NewRequest(http.MethodGet, AgesPath, nil))
			slow <- struct{}{}
		}()
		<-slow
	}
	answer := httptest.NewRecorder()
	a.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, AgesPath, nil))
	if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") == "" {
		t.Errorf("%d, Retry-After %q", answer.Code, answer.Header().Get("Retry-After"))
	}
	close(release)
	for range mostSeats {
		<-slow
	}
	answer = httptest.NewRecorder()
	a.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, AgesPath, nil))
	if answer.Code != http.StatusOK {
		t.Errorf("%d after the seats are free", answer.Code)
	}
}

type slowReader struct {
	http.ResponseWriter
	reads   chan<- struct{}
	release <-chan struct{}
}

func (s *slowReader) Write(b []byte) (int, error) {
	s.reads <- struct{}{}
	<-s.release
	return s.ResponseWriter.Write(b)
}

// An answer that breaks off is none: the connection is cut.
func TestAgesBrokenOff(t *testing.T) {
	a := NewAges("v1", sock.Origin{}, func() sock.Instant { return 11 })
	a.Show(observed, 0, time.Hour)
	defer func() {
		if got := recover(); got != http.ErrAbortHandler {
			t.Errorf("recovered %v, want http.ErrAbortHandler", got)
		}
	}()
	a.ServeHTTP(brokenWriter{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, AgesPath, nil))
}

type brokenWriter struct{ http.ResponseWriter }

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func BenchmarkWriteAges(b *testing.B) {
	many := make([]sock.Memory, 1<<14)
	for i := range many {
		many[i] = observed[0]
	}
	for b.Loop() {
		if err := writeAges(io.Discard, &AgesHead{}, many); err != nil {
			b.Fatal(err)
		}
	}
}
