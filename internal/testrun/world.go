package testrun

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sim/runner"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// start is when a test begins: late enough for every socket to be older.
const start = sock.Instant(400 * 24 * time.Hour)

// world is the simulated host of a test.
type world struct {
	*sim.Kernel
	table *runner.KernelTable
	test  *ruletest.Case
	known engine.Restored // what sockdog knows that has watched all along

	sockets  [][]*sim.Socket // by their place in the test
	place    map[uint64]int  // of a socket in the test, by its cookie
	cmdlines []string        // patterns that rules name
	pids     map[process]int
	ports    map[path]uint16 // the next free one
	pressure pressure
}

// process is what one process has one of.
type process struct {
	pid                                   int
	name, cmdline, unit, container, podID string
	fdUsage                               float64
}

// path is what the ports of its connections must differ on.
type path struct {
	src, dst netip.Addr
	port     uint16
	peers    bool // it is the peer's port that is free
}

// newWorld returns the host as it is when the test begins.
func newWorld(c *ruletest.Case, set *rules.Set) *world {
	w := &world{
		Kernel: sim.NewKernel(1, start), test: c, place: make(map[uint64]int),
		pids: make(map[process]int), ports: make(map[path]uint16), cmdlines: match.Compile(set).Cmdlines,
		sockets: make([][]*sim.Socket, len(c.Sockets)),
	}
	w.TellsMarks = true
	w.Follow(false)
	w.pressure = pressure{at: start, drops: make(map[uint32]float64)}
	w.table = &runner.KernelTable{
		Kernel: w.Kernel, Processes: map[int]sock.Holder{runner.Self: {PID: runner.Self, Start: 1, Comm: "sockdog", Exe: "sockdog", Owner: &sock.Owner{Unit: has(""), ContainerID: has(""), PodUID: has("")}}},
		FDUsage: make(map[spin.Process]float64), Pressure: w.pressure.read, Ports: make(map[uint32]sock.Ports),
	}
	w.addNetns(netnsOf(rules.Netns{}))
	for i := range c.Sockets {
		s := &c.Sockets[i]
		w.addNetns(netnsOf(s.Netns))
		for n := range s.Count {
			at := start.Add(s.At + time.Duration(n)*s.Every)
			if at == start {
				w.appear(i)
				continue
			}
			w.At(at, func() { w.appear(i) })
		}
	}
	for i := range c.Changes {
		change := &c.Changes[i]
		w.At(start.Add(change.At), func() { w.change(change) })
	}
	return w
}

// initNetns is what a network namespace is called here where the test does not name it.
const initNetns = 4026531840

// netnsOf is the number and the names of a network namespace.
func netnsOf(n rules.Netns) (inode uint32, names string) {
	switch {
	case n.Name != "":
		h := fnv.New32a()
		h.Write([]byte(n.Name))
		return initNetns + 1 + h.Sum32()%1e8, "/" + n.Name + "/"
	case n.Inode != 0:
		return n.Inode, "/"
	default:
		return initNetns, "/"
	}
}

func (w *world) addNetns(inode uint32, _ string) {
	ports := w.test.Ports
	w.table.Ports[inode] = sock.Ports{Ephemeral: ports, Free: []ssfilter.PortRange{ports}}
	w.pressure.drops[inode] = 0
}

// appear opens a socket as the test describes it.
func (w *world) appear(i int) {
	d := &w.test.Sockets[i]
	s := w.Open(d.Dport)
	w.sockets[i], w.place[s.ID.Cookie] = append(w.sockets[i], s), i
	w.name(s, d)
	w.hold(s, d)
	s.RQueue, s.MPTCP, s.Keepalive, s.Bound = d.Unread, d.MPTCP, d.Keepalive, d.Sport != 0
	if d.State == ssfilter.Listening {
		s.State, s.RQueue, s.WQueue = d.State, d.AcceptQueue, cmp.Or(d.Backlog, defaultBacklog)
		return
	}
	w.age(s, d)
	if w.Now == start {
		w.know(s)
	}
	if s.Keepalive > 0 {
		w.Probe(s)
	}
	if d.State == ssfilter.TimeWait || d.State == ssfilter.FinWait2 && d.Holder == ruletest.Nobody {
		w.TimeWait(s, d.State, sock.TimeWaitLen)
	}
}

// defaultBacklog is the limit of an accept queue for which a test names none.
const defaultBacklog = 128

// age has a socket be as it is for as long as the test says.
func (w *world) age(s *sim.Socket, d *ruletest.Socket) {
	s.State, s.Entered = d.State, w.Now.Add(-d.InState)
	s.Progress, s.Changed = w.Now.Add(-d.Idle), w.Now
	s.LastAck, s.LastData = s.Progress, min(s.Progress, w.Now.Add(-d.Silent))
	if d.State == ssfilter.CloseWait { // its peer has sent nothing since
		s.LastData = min(s.LastData, s.Entered)
	}
	switch {
	case d.Stalled > 0:
		s.Queued, s.WQueue = w.Now.Add(-d.Stalled), d.Queued
	case d.Queued > 0:
		s.Queued, s.WQueue = w.Now, d.Queued
	case finQueued.Has(d.State):
		s.Queued = s.Entered
	}
}

// finQueued are the states in which a SYN or a FIN waits to be acknowledged.
var finQueued = ssfilter.Of(ssfilter.SynSent, ssfilter.FinWait1, ssfilter.Closing, ssfilter.LastAck)

