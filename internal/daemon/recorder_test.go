package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// disk is a journal whose writes take as long as they are told.
type disk struct {
	mu      sync.Mutex
	takes   time.Duration
	hangs   chan struct{} // a write waits until it is closed; nil: none does
	seq     uint64
	written []string
}

func (d *disk) set(hangs chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hangs = hangs
}

func (d *disk) NextSeq() uint64 {
	d.seq++ // the actor alone asks
	return d.seq
}

func (d *disk) Append(records []journal.Record) error {
	if len(records) == 0 {
		return nil // it only scans, at what the kernel has in its caches
	}
	d.mu.Lock()
	takes, hangs := d.takes, d.hangs
	d.mu.Unlock()
	time.Sleep(takes)
	if hangs != nil {
		<-hangs
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range records {
		d.written = append(d.written, fmt.Sprintf("%d %s %d", r.Cookie, r.Result, r.Seq))
	}
	return nil
}

// logged is a log, as one string a line.
type logged struct {
	mu    sync.Mutex
	since time.Time
	lines []string
	fails error
	hangs chan struct{}
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	hangs, fails := l.hangs, l.fails
	l.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
	if fails != nil {
		return fails
	}
	line := fmt.Sprintf("%v %s %s", time.Since(l.since), r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "lines" || a.Key == "records" {
			line += " " + a.String()
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

func (l *logged) set(fails error, hangs chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fails, l.hangs = fails, hangs
}

// recording is a recorder in a synctest bubble.
type recording struct {
	*testing.T
	*recorder
	disk *disk
	log  *logged
	q    *logQueue
	next uint64
}

func record(t *testing.T) *recording {
	began := time.Now()
	r := &recording{T: t, disk: &disk{}, log: &logged{since: began}}
	o := Options{Now: func() sock.Instant { return sock.Instant(time.Hour + time.Since(began)) }, State: State{Journal: r.disk}}
	r.q = newLogQueue(slog.New(r.log), o.Now)
	r.recorder = newRecorder(&o, r.q)
	return r
}

// kill records the intent of a kill, as the actor does, and then its outcome. It
// returns how long the act waited.
func (r *recording) kill() time.Duration {
	r.next++
	began := time.Now()
	actions := []engine.Action{{Rule: "r", Kind: rules.Kill, Socket: sock.Socket{ID: sock.ID{Cookie: r.next}}}}
	r.Intend(actions)
	waited := time.Since(began)
	r.outcome(actions[0])
	return waited
}

func (r *recording) outcome(a engine.Action) {
	a.Result = engine.Done
	p := engine.Plan{Report: []engine.Action{a}}
	records := recordsOf(&p, nil, 0, 0, time.Now())
	r.add(&p, records)
	r.q.add(logLines(records)...)
}

// A disk that hangs is told of after a second. After five the acts go on, in memory
// only; what they did is written when the disk is back.
func TestDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		if waited := r.kill(); waited != 0 {
			t.Errorf("an act waits %v for a disk that answers at once", waited)
		}
		hang := make(chan struct{})
		synctest.Wait()
		r.disk.set(hang)
		if waited := r.kill(); waited != engine.RecordTimeout {
			t.Errorf("an act waits %v for a disk that hangs, want %v", waited, engine.RecordTimeout)
		}
		if text := r.health.slow(); !strings.Contains(text, "has not answered for 5s") {
			t.Errorf("told of a disk that hangs: %q", text)
		}
		if waited := r.kill(); waited != 0 {
			t.Errorf("once it hangs, a further act waits %v", waited)
		}
		time.Sleep(time.Hour)
		if text := r.health.slow(); !strings.Contains(text, "has not answered for 1h0m5s") {
			t.Errorf("told of it an hour later: %q", text)
		}
		r.disk.set(nil)
		close(hang)
		synctest.Wait()
		if text := r.health.slow(); !strings.Contains(text, "within the last minute") {
			t.Errorf("told of a disk that hung until now: %q", text)
		}
		time.Sleep(slowFor)
		if text := r.health.slow(); text != "" {
			t.Errorf("told of a disk that has been fast for a minute: %q", text)
		}
		r.kill()
		r.close(recorderEnd)
		r.q.close(logEnd)
		want := []string{"1 intent 1", "1 done 1", "2 intent 2", "2 done 2", "3 done 0", "4 intent 3", "4 done 3"}
		if diff := cmp.Diff(want, r.disk.written); diff != "" {
			t.Errorf("journal (-want +got):\n%s", diff)
		}
		wantLog := []string{
			"0s INFO kill done",
			"1s WARN state directory is slow; kills wait for the record of their intent",
			"5s ERROR state directory does not answer; kills go on without a record",
			"5s INFO kill done",
			"5s INFO kill done",
			"1h0m5s WARN state directory answers again; what was done is written now",
			"1h1m5s INFO state directory answers in time again",
			"1h1m5s INFO kill done",
		}
		slices.Sort(wantLog) // what is told at the same instant has no order
		slices.Sort(r.log.lines)
		if diff := cmp.Diff(wantLog, r.log.lines); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

// A disk that takes over a second for each write is told of once.
func TestSlowDiskIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		r.disk.takes = 1500 * time.Millisecond
		for range 10 {
			if waited := r.kill(); waited < r.disk.takes || waited > 2*r.disk.takes {
				t.Errorf("an act waits %v for a write that takes %v", waited, r.disk.takes)
			}
			time.Sleep(10 * time.Second)
			if r.health.slow() == "" {
				t.Error("a slow disk is not told of")
			}
		}
		r.close(recorderEnd)
		r.q.close(logEnd)
		told := 0
		for _, l := range r.log.lines {
			if strings.Contains(l, "state directory") {
				told++
			}
		}
		if told != 1 {
			t.Errorf("told %d times, want once: %q", told, r.log.lines)
		}
		if len(r.disk.written) != 20 {
			t.Errorf("%d records, want 20", len(r.disk.written))
		}
	})
}

// What a disk that hangs keeps waiting is bounded, and what is lost is counted.
func TestRecordsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		hang := make(chan struct{})
		r.disk.set(hang)
		r.kill()
		const more = 5
		for range mostRecords + more {
			r.kill()
		}
		if n := len(r.recorder.next.records); n > mostRecords+1 {
			t.Errorf("%d records wait, want %d at most", n, mostRecords)
		}
		r.disk.set(nil)
		close(hang)
		r.close(recorderEnd)
		r.q.close(logEnd)
		if want := 2 + mostRecords; len(r.disk.written) != want-1 && len(r.disk.written) != want {
			t.Errorf("%d records were written, want %d", len(r.disk.written), want)
		}
		lost := 2 + mostRecords + more - len(r.disk.written)
		if want := fmt.Sprintf("records=%d", lost); !strings.Contains(strings.Join(r.log.lines, "\n"), want) {
			t.Errorf("the log does not say %s: %q", want, r.log.lines[len(r.log.lines)-3:])
		}
	})
}

