package host

import (
	"encoding/binary"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// privileges are what decides whether a process has CAP_NET_ADMIN.
type privileges struct {
	root       bool
	bounded    bool // the bounding set lacks it: nothing can give it
	noNewPrivs bool // what the program's file grants is not granted
	nosuid     bool // nor is it on this mount
	file       bool // the program's file grants it
}

// readPrivileges reads those of this process. What cannot be read is as if it did
// not stand in the way.
func readPrivileges() privileges {
	p := privileges{root: os.Geteuid() == 0}
	if text, err := os.ReadFile("/proc/thread-self/status"); err == nil {
		bounding, err := strconv.ParseUint(statusField(text, "CapBnd"), 16, 64)
		p.bounded = err == nil && bounding&(1<<unix.CAP_NET_ADMIN) == 0
		p.noNewPrivs = statusField(text, "NoNewPrivs") == "1"
	}
	const self = "/proc/self/exe"
	var st unix.Statfs_t
	if unix.Statfs(self, &st) == nil {
		p.nosuid = st.Flags&unix.ST_NOSUID != 0
	}
	var data [24]byte // struct vfs_ns_cap_data: magic_etc, permitted, inheritable, …
	if n, err := unix.Getxattr(self, "security.capability", data[:]); err == nil && n >= 8 {
		p.file = binary.LittleEndian.Uint32(data[4:])&(1<<unix.CAP_NET_ADMIN) != 0
	}
	return p
}

// missing says why CAP_NET_ADMIN is missing, and what to do about it.
func (p privileges) missing() (why, cure string) {
	const (
		granted = "NET_ADMIN in the container's capabilities, or AmbientCapabilities=CAP_NET_ADMIN in the unit"
		started = "let the container runtime or systemd start it with the capability, not a shell within: " + granted
	)
	switch {
	case p.bounded:
		return "the bounding set lacks it, so neither root nor the program's file can have it",
			"NET_ADMIN in the container's capabilities, or CAP_NET_ADMIN in CapabilityBoundingSet= of the unit"
	case p.root:
		return "root was started without it", granted
	case p.file && p.noNewPrivs:
		return "the program's file has the capability, and no_new_privs (NoNewPrivileges=yes, allowPrivilegeEscalation: false) keeps it from being granted", started + "; under Docker leave out no-new-privileges, since it gives capabilities to other users than root by the file alone"
	case p.file && p.nosuid:
		return "the program's file has the capability, and its file system is mounted nosuid, which keeps it from being granted", "put the program on another file system, or run as root"
	case p.file:
		return "the program's file has the capability, and it was not granted all the same", "run as root, or " + granted
	case p.noNewPrivs:
		return "the program's file has no capability, and no_new_privs (NoNewPrivileges=yes, allowPrivilegeEscalation: false) would keep one from being granted", started
	default:
		return "the program's file has no capability", "run as root, `setcap cap_net_admin+p` on the binary, or " + granted
	}
}

// capabilityNames are the capabilities that sockdog may want, without CAP_.
var capabilityNames = map[int]string{
	unix.CAP_BPF: "BPF", unix.CAP_KILL: "KILL", unix.CAP_NET_ADMIN: "NET_ADMIN", unix.CAP_PERFMON: "PERFMON", unix.CAP_SYS_ADMIN: "SYS_ADMIN", unix.CAP_SYS_PTRACE: "SYS_PTRACE",
}

// CapabilityName returns the name of a capability, as a pod has it: NET_ADMIN.
func CapabilityName(capability int) string { return capabilityNames[capability] }

// Lacks reports whether this process may not have one of the capabilities.
func Lacks(capabilities ...int) bool {
	var sets [2]unix.CapUserData
	if unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0]) != nil {
		return false
	}
	return slices.ContainsFunc(capabilities, func(c int) bool { return sets[c/32].Permitted&(1<<(c%32)) == 0 })
}

// MayKill reports whether a process of that user may have CAP_NET_ADMIN in this
// user namespace.
func MayKill(pid int, uid uint32) bool {
	dir := ProcRoot + "/" + strconv.Itoa(pid)
	ours, err := os.Readlink(ProcRoot + "/self/ns/user")
	if err != nil {
		return false
	}
	if theirs, err := os.Readlink(dir + "/ns/user"); err != nil || theirs != ours {
		return false // in a namespace of their own, everybody has every capability
	}
	text, err := os.ReadFile(dir + "/status")
	if err != nil {
		return false
	}
	// "Uid: real effective saved filesystem": the last is what a socket has.
	user := strings.Fields(statusField(text, "Uid"))
	permitted, err := strconv.ParseUint(statusField(text, "CapPrm"), 16, 64)
	return err == nil && permitted&(1<<unix.CAP_NET_ADMIN) != 0 && len(user) == 4 && user[3] == strconv.FormatUint(uint64(uid), 10)
}

// statusField is a field of /proc/PID/status; empty: there is none.
func statusField(text []byte, name string) string {
	_, after, _ := strings.Cut("\n"+string(text), "\n"+name+":")
	value, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(value)
}
