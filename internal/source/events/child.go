package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// loaderName is argv[0] of the child that loads the programs: what ps(1) shows of it.
const loaderName = "sockdog: load eBPF programs"

// channel is the loader's end of the socket over which it hands descriptors over.
const channel = 3

// BecomeLoader does not return in the child that Load starts. It must be the first thing that
// the program's main does.
func BecomeLoader() {
	canLoad.Store(true)
	if len(os.Args) != 3 || os.Args[0] != loaderName {
		return
	}
	places, err := strconv.ParseUint(os.Args[2], 10, 32)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	runtime.LockOSThread() // whose capabilities are raised
	raise(unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN)
	// Before Linux 5.11 the memory of maps counts against it. It falls with this process.
	unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if err := load(group(os.Args[1]), uint32(places)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A group is what is loaded together: it is there as a whole or not at all.
type group string

const (
	groupTable  group = "table"
	groupFlag   group = "flag"
	groupOwners group = "owners"
)

// message is what the loader says of one group, beside its descriptors.
type message struct {
	Group       group
	NeedsCapBPF bool `json:",omitempty"` // of groupTable: see Programs.NeedsCapBPF
	What        string
	Errno       unix.Errno `json:",omitempty"`
	Why         string     // "" if the group is loaded
	Log         string     `json:",omitempty"`
}

// The programs and maps of each group. Maps of data are named by their sections.
type (
	tableObjects struct {
		Follow  *ebpf.Program `ebpf:"follow"`
		Entries *ebpf.Map     `ebpf:"entries"`
		States  *ebpf.Map     `ebpf:".data.states"`
		Lost    *ebpf.Map     `ebpf:".data.lost"`
	}
	flagObjects struct {
		FlagOlder *ebpf.Program `ebpf:"flag_older"`
	}
	ownerObjects struct {
		Owners *ebpf.Program `ebpf:"owners"`
		Asked  *ebpf.Map     `ebpf:"asked"`
	}
)

// load loads all groups, or only that of the owners, and hands each over when it is there, so
// that one which fails or hangs does no harm to those before it.
func load(needed group, places uint32) error {
	var table tableObjects
	if err := tryBPF(); err != nil {
		return send(failed(needed, "call bpf(2)", err))
	}
	if needed == groupOwners {
		return loadOwners(places)
	}
	spec, err := collection(places)
	if err != nil {
		return err
	}
	err = spec.LoadAndAssign(&table, nil)
	if err != nil { // Linux has bpf_get_netns_cookie() since 5.15
		withoutNetnsCookie(spec.Programs["follow"].Instructions)
		err = spec.LoadAndAssign(&table, nil)
	}
	if err != nil {
		return send(failed(groupTable, "load the program that follows states", err))
	}
	needs := needsCapBPF(table.States.FD())
	if err := send(message{Group: groupTable, NeedsCapBPF: needs}, table.Follow.FD(), table.Entries.FD(), table.States.FD(), table.Lost.FD()); err != nil {
		return err
	}
	if err := loadFlag(places, &table); err != nil {
		return err
	}
	return loadOwners(places)
}

func collection(places uint32) (*ebpf.CollectionSpec, error) {
	spec, err := loadKernel()
	if err == nil {
		spec.Maps["entries"].MaxEntries = places
	}
	return spec, err
}

// withoutNetnsCookie has the program take 0 for the cookie. A branch that a constant rules out
// would not do: without CAP_PERFMON, the kernel verifies what a processor may speculate on.
func withoutNetnsCookie(program asm.Instructions) {
	for i := range program {
		if in := &program[i]; in.IsBuiltinCall() && asm.BuiltinFunc(in.Constant) == asm.FnGetNetnsCookie {
			*in = asm.Mov.Imm(asm.R0, 0).WithMetadata(in.Metadata)
		}
	}
}

func loadFlag(places uint32, table *tableObjects) error {
	var objects flagObjects
	return loadIterator(groupFlag, places, "load the iterator that flags older connections", &objects, map[string]*ebpf.Map{
		"entries": table.Entries, ".data.states": table.States, ".data.lost": table.Lost,
	}, func() (*ebpf.Program, []int) { return objects.FlagOlder, nil })
}

func loadOwners(places uint32) error {
	const what = "load the iterator over descriptors"
	if !initialPIDNamespace() {
		return send(failed(groupOwners, what, errors.New("this is a PID namespace of its own, in which the kernel's process ids mean nothing (hostPID)")))
	}
	var objects ownerObjects
	return loadIterator(groupOwners, places, what, &objects, nil, func() (*ebpf.Program, []int) {
		return objects.Owners, []int{objects.Asked.FD()}
	})
}

func loadIterator(g group, places uint32, what string, objects any, shared map[string]*ebpf.Map, loaded func() (*ebpf.Program, []int)) error {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil { // the library would look further, and find what helps nobody
		return send(failed(g, what, fmt.Errorf("the kernel tells no BTF: %w", err)))
	}
	spec, err := collection(places)
	if err != nil {
		return err
	}
	if err := spec.LoadAndAssign(objects, &ebpf.CollectionOptions{MapReplacements: shared}); err != nil {
		return send(failed(g, what, err))
	}
	program, maps := loaded()
	iter, err := bpf(unix.BPF_LINK_CREATE, &linkCreate{prog: uint32(program.FD()), kind: unix.BPF_TRACE_ITER})
	if err != nil {
		return send(failed(g, what, err))
	}
	return send(message{Group: g}, append([]int{int(iter)}, maps...)...)
}

// initialPIDNamespace reports whether this process sees the process ids that the kernel has.
func initialPIDNamespace() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &st) == nil && st.Ino == 0xEFFFFFFC // PROC_PID_INIT_INO
}