// A log that nobody reads starves no journal and grows no memory, and what was
// lost of it is said once somebody reads on.
func TestBlockedLogStarvesNoJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		hang := make(chan struct{})
		r.log.set(nil, hang)
		const kills = 78_000
		for range kills {
			if waited := r.kill(); waited != 0 {
				t.Fatalf("an act waits %v for the log", waited)
			}
		}
		r.close(recorderEnd)
		if len(r.disk.written) != 2*kills {
			t.Errorf("%d records of %d kills are in the journal", len(r.disk.written), kills)
		}
		time.Sleep(logPatience)
		lost, stalled, err := r.q.trouble()
		if len(r.q.next) > mostLines || lost < kills-2*mostLines || err != nil || stalled < logPatience {
			t.Errorf("%d lines wait, %d are lost, error %v, stalled for %v", len(r.q.next), lost, err, stalled)
		}
		r.log.set(nil, nil)
		close(hang)
		r.q.close(logEnd)
		n := 0
		fmt.Sscanf(r.log.lines[1], "5s ERROR log lines were lost; nobody read the log lines=%d", &n)
		if n != lost || len(r.log.lines) != kills-lost+1 {
			t.Errorf("%d lines are said to be lost, want %d; %d lines are there", n, lost, len(r.log.lines))
		}
	})
}

