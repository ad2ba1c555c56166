// Package recording is a file of whole scans of the socket table, one after the other: what
// rules match of each socket, and of each scan only what has changed since the last one.
//
// A file is a line of text with the version of its format, and then frames: a header, scans,
// an end. Each frame says its length, and has a checksum of that and one of what it holds. So
// a file that was cut short or damaged is read up to its last whole scan, and says so.
//
// A scan is columns of variable-length integers (encoding/binary) in a DEFLATE stream (RFC
// 1951) of its own: what has changed of a socket as differences to before, the values of one
// field of all sockets together. A socket of which nothing has changed takes nothing. The
// times that the kernel counts up or down are kept as the instants that they count from or
// to, which stay.
package recording

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const (
	// Version is that of the format which is written. All up to it are read.
	Version = 1

	magic = "sockdog recording " // and the version, and a newline

	// What a file may claim at most. A file that claims more is damaged.
	maxVersionDigits = 9
	maxHeader        = 1 << 16 // bytes
	maxFrame         = 1 << 26 // bytes, compressed
	maxContent       = 1 << 27 // bytes of one scan, when it is not
	maxText          = 1 << 12 // bytes of a name or a path
	maxEntries       = 1 << 20 // texts, processes, and which of them hold a socket together

	// MaxSockets is how many sockets a scan may have.
	MaxSockets = 1 << 20
)

// The kinds of frames.
const (
	headerFrame = 'H'
	scanFrame   = 'S'
	endFrame    = 'E'
)

// Header says how a recording was made.
type Header struct {
	Sockdog   string        `json:"sockdog"` // version of the program that wrote it
	BootID    string        `json:"boot_id,omitempty"`
	Kernel    string        `json:"kernel"`           // its release
	Precision time.Duration `json:"precision_ns"`     // of the ages that it tells
	Began     time.Time     `json:"began"`            // by the wall clock
	Every     time.Duration `json:"every_ns"`         // between two scans, as it was asked for
	All       bool          `json:"all_namespaces"`   // of the host, and not only one
	Filter    string        `json:"filter,omitempty"` // empty: every socket in States
	States    string        `json:"states"`           // that it has sockets in
	Holders   bool          `json:"holders"`          // it says who holds each socket
	Masked    []string      `json:"masked,omitempty"` // what was replaced: addresses, names
}

// What may be masked, as Header names it.
const (
	Addresses = "addresses"
	Names     = "names"
)

// Process tells a process from a later one of its PID.
type Process struct {
	PID   int
	Start uint64
}

// Scan is what one scan says beside the sockets.
type Scan struct {
	Sent     sock.Instant // the request went out
	Got      sock.Instant // the answer was in, as a whole
	Wall     time.Time    // Got by the wall clock
	Ports    map[uint32]sock.Ports
	Pressure *sock.Pressure // nil: not known

	Holders  map[uint32][]sock.Holder // by inode; without what their command lines meet
	Complete bool                     // every process of the host was read
	Settled  map[*sock.Owner]bool     // of such holders alone it is known all the same that nobody else holds their sockets
	FDUsage  map[Process]float64      // of holders, in percent of their limit
}

// Damage says that a recording does not go on as it should, and that what came before is whole.
type Damage struct {
	Scans  int   // whole ones before it
	Offset int64 // of the frame that is not whole
	Cut    bool  // the file ends there
	Err    error // else what is wrong
}

func (d *Damage) Error() string {
	if d.Cut {
		return fmt.Sprintf("the recording was cut short at byte %d, after %d whole scans", d.Offset, d.Scans)
	}
	return fmt.Sprintf("the recording is damaged at byte %d, after %d whole scans: %v", d.Offset, d.Scans, d.Err)
}

func (d *Damage) Unwrap() error { return d.Err }

// ErrNone says that a file is no recording.
var ErrNone = errors.New("it is not a recording of sockdog: sockdog record makes one")

// Newer says that a recording has a format that a later version writes.
type Newer int

func (v Newer) Error() string {
	return fmt.Sprintf("the recording has format %d, and this sockdog reads formats up to %d: read it with a newer one", int(v), Version)
}

// readVersion reads the first line.
func readVersion(r io.Reader) error {
	line := make([]byte, len(magic))
	if _, err := io.ReadFull(r, line); err != nil || string(line) != magic {
		return notOne(err)
	}
	var digits []byte
	for b := line[:1]; ; digits = append(digits, b[0]) {
		if _, err := io.ReadFull(r, b); err != nil {
			return notOne(err)
		}
		if b[0] == '\n' {
			break
		}
		if len(digits) == maxVersionDigits {
			return ErrNone
		}
	}
	v, err := strconv.ParseUint(string(digits), 10, 31)
	switch {
	case err != nil || v == 0:
		return ErrNone
	case v > Version:
		return Newer(v)
	}
	return nil
}

// notOne tells a file that is no recording from one that cannot be read.
func notOne(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrNone
	}
	return err
}

// frameHeader is what goes before the content of a frame: its kind, its length, a checksum of
// the content, and one of these.
const frameHeader = 1 + 4 + 4 + 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendFrame appends a frame.
func appendFrame(b []byte, kind byte, content []byte) []byte {
	at := len(b)
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(content)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(content, castagnoli))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
	return append(b, content...)
}

var errChecksum = errors.New("a checksum is wrong")

// readFrame reads a frame into buf, and returns its content. It takes no more memory than there
// is to read, whatever the frame claims. io.EOF means that there is none.
func readFrame(r io.Reader, buf []byte) (kind byte, content []byte, err error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, buf, err
	}
	if crc32.Checksum(head[:9], castagnoli) != binary.LittleEndian.Uint32(head[9:]) {
		return 0, buf, errChecksum
	}
	size := int64(binary.LittleEndian.Uint32(head[1:]))
	if size > maxFrame {
		return 0, buf, fmt.Errorf("a frame of %d bytes is %w", size, errTooLarge)
	}
	content, err = appendAll(buf[:0], io.LimitReader(r, size))
	switch {
	case err != nil:
		return 0, content, err
	case int64(len(content)) < size:
		return 0, content, io.ErrUnexpectedEOF
	case crc32.Checksum(content, castagnoli) != binary.LittleEndian.Uint32(head[5:]):
		return 0, content, errChecksum
	}
	return head[0], content, nil
}

// appendAll appends what is left to read.
func appendAll(b []byte, r io.Reader) ([]byte, error) {
	const step = 1 << 12
	for {
		if cap(b)-len(b) < step {
			b = append(b, make([]byte, max(step, len(b)/2))...)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// parseHeader reads the header. Keys that a later version adds are none of ours.
func parseHeader(content []byte) (Header, error) {
	var h Header
	if len(content) > maxHeader {
		return h, errors.New("the header is larger than any")
	}
	if err := json.Unmarshal(content, &h); err != nil {
		return h, fmt.Errorf("the header: %w", err)
	}
	if h.Precision < 0 || h.Precision > time.Minute {
		return h, fmt.Errorf("the header: a precision of %v", h.Precision)
	}
	return h, nil
}

// StateNames lists states, as Header has them.
func StateNames(set ssfilter.StateSet) string {
	if set == ssfilter.AllStates {
		return "all"
	}
	var names []string
	for _, s := range set.States() {
		names = append(names, s.String())
	}
	return strings.Join(names, " ")
}

func (p Process) compare(q Process) int {
	return cmp.Or(cmp.Compare(p.PID, q.PID), cmp.Compare(p.Start, q.Start))
}
