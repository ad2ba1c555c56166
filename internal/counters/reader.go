package counters

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Reader reads the counters of the network namespace that it was opened in. It
// is not for concurrent use.
type Reader struct {
	sockstat, snmp      *procFile
	ephemeral, reserved *procFile // nil: not to be had here
	sockstat6           *procFile // nil: there is no IPv6

	ports     Ports  // by
	portsText []byte // the texts of both
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
	if sockstat6, err := openProc("/proc/thread-self/net/sockstat6"); err == nil {
		r.sockstat6 = sockstat6
	}
	// Without these, only the ports are not known.
	const sysctl = "/proc/sys/net/ipv4/"
	if ephemeral, err := openProc(sysctl + "ip_local_port_range"); err == nil {
		r.ephemeral = ephemeral
	}
	if reserved, err := openProc(sysctl + "ip_local_reserved_ports"); err == nil {
		r.reserved = reserved
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

// Ports are the local ports that a connect(2) without a bind(2) may get in the
// namespace. Its caller does not change them.
func (r *Reader) Ports() (Ports, error) {
	if r.ephemeral == nil || r.reserved == nil {
		return Ports{}, errors.New("read the ephemeral ports: /proc/sys/net/ipv4 cannot be read here")
	}
	ephemeral, err := r.ephemeral.read()
	if err != nil {
		return Ports{}, fmt.Errorf("read the ephemeral ports: %w", err)
	}
	reserved, err := r.reserved.read()
	if err != nil {
		return Ports{}, fmt.Errorf("read the reserved ports: %w", err)
	}
	known := len(r.portsText) == len(ephemeral)+len(reserved) && bytes.HasPrefix(r.portsText, ephemeral) && bytes.HasSuffix(r.portsText, reserved)
	if known {
		return r.ports, nil
	}
	ports, ok := parsePorts(ephemeral, reserved)
	if !ok {
		return Ports{}, fmt.Errorf("read the ephemeral ports: %q without %q is not understood", ephemeral, reserved)
	}
	r.ports, r.portsText = ports, append(append(r.portsText[:0], ephemeral...), reserved...)
	return ports, nil
}

// InUse counts the full sockets of both families, listening ones among them; false:
// the kernel does not report them. Sockets in the states TIME_WAIT and SYN_RECV, and
// those neither connected nor listening, are not among them.
func (r *Reader) InUse() (uint64, bool, error) {
	text, err := r.sockstat.read()
	if err != nil {
		return 0, false, fmt.Errorf("read TCP counters: %w", err)
	}
	n, ok := pair(text, "TCP:", "inuse")
	if r.sockstat6 == nil || !ok {
		return n, ok, nil
	}
	if text, err = r.sockstat6.read(); err != nil {
		return 0, false, fmt.Errorf("read TCP counters: %w", err)
	}
	n6, ok := pair(text, "TCP6:", "inuse")
	return n + n6, ok, nil
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
	for _, f := range []*procFile{r.sockstat, r.snmp, r.ephemeral, r.reserved, r.sockstat6} {
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
