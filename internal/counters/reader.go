package counters

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/sock"
)

// Reader reads the counters of the network namespace that it was opened in. It
// is not for concurrent use.
type Reader struct {
	sockstat, snmp      procFile
	sockstat6           procFile // cannot be read where there is no IPv6
	ephemeral, reserved procFile // without these, only the ports are not known
	netstat             procFile // and without these, what presses on sockets
	maxOrphans, memory  procFile // in most namespaces they do not stand

	netns     uint32
	ports     map[uint32]sock.Ports // by that, and by
	portsText []byte                // the texts of both
}

// OpenIn opens the counters of a network namespace. Its files of /proc/net keep the
// namespace alive until Close.
func OpenIn(namespace *netns.Namespace) (r *Reader, err error) {
	err = namespace.Do(func() error {
		r, err = Open()
		return err
	})
	return r, err
}

// Open opens the counters of the calling thread's network namespace: an open
// file keeps to it, whichever thread reads it later.
func Open() (*Reader, error) {
	const net, sysctl = "/proc/thread-self/net/", "/proc/sys/net/ipv4/"
	r := &Reader{
		netns:    netns.Inode(),
		sockstat: openProc(net + "sockstat"), snmp: openProc(net + "snmp"), sockstat6: openProc(net + "sockstat6"),
		ephemeral: openProc(sysctl + "ip_local_port_range"), reserved: openProc(sysctl + "ip_local_reserved_ports"),
		netstat: openProc(net + "netstat"), maxOrphans: openProc(sysctl + "tcp_max_orphans"), memory: openProc(sysctl + "tcp_mem"),
	}
	if err := errors.Join(r.sockstat.err, r.snmp.err); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Read reads all counters anew.
func (r *Reader) Read() (sock.Counters, error) {
	sockstat, err := r.sockstat.read()
	if err != nil {
		return sock.Counters{}, err
	}
	snmp, err := r.snmp.read()
	if err != nil {
		return sock.Counters{}, err
	}
	return parse(sockstat, snmp), nil
}

// ReadTimeWait reads how many timewait sockets there are alone, for a tenth of what Read
// costs.
func (r *Reader) ReadTimeWait() (sock.Counters, error) {
	sockstat, err := r.sockstat.read()
	return parse(sockstat, nil), err
}

// Ports are the local ports that a connect(2) without a bind(2) may get in the
// namespace, by its inode. Its caller does not change them.
func (r *Reader) Ports() (map[uint32]sock.Ports, error) {
	ephemeral, err := r.ephemeral.read()
	if err != nil {
		return nil, err
	}
	reserved, err := r.reserved.read()
	if err != nil {
		return nil, err
	}
	known := len(r.portsText) == len(ephemeral)+len(reserved) && bytes.HasPrefix(r.portsText, ephemeral) && bytes.HasSuffix(r.portsText, reserved)
	if known {
		return r.ports, nil
	}
	ports, ok := parsePorts(ephemeral, reserved)
	if !ok {
		return nil, fmt.Errorf("read the ephemeral ports: %q without %q is not understood", ephemeral, reserved)
	}
	r.ports, r.portsText = map[uint32]sock.Ports{r.netns: ports}, append(append(r.portsText[:0], ephemeral...), reserved...)
	return r.ports, nil
}

// InUse counts the full sockets of both families, listening ones among them; false:
// the kernel does not report them. Sockets in the states TIME_WAIT and SYN_RECV, and
// those neither connected nor listening, are not among them.
func (r *Reader) InUse() (uint64, bool, error) {
	text, err := r.sockstat.read()
	if err != nil {
		return 0, false, err
	}
	n, ok := pair(text, "TCP:", "inuse")
	if r.sockstat6.err != nil || !ok {
		return n, ok, nil
	}
	if text, err = r.sockstat6.read(); err != nil {
		return 0, false, err
	}
	n6, ok := pair(text, "TCP6:", "inuse")
	return n + n6, ok, nil
}

// ReadHost reads those of the whole host; false: the kernel does not report them.
func (r *Reader) ReadHost() (Host, bool, error) {
	sockstat, err := r.sockstat.read()
	h, ok := parseHost(sockstat)
	return h, ok, err
}

// Close closes the files.
func (r *Reader) Close() {
	for _, f := range []procFile{r.sockstat, r.snmp, r.sockstat6, r.ephemeral, r.reserved, r.netstat, r.maxOrphans, r.memory} {
		f.Close() // nil is closed, too
	}
}

// procFile is a file that the kernel writes anew for each read from its start
// (seq_read_iter).
type procFile struct {
	*os.File
	err error // of opening it
	buf []byte
}

func openProc(path string) procFile {
	f, err := os.Open(path)
	return procFile{File: f, err: err}
}

// read returns the whole text, valid until the next read. One call reads all of
// it: os.File would ask a second time for the end of the file, and have the
// kernel count everything twice.
func (f *procFile) read() ([]byte, error) {
	if f.err != nil {
		return nil, f.err
	}
	for {
		n, err := unix.Pread(int(f.Fd()), f.buf, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: f.Name(), Err: err}
		case n < len(f.buf):
			return f.buf[:n], nil
		default:
			f.buf = make([]byte, max(2*len(f.buf), 2<<10))
		}
	}
}