// know has sockdog know the socket as if it had watched it all along.
func (w *world) know(s *sim.Socket) {
	m := sock.Memory{
		Key: s.ID.Key(), ID: s.ID.Sum(), State: s.State, Entered: s.Entered, Quiet: max(s.Entered, s.Progress),
		Acked: s.Acked, Received: s.Received, SegsIn: s.Segs, Backlog: s.Inode == 0,
	}
	if s.Queued != sim.Never {
		m.Queued = s.Queued
	}
	w.known.Memories = append(w.known.Memories, m)
}

// name gives a socket its addresses and ports, and its network namespace.
func (w *world) name(s *sim.Socket, d *ruletest.Socket) {
	sport, dport := d.Sport, d.Dport
	switch {
	case d.State == ssfilter.Listening:
	case sport == 0:
		sport = w.port(path{d.Src, d.Dst, dport, false}, w.test.Ports.First)
	case dport == 0:
		dport = w.port(path{d.Src, d.Dst, sport, true}, ruletest.FirstPeerPort)
	}
	binary.BigEndian.PutUint16(s.ID.SPort[:], sport)
	binary.BigEndian.PutUint16(s.ID.DPort[:], dport)
	s.ID.Src, s.ID.Dst = [16]byte{}, [16]byte{}
	copy(s.ID.Src[:], d.Src.AsSlice())
	copy(s.ID.Dst[:], d.Dst.AsSlice())
	if d.Src.Is6() {
		s.ID.Family = 10 // AF_INET6
	}
	s.ID.Netns, s.NetnsNames = netnsOf(d.Netns)
	s.Cgroup = d.Cgroup
	if s.Cgroup == "" && d.Unit != "" {
		s.Cgroup = "/system.slice/" + d.Unit
	}
	s.Cgroup = cmp.Or(s.Cgroup, "/user.slice")
}

// port is a port that no other connection on the path has.
func (w *world) port(p path, first uint16) uint16 {
	next := max(w.ports[p], first)
	named := func(d ruletest.Socket) bool {
		if p.peers {
			return d.Src == p.src && d.Dst == p.dst && d.Sport == p.port && d.Dport == next
		}
		return d.Src == p.src && d.Dst == p.dst && d.Dport == p.port && d.Sport == next
	}
	for slices.ContainsFunc(w.test.Sockets, named) {
		next++
	}
	w.ports[p] = next + 1
	return next
}

// hold gives a socket to who holds it.
func (w *world) hold(s *sim.Socket, d *ruletest.Socket) {
	s.UID = d.User
	switch {
	case d.InBacklog, d.Holder == ruletest.Nobody:
		s.Inode = 0
	case d.Holder == ruletest.Kernel:
		s.ByKernel, s.UID = true, 0
	case d.Holder == ruletest.Unknown:
		w.table.Incomplete = true
	case d.Holder == ruletest.Sockdog:
		s.Held = []sim.Holding{{By: []int{runner.Self}}}
	default:
		s.Held = []sim.Holding{{By: []int{w.pid(d)}}}
	}
}

// pid is the process that holds a socket.
func (w *world) pid(d *ruletest.Socket) int {
	p := process{d.PID, cmp.Or(d.Process, defaultProcess), d.Cmdline, d.Unit, d.Container, d.Pod, d.FDUsage}
	if pid := w.pids[p]; pid != 0 {
		return pid
	}
	pid := d.PID
	if pid == 0 {
		for pid = firstPID; w.taken(pid); pid++ {
		}
	}
	w.pids[p] = pid
	comm := p.name[:min(len(p.name), maxComm)]
	w.table.Processes[pid] = sock.Holder{PID: pid, Start: uint64(pid), Comm: comm, Exe: p.name, Owner: w.owner(d)}
	w.table.FDUsage[spin.Process{PID: pid, Start: uint64(pid)}] = d.FDUsage
	return pid
}

const (
	defaultProcess = "app"
	firstPID       = 1000
	maxComm        = 15 // TASK_COMM_LEN, without the NUL
)

// taken reports whether some socket of the test names the process.
func (w *world) taken(pid int) bool {
	named := func(s ruletest.Socket) bool { return s.PID == pid }
	return w.table.Processes[pid].PID != 0 || slices.ContainsFunc(w.test.Sockets, named)
}

// owner is where a process belongs.
func (w *world) owner(d *ruletest.Socket) *sock.Owner {
	o := &sock.Owner{Unit: has(d.Unit), ContainerID: has(""), PodUID: has(""), Pod: d.Pod, CmdlineAsked: sock.Patterns(w.cmdlines)}
	id := func(text string) string {
		h := fnv.New64a()
		h.Write([]byte(text))
		return fmt.Sprintf("%016x", h.Sum64())
	}
	switch {
	case rules.IsContainerID(d.Container):
		const zeros = "0000000000000000000000000000000000000000000000000000000000000000"
		o.ContainerID = has(d.Container + zeros[len(d.Container):])
	case d.Container != "" || d.Pod != "":
		one := id(d.Pod + "\x00" + d.Container)
		o.ContainerID, o.Container = has(one+one+one+one), d.Container
	}
	if d.Pod != "" {
		o.PodUID = has(id(d.Pod))
	}
	var meets []string
	for _, pattern := range w.cmdlines {
		if regexp.MustCompile(pattern).MatchString(cmp.Or(d.Cmdline, d.Process, defaultProcess)) { // rules have read it
			meets = append(meets, pattern)
		}
	}
	o.CmdlineMeets = sock.Patterns(meets)
	return o
}

func has(text string) sock.Fact { return sock.Fact{Text: text, Known: true} }
