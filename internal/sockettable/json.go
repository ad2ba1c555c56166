package sockettable

import (
	"time"

	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// Object is a socket in -o json of every command, under the names that the log uses.
type Object struct {
	Netns      string   `json:"netns"`                // its inode
	NetnsName  string   `json:"netns_name,omitempty"` // that ip-netns(8) has for it
	Src        string   `json:"src"`
	Dst        string   `json:"dst"`
	State      string   `json:"state"`
	InStateFor *float64 `json:"in_state_for,omitempty"` // absent: only observation could tell
	IdleFor    *float64 `json:"idle_for,omitempty"`
	SilentFor  *float64 `json:"silent_for,omitempty"`
	Bound      bool     `json:"bound"` // the ages are lower bounds
	Cookie     uint64   `json:"cookie"`
	Inode      uint32   `json:"inode"`
	UID        *uint32  `json:"uid,omitempty"` // of a socket that has an inode
	PID        int      `json:"pid,omitempty"` // the first that holds it
	Comm       string   `json:"comm,omitempty"`
	Holders    []Holder `json:"holders,omitempty"` // all that hold it, where there are several
	Unit       string   `json:"unit,omitempty"`    // where that process belongs
	Container  string   `json:"container,omitempty"`
	Pod        string   `json:"pod,omitempty"`
}

// Holder is one of several processes that hold a socket.
type Holder struct {
	PID  int    `json:"pid"`
	Comm string `json:"comm"`
}

// HoldersOf are all of several processes that hold a socket; nil: there are not several.
func HoldersOf(holders []sock.Holder) (all []Holder) {
	if len(holders) < 2 {
		return nil
	}
	for _, h := range holders {
		all = append(all, Holder{h.PID, h.Comm})
	}
	return all
}

// ObjectOf is a socket that is so old and so held.
func ObjectOf(s *sock.Socket, age track.Age, holders []sock.Holder) Object {
	o := Object{
		Netns: Netns(s.ID.Netns), NetnsName: s.NetnsName(), Src: s.Zoned(s.Src).String(), Dst: s.Zoned(s.Dst).String(), State: s.State.String(),
		Bound: !age.Exact, Cookie: s.ID.Cookie, Inode: s.Inode,
	}
	if age.Known {
		o.InStateFor, o.IdleFor, o.SilentFor = new(Seconds(age.InState)), new(Seconds(age.Idle)), new(Seconds(age.Silent))
	}
	if s.Inode != 0 {
		o.UID = new(s.UID) // else the kernel reports 0 for want of a better
	}
	if len(holders) > 0 {
		first := &holders[0]
		o.PID, o.Comm, o.Holders = first.PID, first.Comm, HoldersOf(holders)
		o.Unit, o.Container, o.Pod = first.Owner.UnitName(), first.Owner.ContainerName(), first.Owner.PodName()
	}
	return o
}

// listed is a socket in sockdog list -o json.
type listed struct {
	Object
	RQueue  uint32        `json:"rqueue"`
	WQueue  uint32        `json:"wqueue"`
	Verdict rules.Verdict `json:"verdict,omitempty"`
	MPTCP   bool          `json:"mptcp,omitempty"`   // a connection of Multipath TCP, or
	Subflow bool          `json:"subflow,omitempty"` // a subflow of one
	Dev     string        `json:"dev,omitempty"`
	Mark    *uint32       `json:"mark,omitempty"` // absent: not known
	Cgroup  string        `json:"cgroup,omitempty"`
}

func (t *Table) listed(r *row) listed {
	l := listed{
		Object: ObjectOf(&r.Socket, r.Age, t.Holders[r.Inode]), RQueue: r.RQueue, WQueue: r.WQueue,
		Verdict: r.verdict(), MPTCP: r.MPTCP, Subflow: r.subflow(), Dev: r.device(), Cgroup: r.Cgroup,
	}
	if r.HasMark {
		l.Mark = &r.Mark
	}
	return l
}

// Seconds is a duration as the log has it: never more than it was, to the
// millisecond.
func Seconds(d time.Duration) float64 {
	return float64(d.Truncate(time.Millisecond)) / float64(time.Second)
}
