package holders

import (
	"bytes"
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dirents lists a directory through one reused buffer: os.ReadDir would make
// garbage of each of some hundred thousand names.
type dirents struct {
	fd   int
	buf  []byte
	rest []byte // of buf: entries not yet returned
}

func newDirents() *dirents { return &dirents{buf: make([]byte, 32<<10)} }

// reset makes fd the directory to list.
func (d *dirents) reset(fd int) { d.fd, d.rest = fd, nil }

// next returns the next name with its terminating NUL, valid until the next
// call, or nil after the last.
func (d *dirents) next() ([]byte, error) {
	// struct linux_dirent64: d_ino u64, d_off s64, d_reclen u16, d_type u8, d_name.
	const reclen, name = 16, 19
	if len(d.rest) == 0 {
		n, err := unix.Getdents(d.fd, d.buf)
		for err == unix.EINTR {
			n, err = unix.Getdents(d.fd, d.buf)
		}
		if n <= 0 || err != nil {
			return nil, err
		}
		d.rest = d.buf[:n]
	}
	size := int(binary.NativeEndian.Uint16(d.rest[reclen:]))
	entry := d.rest[name:size]
	d.rest = d.rest[size:]
	return entry[:bytes.IndexByte(entry, 0)+1], nil
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
func readFileAt(dir int, path string, buf []byte) (int, error) {
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.Read(fd, buf)
}