// Where the reader of the log is gone, sockdog goes on, and logs again once there
// is a reader.
func TestLogResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		broken := errors.New("broken pipe")
		r.log.set(broken, nil)
		r.kill()
		r.kill()
		synctest.Wait()
		if lost, _, err := r.q.trouble(); lost != 2 || !errors.Is(err, broken) {
			t.Errorf("lost %d, error %v", lost, err)
		}
		r.log.set(nil, nil)
		r.kill()
		r.close(recorderEnd)
		r.q.close(logEnd)
		want := []string{"0s ERROR log lines were lost; nobody read the log lines=2", "0s INFO kill done"}
		if diff := cmp.Diff(want, r.log.lines); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		if lost, _, err := r.q.trouble(); lost != 0 || err != nil {
			t.Errorf("then lost %d, error %v", lost, err)
		}
	})
}

// What is asked for after the recorder has ended waits for nobody.
func TestIntentAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		r.close(recorderEnd)
		began := time.Now()
		r.Intend([]engine.Action{{Rule: "r", Kind: rules.Kill}})
		if waited := time.Since(began); waited != 0 {
			t.Errorf("an intent that nobody records any more waits %v", waited)
		}
		r.q.close(logEnd)
	})
}

// Stopped while the disk hangs, the daemon says what is not written.
func TestStopWhileDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		hang := make(chan struct{})
		r.disk.set(hang)
		r.kill()
		r.kill()
		r.close(recorderEnd)
		r.q.close(logEnd)
		if last := r.log.lines[len(r.log.lines)-1]; !strings.Contains(last, "stopping before the state directory has taken all records records=3") {
			t.Errorf("the last line is %q", last)
		}
		close(hang)
		synctest.Wait()
	})
}

// TestTimeOfTheAct: a record has the time of the act, however long the kernel took
// to confirm it and the disk to take it; what a limit holds back is summed up.
func TestTimeOfTheAct(t *testing.T) {
	now, at := sock.Instant(time.Hour), time.Date(2026, 3, 1, 4, 5, 6, 0, time.UTC)
	p := engine.Plan{
		Report: []engine.Action{
			{Rule: "r", Kind: rules.Kill, Result: engine.Done, At: now.Add(-3 * time.Second)},
			{Rule: "r", Kind: rules.Kill, Result: engine.Would},
			{Rule: "r", Kind: rules.Kill, Result: engine.Held},
			{Rule: "r", Kind: rules.Kill, Result: engine.Gone, Waited: true},
		},
		Held: []engine.HeldBack{{Rule: "r", Kind: rules.Kill, Began: 3, Left: 2, Waiting: 1, Limit: "1/1m", LimitOfAll: "5000/1m"}},
	}
	var got []string
	for _, r := range recordsOf(&p, nil, 4711, now, at) {
		got = append(got, fmt.Sprintf("%v %s %d %d %d %s", at.Sub(r.Time), r.Result, r.Sockets, r.LetGo, r.Waiting, r.Reason))
	}
	want := []string{"3s done 0 0 0 state-0 for 0s", "0s would 0 0 0 state-0 for 0s", "0s held 3 2 1 the limits are 1/1m of the rule and 5000/1m of all rules"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}

	log := &bytes.Buffer{}
	q := newLogQueue(slog.New(slog.NewTextHandler(log, nil)), func() sock.Instant { return now })
	q.add(logLines([]journal.Record{{Time: at, Action: "kill", Result: journal.Done}})...)
	q.close(logEnd)
	if !strings.HasPrefix(log.String(), "time=2026-03-01T04:05:06") {
		t.Errorf("the log tells another time than that of the act: %s", log)
	}
}

