package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"
)

// mounts are the namespaces that are mounted in one mount namespace: a mount keeps a
// network namespace without a process in it, as `ip netns add` and the runtimes of
// containers do.
type mounts struct {
	file *os.File // mountinfo
	root string   // leads to the root of the process whose mountinfo it is
	at   []mount
}

// A mount is a network namespace and where it is mounted.
type mount struct {
	inode uint32
	path  string // as the process names it
}

// openMounts opens the mountinfo of a process.
func openMounts(process string) (*mounts, error) {
	name := process + "/mountinfo"
	// os.Open would have the runtime poll it, and hear in our place what has changed.
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return &mounts{file: os.NewFile(uintptr(fd), name), root: process + "/root"}, nil
}

// read brings the list up to date. The kernel says whether anything was mounted or
// unmounted since the last call: a host of many pods has thousands of mounts.
func (m *mounts) read() error {
	if m.at != nil {
		changed, err := m.changed()
		if err != nil || !changed {
			return err
		}
	}
	if _, err := m.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(m.file)
	if err != nil {
		return fmt.Errorf("read the mounts: %w", err)
	}
	m.at = parseMounts(text)
	return nil
}

func (m *mounts) changed() (bool, error) {
	poll := []unix.PollFd{{Fd: int32(m.file.Fd()), Events: unix.POLLPRI}}
	for {
		n, err := unix.Poll(poll, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}

// parseMounts takes the text of mountinfo, and returns the network namespaces in it;
// never nil. A line is "36 25 0:4 net:[4026532177] /run/netns/blue rw shared:7 - nsfs nsfs rw".
func parseMounts(text []byte) []mount {
	found := []mount{}
	for line := range bytes.Lines(text) {
		before, after, _ := bytes.Cut(line, []byte(" - "))
		fields := bytes.Fields(before)
		if len(fields) < 5 || !bytes.HasPrefix(after, []byte("nsfs ")) {
			continue
		}
		if inode := inodeOf(fields[3]); inode != 0 {
			found = append(found, mount{inode, unescape(fields[4])})
		}
	}
	return found
}

// inodeOf reads "net:[4026532177]", as the links in /proc/PID/ns are; 0: it is not that.
func inodeOf(link []byte) uint32 {
	digits, isNet := bytes.CutPrefix(link, []byte("net:["))
	digits, whole := bytes.CutSuffix(digits, []byte("]"))
	n, err := strconv.ParseUint(string(digits), 10, 32)
	if !isNet || !whole || err != nil {
		return 0
	}
	return uint32(n)
}

// unescape undoes what mangle_path does to blanks and backslashes: "\040".
func unescape(escaped []byte) string {
	var b []byte
	for i := 0; i < len(escaped); i++ {
		if escaped[i] == '\\' && i+3 < len(escaped) {
			if code, err := strconv.ParseUint(string(escaped[i+1:i+4]), 8, 8); err == nil {
				b = append(b, byte(code))
				i += 3
				continue
			}
		}
		b = append(b, escaped[i])
	}
	return string(b)
}

// name is what `ip netns` calls what is mounted there; "": nothing.
func (m *mount) name() string {
	switch dir, base := path.Split(m.path); dir {
	case "/run/netns/", "/var/run/netns/":
		return base
	}
	return ""
}
