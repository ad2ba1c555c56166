package counters

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reader reads the counters of the network namespace that it was opened in. It
// is not for concurrent use.
type Reader struct {
	sockstat, snmp *procFile
}

// Open opens the counters of the calling thread's network namespace: an open
// file keeps to it, whichever thread reads it later.
func Open() (*Reader, error) {
	var r Reader
	for _, f := range []struct {
		name string
		file **procFile
	}{
		{"sockstat", &r.sockstat},
		{"snmp", &r.snmp},
	} {
		var err error
		*f.file, err = openProc("/proc/thread-self/net/" + f.name)
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("open TCP counters: %w", err)
		}
	}
	return &r, nil
}

// Read reads all counters anew.
func (r *Reader) Read() (Counters, error) {
	sockstat, err := r.sockstat.read()
	if err != nil {
		return Counters{}, fmt.Errorf("read TCP counters: %w", err)
	}
	snmp, err := r.snmp.read()
	if err != nil {
		return Counters{}, fmt.Errorf("read TCP counters: %w", err)
	}
	return parse(sockstat, snmp), nil
}

// ReadHost reads those of the whole host; false: the kernel does not report them.
func (r *Reader) ReadHost() (Host, bool, error) {
	sockstat, err := r.sockstat.read()
	if err != nil {
		return Host{}, false, fmt.Errorf("read TCP counters: %w", err)
	}
	h, ok := parseHost(sockstat)
	return h, ok, nil
}

// Close closes the files.
func (r *Reader) Close() {
	for _, f := range []*procFile{r.sockstat, r.snmp} {
		if f != nil {
			unix.Close(f.fd)
		}
	}
}

// procFile is a file that the kernel writes anew for each read from its start
// (seq_read_iter).
type procFile struct {
	path string
	fd   int
	buf  []byte
}

func openProc(path string) (*procFile, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &procFile{path: path, fd: fd, buf: make([]byte, 4096)}, nil
}

// read returns the whole text, valid until the next read. One call reads all of
// it: os.File would ask a second time for the end of the file, and have the
// kernel count everything twice.
func (f *procFile) read() ([]byte, error) {
	for {
		n, err := unix.Pread(f.fd, f.buf, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: f.path, Err: err}
		case n < len(f.buf):
			return f.buf[:n], nil
		default:
			f.buf = make([]byte, 2*len(f.buf))
		}
	}
}
