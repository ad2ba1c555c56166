package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
)

// trustHolder says whether to believe who holds a socket. Who lies about ages may
// have a person kill what is in use: it must be somebody who needs no person for
// that, be it root, the user who asks, or a process that could destroy these
// sockets itself.
func trustHolder(address string, s *sock.Socket) error {
	switch {
	case s.Inode == 0:
		return fmt.Errorf("whose the sockdog on %s is cannot be seen: it has closed the connection", address)
	case s.UID == 0 || s.UID == uint32(os.Geteuid()):
		return nil
	}
	found, err := holders.Find(procRoot, map[uint32]struct{}{s.Inode: {}})
	held := found.Holders[s.Inode]
	trusted := err == nil && len(held) > 0
	for _, o := range held {
		trusted = trusted && mayKill(o.PID, s.UID)
	}
	if !trusted {
		return fmt.Errorf("what listens on %s belongs to user %d, who is neither root nor you, and is not seen to hold CAP_NET_ADMIN: what it says of ages is not believed (root can see more)", address, s.UID)
	}
	return nil
}

// mayKill reports whether a process of that user may have CAP_NET_ADMIN in this
// user namespace.
func mayKill(pid int, uid uint32) bool {
	dir := procRoot + "/" + strconv.Itoa(pid)
	ours, err := os.Readlink(procRoot + "/self/ns/user")
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
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
