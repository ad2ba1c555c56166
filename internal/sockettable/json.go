package sockettable

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Object is a socket in -o json of every command, under the names that the log uses.
type Object struct {
	Netns      string   `json:"netns"`
	Src        string   `json:"src"`
	Dst        string   `json:"dst"`
	State      string   `json:"state"`
	InStateFor *float64 `json:"in_state_for,omitempty"` // absent: only observation could tell
	IdleFor    *float64 `json:"idle_for,omitempty"`
	Bound      bool     `json:"bound"` // the ages are lower bounds
	Cookie     uint64   `json:"cookie"`
	Inode      uint32   `json:"inode"`
	UID        *uint32  `json:"uid,omitempty"` // of a socket that has an inode
	PID        int      `json:"pid,omitempty"` // the first that holds it
	Comm       string   `json:"comm,omitempty"`
}

// ObjectOf is a socket that is so old and so held.
func ObjectOf(s *sock.Socket, age track.Age, holders []sock.Holder, netns string) Object {
	l := labelsOf(s)
	r := rowOf(s, age, &l)
	return r.object(holders, netns)
}

func (r *row) object(holders []sock.Holder, netns string) Object {
	o := Object{
		Netns: netns, Src: r.src.String(), Dst: r.dst.String(), State: r.state.String(),
		Bound: !r.exact, Cookie: r.cookie, Inode: r.inode,
	}
	if r.known {
		o.InStateFor, o.IdleFor = new(Seconds(r.inState)), new(Seconds(r.idle))
	}
	if r.inode != 0 {
		o.UID = &r.uid // else the kernel reports 0 for want of a better
	}
	if len(holders) > 0 {
		o.PID, o.Comm = holders[0].PID, holders[0].Comm
	}
	return o
}

// listed is a socket in sockdog list -o json.
type listed struct {
	Object
	RQueue  uint32        `json:"rqueue"`
	WQueue  uint32        `json:"wqueue"`
	Verdict rules.Verdict `json:"verdict,omitempty"`
	MPTCP   bool          `json:"mptcp,omitempty"` // a subflow of such a connection
	Dev     string        `json:"dev,omitempty"`
	Mark    *uint32       `json:"mark,omitempty"` // absent: not known
	Cgroup  string        `json:"cgroup,omitempty"`
}

func (t *Table) listed(r *row, netns string) listed {
	l := listed{
		Object: r.object(t.Holders[r.inode], netns), RQueue: r.rqueue, WQueue: r.wqueue,
		Verdict: r.verdict, MPTCP: r.mptcp, Dev: r.device, Cgroup: r.cgroup,
	}
	if r.hasMark {
		l.Mark = &r.mark
	}
	return l
}

// Seconds is a duration as the log has it: never more than it was, to the
// millisecond.
func Seconds(d time.Duration) float64 {
	return float64(d.Truncate(time.Millisecond)) / float64(time.Second)
}