// tryBPF makes a map, to know the kernel's own word: the library takes a refusal for what the
// kernel lacks or for a limit of memory.
func tryBPF() error {
	fd, err := bpf(unix.BPF_MAP_CREATE, &struct{ kind, key, value, entries uint32 }{unix.BPF_MAP_TYPE_HASH, 4, 4, 1})
	if err == nil {
		unix.Close(int(fd))
	}
	return err
}

// needsCapBPF reads a map on a thread without capabilities.
func needsCapBPF(fd int) bool {
	denied := make(chan bool)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its capabilities lost
		var sets [2]unix.CapUserData
		if unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0]) != nil {
			denied <- true
			return
		}
		var first uint32
		var states [2]uint32
		denied <- lookup(fd, &first, &states) != nil
	}()
	return <-denied
}

// raise makes those of the capabilities effective that this thread may have.
func raise(capabilities ...int) {
	self := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if unix.Capget(&self, &sets[0]) != nil {
		return
	}
	for _, c := range capabilities {
		sets[c/32].Effective |= sets[c/32].Permitted & (1 << (c % 32))
	}
	unix.Capset(&self, &sets[0])
}

// failed says why a group cannot be had.
func failed(g group, what string, err error) message {
	m := message{Group: g, What: what, Why: err.Error()}
	errors.As(err, &m.Errno)
	if refusal, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		m.Log = strings.Join(refusal.Log, "\n")
		m.Log = m.Log[max(len(m.Log)-maxLog, 0):] // the end says why
	}
	if m.Errno == unix.EPERM || m.Errno == unix.EACCES && m.Log == "" {
		m.Why = fmt.Sprintf("%v (%s)", m.Errno, whyNotPermitted(g))
	}
	return m
}

// whyNotPermitted is the likeliest reason for an EPERM of bpf(2).
func whyNotPermitted(g group) string {
	needs, names := []int{unix.CAP_BPF, unix.CAP_NET_ADMIN}, []string{"CAP_BPF", "CAP_NET_ADMIN"}
	if g != groupTable {
		needs, names = []int{unix.CAP_BPF, unix.CAP_PERFMON}, []string{"CAP_BPF", "CAP_PERFMON"}
	}
	var sets [2]unix.CapUserData
	unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0])
	effective := uint64(sets[1].Effective)<<32 | uint64(sets[0].Effective)
	var missing []string
	for i, c := range needs {
		if effective&(1<<c|1<<unix.CAP_SYS_ADMIN) == 0 {
			missing = append(missing, names[i])
		}
	}
	status, _ := os.ReadFile("/proc/self/status")
	var user unix.Stat_t
	switch {
	case len(missing) > 0:
		return "it lacks " + strings.Join(missing, " and ")
	case unix.Stat("/proc/self/ns/user", &user) == nil && user.Ino != 0xEFFFFFFD: // PROC_USER_INIT_INO
		return "its capabilities are those of a user namespace, where eBPF is not to be had"
	case !strings.Contains(string(status), "\nSeccomp:\t0\n"):
		return "a seccomp filter is in force"
	default:
		return "by a security module or a limit of this system"
	}
}

// maxLog bounds what is kept of the verifier's log, so that it fits into a message.
const maxLog = 32 << 10

func send(m message, fds ...int) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(channel, text, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("hand %s over: %w", m.Group, err)
	}
	return nil
}
