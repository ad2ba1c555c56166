package action

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// kernel answers each destroy, and writes down what it was told.
type kernel struct {
	diary  *[]string
	answer func(id sock.ID) error
}

// Ask finds every socket, but those in gone and those that cannot be asked for.
func (k kernel) Lookup(ids []sock.ID, answers []sock.Answer) ([]sock.Answer, error) {
	*k.diary = append(*k.diary, fmt.Sprintf("ask for %d from %d on", len(ids), ids[0].Cookie))
	answers = answers[:0]
	for _, id := range ids {
		a := sock.Answer{ID: id, Socket: sock.Socket{ID: id}}
		switch id.Cookie {
		case ended:
			a.Gone = true
		case silent:
			a.Err = errSilent
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// Sockets to which something happened between the decision and the last question.
const (
	ended  = 1001 // it is gone
	silent = 1002 // the kernel does not answer
	awake  = 1003 // it came alive
)

var errSilent = errors.New("no answer")

func killer(k kernel, now sock.Instant) *Executor {
	return &Executor{
		Kinds:  Kinds(),
		Kernel: k, Intents: intents{k.diary}, Now: func() sock.Instant { return now }, RulesChanged: func() sock.Instant { return 0 }, Paused: func() bool { return false },
		Recheck: func(a *engine.Action, answer *sock.Answer) match.Reason {
			switch {
			case a.Socket.ID != answer.ID:
				return "another socket was asked for"
			case a.Socket.ID.Cookie == awake:
				return "it came alive"
			}
			return ""
		},
	}
}

func (k kernel) Destroy(id sock.ID) error {
	*k.diary = append(*k.diary, fmt.Sprintf("destroy %d", id.Cookie))
	return k.answer(id)
}

// intents writes down what is to be done, and numbers it.
type intents struct{ diary *[]string }

func (i intents) Intend(actions []engine.Action) {
	first := actions[0].Socket.ID.Cookie
	*i.diary = append(*i.diary, fmt.Sprintf("intend %d from %d on", len(actions), first))
	for j := range actions {
		actions[j].Seq = 1000 + actions[j].Socket.ID.Cookie
	}
}

// actions are n kills, of the sockets with cookies 1 to n.
func actions(n int) []engine.Action {
	all := make([]engine.Action, n)
	for i := range all {
		all[i].Kind, all[i].Socket.ID.Cookie = rules.Kill, uint64(i+1)
	}
	return all
}

func TestOutcomes(t *testing.T) {
	broken := errors.New("the connection to the kernel broke")
	tests := []struct {
		name    string
		answers []error
		want    []engine.Outcome // beside Act and At
	}{
		{"done", []error{nil, nil}, []engine.Outcome{{}, {}}},
		{"already gone", []error{nil, sock.ErrGone}, []engine.Outcome{{}, {Err: sock.ErrGone, Gone: true}}},
		{"no capability", []error{unix.EPERM, nil}, []engine.Outcome{{Err: unix.EPERM, Never: true, Denied: true}, {}}},
		{"a kernel that cannot", []error{unix.EOPNOTSUPP}, []engine.Outcome{{Err: unix.EOPNOTSUPP, Never: true}}},
		{"a passing failure", []error{unix.ENOMEM}, []engine.Outcome{{Err: unix.ENOMEM}}},
		{"an answer lost", []error{nil, sock.ErrUnconfirmed}, []engine.Outcome{{}, {Err: sock.ErrUnconfirmed, Unsure: true}}},
		{"told, and then cut off", []error{nil, errors.Join(sock.ErrUnconfirmed, broken)}, []engine.Outcome{{}, {Err: broken, Unsure: true}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			const now = sock.Instant(42)
			var diary []string
			k := killer(kernel{&diary, func(id sock.ID) error { return test.answers[id.Cookie-1] }}, now)
			got := k.Do(actions(len(test.want)))
			for i := range test.want {
				test.want[i].At = now
				test.want[i].Act.Socket.ID.Cookie = uint64(i + 1)
				test.want[i].Act.Seq = uint64(1001 + i)
			}
			compare := cmp.Options{
				cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) || errors.Is(b, a) }),
				cmp.Comparer(func(a, b sock.Answer) bool { return a.ID == b.ID }),
				cmp.Comparer(func(a, b engine.Action) bool {
					return a.Socket.ID == b.Socket.ID && a.Seq == b.Seq
				}),
			}
			if diff := cmp.Diff(test.want, got, compare); diff != "" {
				t.Errorf("outcomes (-want +got):\n%s", diff)
			}
		})
	}
}

// An action of a kind that is not in the table is not done, and not tried again.
func TestUnknownKind(t *testing.T) {
	var diary []string
	k := killer(kernel{&diary, nil}, 0)
	k.Kinds = nil
	if o := k.Do(actions(1))[0]; !o.Never || o.Err == nil || o.Err.Error() != "nothing here does kill" {
		t.Errorf("outcome %+v", o)
	}
}

// What a crash would leave in doubt is one record, and that comes first. The last
// question about a socket comes right before its destruction.
func TestOrder(t *testing.T) {
	var diary []string
	k := killer(kernel{&diary, func(sock.ID) error { return nil }}, 0)
	outcomes := k.Do(actions(recordBatch + 2))
	var want []string
	for _, record := range []struct{ first, n int }{{1, recordBatch}, {recordBatch + 1, 2}} {
		want = append(want, fmt.Sprintf("intend %d from %d on", record.n, record.first))
		for cookie := record.first; cookie < record.first+record.n; cookie++ {
			want = append(want, fmt.Sprintf("ask for 1 from %d on", cookie), fmt.Sprintf("destroy %d", cookie))
		}
	}
	if diff := cmp.Diff(want, diary); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i, o := range outcomes {
		if o.Act.Socket.ID.Cookie != uint64(i+1) || o.Act.Seq != uint64(1001+i) {
			t.Fatalf("outcome %d is of socket %d with Seq %d", i, o.Act.Socket.ID.Cookie, o.Act.Seq)
		}
	}
	if len(outcomes) != recordBatch+2 {
		t.Errorf("%d outcomes, want %d", len(outcomes), recordBatch+2)
	}
}

