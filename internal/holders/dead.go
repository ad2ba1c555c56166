package holders

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/podnames"
	"github.com/sockdog/sockdog/internal/sock"
)

// isTCP reports whether a protocol is TCP. As MPTCP goes a connection of it, in whose name
// the tables hold its subflows, and a plain one that such a listener accepted.
func isTCP(protocol string) bool {
	switch protocol {
	case "TCP", "TCPv6", "MPTCP", "MPTCPv6":
		return true
	default:
		return false
	}
}

// Dead is a process that holds descriptors of TCP sockets that are in no table.
type Dead struct {
	sock.Holder
	Netns  uint32 // inode of its network namespace; 0: not known
	Inodes []uint32
}

// FindDead finds the processes under root, a mounted proc(5), that hold TCP sockets which are
// in no table: those whose connection has ended without the program's doing (a kill, an RST,
// a timeout), and those that were never bound nor connected. A program that is about to
// connect one holds such a socket for a moment: who asks twice tells the two apart. tabled
// are the inodes of all TCP sockets that the tables of the kernel hold; a namespace whose
// table was not read makes all sockets in it look dead.
//
// Processes that may not be read are left out. Those that hang are returned; they do not
// hold up the rest.
func FindDead(root string, tabled map[uint32]struct{}) (dead []Dead, hung []int, err error) {
	dir, err := openDir(unix.AT_FDCWD, root)
	if err != nil {
		return nil, nil, fmt.Errorf("find dead sockets: %w", err)
	}
	defer unix.Close(dir)
	var pids []int
	if err := new(lister).eachNumber(dir, func(pid int, _ []byte) error { pids = append(pids, pid); return nil }); err != nil {
		return nil, nil, fmt.Errorf("find dead sockets in %s: %w", root, err)
	}
	dead, hung = FindDeadOf(root, pids, tabled)
	return dead, hung, nil
}

// FindDeadOf is FindDead for some processes.
func FindDeadOf(root string, pids []int, tabled map[uint32]struct{}) (dead []Dead, hung []int) {
	places := newOwners(podnames.Logs)
	fromRoot := false
	if dir, err := openDir(unix.AT_FDCWD, root); err == nil {
		fromRoot = rooted(dir)
		unix.Close(dir)
	}
	where := func(dir int) *sock.Owner { return places.of(dir, "..", fromRoot) }
	hung = bounded(pids, PerProcess, func(pid int) Dead { return deadOf(root, pid, tabled, where) }, func(d Dead) {
		if len(d.Inodes) > 0 {
			dead = append(dead, d)
		}
	})
	return dead, hung
}

// deadOf reads one process, and by its directory of descriptors where it belongs; nothing where
// it has ended, or may not be read.
func deadOf(root string, pid int, tabled map[uint32]struct{}, where func(dir int) *sock.Owner) Dead {
	path := filepath.Join(root, strconv.Itoa(pid), "fd")
	dir, err := openDir(unix.AT_FDCWD, path)
	if err != nil {
		return Dead{}
	}
	defer unix.Close(dir)
	var d Dead
	seen := make(map[uint32]bool) // one socket may have several descriptors
	// What was read until an error is true.
	_ = new(lister).eachNumber(dir, func(fd int, name []byte) error {
		inode, ok := socketAt(dir, name)
		if !ok || seen[inode] {
			return nil
		}
		seen[inode] = true
		if _, holds := tabled[inode]; holds || !isTCP(protocolOf(path+"/"+strconv.Itoa(fd))) {
			return nil
		}
		if now, ok := socketAt(dir, name); ok && now == inode { // and the number was not given to another meanwhile
			d.Inodes = append(d.Inodes, inode)
		}
		return nil
	})
	if len(d.Inodes) > 0 {
		d.Holder = describe(dir, "..", pid)
		d.Owner = where(dir)
		d.Netns = netnsAt(dir, "../ns/net")
	}
	return d
}

// socketAt is the inode of the socket that a descriptor leads to, if it is one. The name
// ends in NUL.
func socketAt(dir int, name []byte) (uint32, bool) {
	var link [64]byte
	n, err := readlinkat(dir, name, link[:])
	if err != nil {
		return 0, false
	}
	return socketInode(link[:n])
}

// protocolOf is the name of the protocol of a socket, by a link to it of /proc, such as TCP,
// TCPv6 or UDP (sockfs_xattr_get); empty: it cannot be read. A socket that a listener
// accepted has the listener's.
func protocolOf(link string) string {
	var name [32]byte
	n, err := unix.Getxattr(link, "system.sockprotoname", name[:])
	if err != nil {
		return ""
	}
	return string(bytes.TrimRight(name[:n], "\x00"))
}

// netnsAt is the inode of the network namespace that a link leads to; 0: it cannot be read.
func netnsAt(dir int, path string) uint32 {
	var link [64]byte
	n, err := unix.Readlinkat(dir, path, link[:])
	if err != nil {
		return 0
	}
	digits, _ := bytes.CutPrefix(link[:n], []byte("net:["))
	inode, err := strconv.ParseUint(string(bytes.TrimSuffix(digits, []byte("]"))), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(inode)
}