// TestScanBringsMany: a disk that answers takes all that one scan has to remember.
func TestScanBringsMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		store := &stored{}
		r.store = store
		p := engine.Plan{Remember: make([]sock.Memory, 3*mostMemories)}
		for i := range p.Remember {
			p.Remember[i].Cookie = uint64(i + 1)
		}
		r.add(&p, nil)
		r.recorder.close(recorderEnd)
		r.q.close(logEnd)
		if store.memories != len(p.Remember) {
			t.Errorf("%d of %d memories were written", store.memories, len(p.Remember))
		}
	})
}

// TestFullDiskIsMadeUpFor: what a full disk did not take is there soon after it
// takes something again, as of then.
func TestFullDiskIsMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		store := &stored{err: unix.ENOSPC}
		r.store = store
		remember := func(cookie uint64, quiet sock.Instant) {
			r.add(&engine.Plan{Remember: []sock.Memory{{Key: sock.Key{Cookie: cookie}, Quiet: quiet}}}, nil)
			synctest.Wait()
		}
		remember(1, 1)
		remember(2, 1)
		remember(2, 2)
		remember(3, 1)
		r.add(&engine.Plan{Forget: []sock.Key{{Cookie: 3}}}, nil)
		time.Sleep(2 * checkEvery)
		synctest.Wait()
		if len(store.last) > 0 {
			t.Errorf("a full disk took %v", store.last)
		}
		store.set(nil)
		remember(4, 1)
		time.Sleep(2 * checkEvery)
		synctest.Wait()
		if diff := cmp.Diff(map[uint64]sock.Instant{1: 1, 2: 2, 4: 1}, store.last); diff != "" {
			t.Errorf("remembered (-want +got):\n%s", diff)
		}
		r.recorder.close(recorderEnd)
		r.q.close(logEnd)
	})
}

// TestSpentOutlivesTheDisk: what acts use up of the limits is kept, also of those
// that did not wait for a disk that hung, or that was full; and it counts from when
// it was recorded, however long before that an act was decided.
func TestSpentOutlivesTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record(t)
		store := &stored{}
		r.store = store
		intend := func() {
			now := r.now()
			r.Intend([]engine.Action{{Rule: "r", Kind: rules.Kill, Decided: now.Add(-30 * time.Second), Window: time.Minute}})
		}
		intend()
		hang := make(chan struct{})
		r.disk.set(hang)
		intend() // and waits five seconds
		intend()
		close(hang)
		synctest.Wait()
		store.set(unix.ENOSPC)
		intend()
		store.set(nil)
		time.Sleep(checkEvery)
		synctest.Wait()
		r.recorder.close(recorderEnd)
		r.q.close(logEnd)
		began := sock.Instant(time.Hour)
		var want []sock.Spent
		for _, after := range []time.Duration{0, 0, engine.RecordTimeout, engine.RecordTimeout} {
			at := began.Add(after)
			want = append(want, sock.Spent{Rule: sock.RuleSum("r"), N: 1, At: at, Expires: at.Add(time.Minute)})
		}
		if diff := cmp.Diff(want, store.spent); diff != "" {
			t.Errorf("spent (-want +got):\n%s", diff)
		}
	})
}

// stored notes what a store is given.
type stored struct {
	mu       sync.Mutex
	err      error
	memories int
	last     map[uint64]sock.Instant // of each cookie
	spent    []sock.Spent
}

func (s *stored) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *stored) Put(memories []sock.Memory) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || len(memories) == 0 {
		return s.err
	}
	s.memories += len(memories)
	if s.last == nil {
		s.last = make(map[uint64]sock.Instant)
	}
	for i := range memories {
		s.last[memories[i].Cookie] = memories[i].Quiet
	}
	return nil
}

func (s *stored) Forget([]sock.Key) error { return s.err }

func (s *stored) Spend(spent []sock.Spent) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.spent = append(s.spent, spent...)
	}
	return s.err
}

func (s *stored) Keep([]sock.Group) error { return s.err }

func (s *stored) KeepStops([]sock.RuleStop) error { return s.err }