// What the last answer shows to be gone, or alive, is not destroyed, nor what
// cannot be asked for; and each outcome is that of its own action.
func TestLastAnswer(t *testing.T) {
	var diary []string
	k := killer(kernel{&diary, func(id sock.ID) error {
		if id.Cookie == 2 {
			return unix.EPERM
		}
		return nil
	}}, 42)
	all := make([]engine.Action, 0, 7)
	for _, cookie := range []uint64{ended, 1, silent, awake, 2, awake, 3} {
		all = append(all, engine.Action{Kind: rules.Kill, Socket: sock.Socket{ID: sock.ID{Cookie: cookie}}})
	}
	var got []string
	for _, o := range k.Do(all) {
		got = append(got, fmt.Sprintf("%d gone=%v err=%v changed=%q by the answer about %d", o.Act.Socket.ID.Cookie, o.Gone, o.Err, o.Changed, o.Last.ID.Cookie))
	}
	want := []string{
		`1001 gone=true err=the socket was gone already changed="" by the answer about 0`,
		`1 gone=false err=<nil> changed="" by the answer about 0`,
		`1002 gone=false err=no answer changed="" by the answer about 0`,
		`1003 gone=false err=<nil> changed="it came alive" by the answer about 1003`,
		`2 gone=false err=operation not permitted changed="" by the answer about 0`,
		`1003 gone=false err=<nil> changed="it came alive" by the answer about 1003`,
		`3 gone=false err=<nil> changed="" by the answer about 0`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	wantDiary := []string{
		"intend 7 from 1001 on", "ask for 1 from 1001 on", "ask for 1 from 1 on", "destroy 1", "ask for 1 from 1002 on",
		"ask for 1 from 1003 on", "ask for 1 from 2 on", "destroy 2", "ask for 1 from 1003 on", "ask for 1 from 3 on", "destroy 3",
	}
	if diff := cmp.Diff(wantDiary, diary); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What old rules decided is not done once new ones are in force, however long the
// record of the intent took.
func TestNewRulesComeFirst(t *testing.T) {
	var diary []string
	k := killer(kernel{&diary, func(sock.ID) error { return nil }}, 42)
	k.RulesChanged = func() sock.Instant { return 40 }
	all := actions(2)
	all[0].Decided, all[1].Decided = 39, 41
	got := k.Do(all)
	if got[0].Changed == "" || got[0].Last.ID.Cookie != 1 || got[1].Changed != "" {
		t.Errorf("outcomes %+v, want the first one only not to be done", got)
	}
	if want := "destroy 2"; diary[len(diary)-1] != want {
		t.Errorf("at the end: %s, want %s", diary[len(diary)-1], want)
	}
}

// A socket that comes alive while the process is held up between the answer and the
// act is asked for again, and left alone.
func TestHeldUpWhileDeciding(t *testing.T) {
	var diary []string
	var now sock.Instant
	k := killer(kernel{&diary, func(sock.ID) error { return nil }}, 0)
	k.Now = func() sock.Instant { return now }
	asked := 0
	k.Recheck = func(a *engine.Action, _ *sock.Answer) match.Reason {
		asked++
		switch {
		case asked == 1:
			now = now.Add(time.Second) // and meanwhile it comes alive
		case a.Socket.ID.Cookie == 1:
			return "it came alive"
		}
		return ""
	}
	got := k.Do(actions(2))
	if got[0].Changed == "" || got[1].Changed != "" {
		t.Errorf("outcomes %+v, want the first one only not to be done", got)
	}
	want := []string{"intend 2 from 1 on", "ask for 1 from 1 on", "ask for 1 from 1 on", "ask for 1 from 2 on", "destroy 2"}
	if diff := cmp.Diff(want, diary); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A process that is held up in the middle of a question asks again, and where it
// always is, it goes on with the freshest answer that can be had.
func TestWhileFresh(t *testing.T) {
	for _, test := range []struct {
		name  string
		takes []time.Duration // each question; the last, all others too
		want  int
	}{
		{"at once", []time.Duration{0}, 1},
		{"held up once", []time.Duration{time.Second, 0}, 2},
		{"always slow", []time.Duration{5 * time.Millisecond}, 4},
	} {
		var now sock.Instant
		asked := 0
		WhileFresh(func() sock.Instant { return now }, func() {
			now = now.Add(test.takes[min(asked, len(test.takes)-1)])
			asked++
		})
		if asked != test.want {
			t.Errorf("%s: asked %d times, want %d", test.name, asked, test.want)
		}
	}
}

// TestPaused: a pause that comes between two acts of a batch has the rest given back, each
// with the answer that it can be decided anew by.
func TestPaused(t *testing.T) {
	var diary []string
	paused := false
	k := killer(kernel{&diary, func(id sock.ID) error {
		paused = true
		return nil
	}}, 42)
	k.Paused = func() bool { return paused }
	got := k.Do(actions(3))
	if got[0].Changed != "" || got[1].Changed != match.Paused || got[1].Last.ID.Cookie != 2 || got[2].Changed != match.Paused {
		t.Errorf("outcomes %+v, want the first alone to be done", got)
	}
	if n := strings.Count(strings.Join(diary, "\n"), "destroy"); n != 1 {
		t.Errorf("%d were destroyed: %q", n, diary)
	}
}
