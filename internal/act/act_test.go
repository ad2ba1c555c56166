package act

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
)

// kernel answers each destroy, and writes down what it was told.
type kernel struct {
	diary  *[]string
	answer func(ids []sock.ID) ([]error, error)
}

func (k kernel) Destroy(ids []sock.ID, outcomes []error) ([]error, error) {
	*k.diary = append(*k.diary, fmt.Sprintf("destroy %d from %d on", len(ids), ids[0].Cookie))
	answers, err := k.answer(ids)
	return append(outcomes[:0], answers...), err
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
		all[i].Socket.ID.Cookie = uint64(i + 1)
	}
	return all
}

func TestOutcomes(t *testing.T) {
	broken := errors.New("the connection to the kernel broke")
	tests := []struct {
		name    string
		answers []error
		err     error
		want    []engine.Outcome // beside Act and At
	}{
		{"done", []error{nil, nil}, nil, []engine.Outcome{{}, {}}},
		{"already gone", []error{nil, sock.ErrGone}, nil, []engine.Outcome{{}, {Err: sock.ErrGone, Gone: true}}},
		{"no capability", []error{unix.EPERM, nil}, nil, []engine.Outcome{{Err: unix.EPERM, Never: true, Denied: true}, {}}},
		{"a kernel that cannot", []error{unix.EOPNOTSUPP}, nil, []engine.Outcome{{Err: unix.EOPNOTSUPP, Never: true}}},
		{"a passing failure", []error{unix.ENOMEM}, nil, []engine.Outcome{{Err: unix.ENOMEM}}},
		{"an answer lost", []error{nil, sock.ErrUnconfirmed}, broken, []engine.Outcome{{}, {Err: sock.ErrUnconfirmed, Unsure: true}}},
		{"told, and then cut off", []error{nil}, broken, []engine.Outcome{{}, {Err: broken, Unsure: true}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			const now = sock.Instant(42)
			var diary []string
			k := New(kernel{&diary, func([]sock.ID) ([]error, error) { return test.answers, test.err }},
				intents{&diary}, func() sock.Instant { return now })
			got := k.Do(actions(len(test.want)))
			for i := range test.want {
				test.want[i].At = now
				test.want[i].Act.Socket.ID.Cookie = uint64(i + 1)
				test.want[i].Act.Seq = uint64(1001 + i)
			}
			compare := cmp.Options{
				cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) }),
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

// What a crash would leave in doubt is one batch, and its record comes first.
func TestIntentsBeforeActs(t *testing.T) {
	var diary []string
	k := New(kernel{&diary, func(ids []sock.ID) ([]error, error) { return make([]error, len(ids)), nil }},
		intents{&diary}, func() sock.Instant { return 0 })
	outcomes := k.Do(actions(2*batch + 1))
	want := []string{
		fmt.Sprintf("intend %d from 1 on", batch),
		fmt.Sprintf("destroy %d from 1 on", batch),
		fmt.Sprintf("intend %d from %d on", batch, batch+1),
		fmt.Sprintf("destroy %d from %d on", batch, batch+1),
		fmt.Sprintf("intend 1 from %d on", 2*batch+1),
		fmt.Sprintf("destroy 1 from %d on", 2*batch+1),
	}
	if diff := cmp.Diff(want, diary); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i, o := range outcomes {
		if o.Act.Socket.ID.Cookie != uint64(i+1) || o.Act.Seq != uint64(1001+i) {
			t.Fatalf("outcome %d is of socket %d with Seq %d", i, o.Act.Socket.ID.Cookie, o.Act.Seq)
		}
	}
	if len(outcomes) != 2*batch+1 {
		t.Errorf("%d outcomes, want %d", len(outcomes), 2*batch+1)
	}
}
