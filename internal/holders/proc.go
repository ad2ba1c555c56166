package holders

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// lister lists directories through one reused buffer: os.ReadDir would make garbage of
// each of some hundred thousand names. It lists one at a time.
type lister struct{ buf [32 << 10]byte }

// eachNumber calls do for each entry that has a number for a name, which ends in NUL,
// until there is an error.
func (l *lister) eachNumber(dir int, do func(number int, name []byte) error) error {
	// struct linux_dirent64: d_ino u64, d_off s64, d_reclen u16, d_type u8, d_name.
	const reclen, name = 16, 19
	for {
		n, err := unix.Getdents(dir, l.buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case n <= 0 || err != nil:
			return err
		}
		for rest := l.buf[:n]; len(rest) > 0; {
			size := binary.NativeEndian.Uint16(rest[reclen:])
			entry := rest[name:size]
			rest = rest[size:]
			end := bytes.IndexByte(entry, 0)
			if number, err := strconv.Atoi(string(entry[:end])); err == nil {
				if err := do(number, entry[:end+1]); err != nil {
					return err
				}
			}
		}
	}
}

// openDir opens a directory; path is relative to dir.
func openDir(dir int, path string) (int, error) {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// readlinkat is readlinkat(2) for a name that ends in NUL, without the copy of
// it that unix.Readlinkat makes.
func readlinkat(dir int, name, buf []byte) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir),
		uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// readFileAt reads the start of a file that fits into buf.
func readFileAt(dir int, path string, buf []byte) ([]byte, error) {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	return buf[:max(0, n)], err
}

// readAllAt reads a whole file of /proc, of up to a mebibyte.
func readAllAt(dir int, path string) ([]byte, error) {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// stat is what stands in /proc/PID/stat after the command, which is in parentheses
// and may hold some of its own: the third field and those that follow.
type stat [][]byte

func readStat(dir int, path string) (stat, error) {
	var buf [1024]byte
	line, err := readFileAt(dir, path, buf[:])
	return bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:]), err
}

// number is a field as proc_pid_stat(5) counts them.
func (s stat) number(field int) (uint64, error) {
	if field-3 >= len(s) {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(string(s[field-3]), 10, 64)
}

// describe names the process whose directory is at path. Where that starts at the
// process's open fd directory, a PID given away meanwhile does not lend its new
// process's name.
func describe(dir int, path string, pid int) sock.Holder {
	h := sock.Holder{PID: pid}
	var buf [4096]byte
	if comm, err := readFileAt(dir, path+"/comm", buf[:]); err == nil {
		h.Comm = strings.TrimSuffix(string(comm), "\n")
	}
	if n, err := unix.Readlinkat(dir, path+"/exe", buf[:]); err == nil {
		h.Exe = strings.TrimSuffix(filepath.Base(string(buf[:n])), " (deleted)")
	}
	if s, err := readStat(dir, path+"/stat"); err == nil {
		h.Start, _ = s.number(22) // 0: it cannot be told from a later one of its PID
	}
	return h
}

// rooted reports whether the paths of cgroups in the /proc opened as dir begin at the host's
// root: this process is in the first cgroup namespace, whose number is the same on every
// host (PROC_CGROUP_INIT_INO), or the kernel has no others.
func rooted(dir int) bool {
	var link [64]byte
	if _, err := unix.Readlinkat(dir, "self", link[:]); err != nil {
		return false
	}
	n, err := unix.Readlinkat(dir, "self/ns/cgroup", link[:])
	return errors.Is(err, unix.ENOENT) || err == nil && string(link[:n]) == "cgroup:[4026531835]"
}

// socketInode reads the inode from a link to a socket, "socket:[12345]".
func socketInode(link []byte) (uint32, bool) {
	digits, is := bytes.CutPrefix(link, socketPrefix)
	digits, whole := bytes.CutSuffix(digits, socketSuffix)
	if !is || !whole {
		return 0, false
	}
	inode, err := strconv.ParseUint(string(digits), 10, 32)
	return uint32(inode), err == nil
}

var socketPrefix, socketSuffix = []byte("socket:["), []byte("]")

// unlessGone drops the errors that say that the process has ended.
func unlessGone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func refused(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}
