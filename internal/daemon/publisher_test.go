package daemon

import (
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/alerting"
	"github.com/sockdog/sockdog/internal/engine/group"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// While nothing can be told, what fires is not piled up, for it will be said
// again; an end is said once, and kept.
func TestUpdatesAreBounded(t *testing.T) {
	p := alertPublisher{queue: queue[[]update]{arrived: sync.NewCond(new(sync.Mutex))}}
	fires, over := engine.Alert{Rule: "a"}, engine.Alert{Rule: "a", Alert: alerting.Alert{Ended: 1}}
	for range 2 * mostUpdates {
		p.publish(update{alerts: []engine.Alert{fires}})
	}
	p.publish(update{alerts: []engine.Alert{fires, over, fires}})
	p.publish(update{rules: &rules.Set{}})
	if n := len(p.next); n != mostUpdates+2 {
		t.Fatalf("%d updates wait, want %d, an end and the rules", n, mostUpdates)
	}
	if diff := cmp.Diff([]engine.Alert{over}, p.next[mostUpdates].alerts); diff != "" {
		t.Errorf("after it was full (-want +got):\n%s", diff)
	}
	if p.next[mostUpdates+1].rules == nil {
		t.Error("the rules were dropped")
	}
}

// The holders are named by what was looked up.
func TestHeldBy(t *testing.T) {
	java, nginx := sock.Holder{PID: 7, Comm: "java"}, sock.Holder{PID: 12, Comm: "nginx"}
	held := map[uint32][]sock.Holder{1: {java, nginx}, 2: {java}, 3: {nginx}, 4: {}, 5: {{PID: 1, Comm: "a"}}, 6: {{PID: 2, Comm: "b"}}, 7: {{PID: 3, Comm: "c"}}}
	for _, test := range []struct {
		inodes []uint32
		count  int
		want   string
	}{
		{[]uint32{0, 0}, 5, "no process: it has closed them, or not accepted them yet"},
		{[]uint32{1, 2, 3, 4}, 4, "java[7] 2, nginx[12] 1, unknown 1"},
		{[]uint32{1, 2}, 30, "java[7] 2 (of the 2 examined)"},
		{[]uint32{4}, 1, "unknown: no process that can be seen here"},
		{[]uint32{8}, 1, "not known yet"},
		{[]uint32{1, 2, 3, 5, 6, 7}, 6, "java[7] 2, a[1] 1, b[2] 1, 2 more processes"},
	} {
		a := about(test.inodes, test.count)
		for i := range a.Examples {
			a.Examples[i].Holders = held[a.Examples[i].Inode]
		}
		got, known := heldBy(&a)
		if got != test.want || known != (test.want != "not known yet" && !strings.HasPrefix(test.want, "unknown:")) {
			t.Errorf("%q, and known: %t, want %q", got, known, test.want)
		}
	}
	nobodys := engine.Alert{Nobodys: true}
	if got, _ := heldBy(&nobodys); got != "nobody: what is in time-wait belongs to no process" {
		t.Errorf("of timewait sockets: %q", got)
	}
	// Of no socket there is no holder to look for, nor one that is unknown.
	var none engine.Alert
	if got, known := heldBy(&none); got != "nobody: there is no socket" || !known {
		t.Errorf("%q, and known: %t", got, known)
	}
}

// about is an alarm about sockets with these inodes.
func about(inodes []uint32, count int) engine.Alert {
	a := engine.Alert{Alert: alerting.Alert{Measured: group.Measured{Count: count}}}
	for _, inode := range inodes {
		a.Examples = append(a.Examples, group.Example{Inode: inode})
	}
	return a
}

// A process may call itself what it likes, and a chat may take that for a mention,
// a link, or a line of its own.
func TestHarmless(t *testing.T) {
	for comm, want := range map[string]string{
		"kworker/0:1-ev_x": "kworker?0?1-ev_x", "<!channel>\nDone": "?!channel??Done", "<http://x|k>": "?http???x?k?", "evil.io/x": "evil.io?x", "#general": "?general",
		"[a](b)*c*~d~`e`": "?a??b??c??d??e?", "\u202egnp": "?gnp", "@here": "?here", "größe": "größe",
	} {
		if got := subject.PlainName(comm); got != want {
			t.Errorf("%q became %q, want %q", comm, got, want)
		}
	}
}
