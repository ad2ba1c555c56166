package events

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Owner is a descriptor of a TCP socket, and the process that has it.
type Owner struct {
	sock.Holder // but Exe
	Cookie      uint64
	Inode       uint32
	Netns       uint32 // inode of the socket's network namespace
	FD          int
}

// descriptor is struct owner of bpf/events.bpf.c.
type descriptor struct {
	cookie, inode, start uint64
	pid, fd, netns, _    uint32
	comm                 [16]byte
}

// places is how many sockets can be asked for in one pass.
const askedPlaces = 65536

// Owners finds who holds the sockets, by passes over the descriptors of all processes of the
// host: one for each 65,536 cookies. What waits in an accept queue or is on its way to
// another process has no owner, nor has what its program closed. It takes CAP_PERFMON and BTF to load, and Linux 6.1.
func (p *Programs) Owners(cookies []uint64) ([]Owner, error) {
	cookies = slices.Compact(slices.Sorted(slices.Values(cookies)))
	var found []Owner
	for some := range slices.Chunk(cookies, askedPlaces) {
		err := p.ask(0, some, func(o *Owner) {
			// A pass that failed may have left others in the map.
			if _, asked := slices.BinarySearch(some, o.Cookie); asked {
				found = append(found, *o)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("find the owners of sockets: %w", err)
		}
	}
	return found, nil
}

// OwnersIn finds who holds the TCP sockets in those states, as Owners does, by one pass.
func (p *Programs) OwnersIn(states ssfilter.StateSet) ([]Owner, error) {
	if states == 0 {
		return nil, nil
	}
	var found []Owner
	if err := p.ask(states, nil, func(o *Owner) { found = append(found, *o) }); err != nil {
		return nil, fmt.Errorf("find the owners of sockets: %w", err)
	}
	return found, nil
}

// ask makes one pass, for the sockets in states, or for those with the cookies.
func (p *Programs) ask(states ssfilter.StateSet, cookies []uint64, each func(*Owner)) error {
	if p.whyOwners != nil {
		return p.whyOwners
	}
	p.pass.Lock()
	defer p.pass.Unlock()
	return p.use(func(fds *descriptors) error {
		var first uint32
		if err := update(fds.question, &first, &states); err != nil {
			return err
		}
		if len(cookies) > 0 {
			values := make([]uint8, len(cookies))
			attr := mapBatch{keys: to(&cookies[0]), values: to(&values[0]), count: uint32(len(cookies)), fd: uint32(fds.asked)}
			if _, err := bpf(unix.BPF_MAP_UPDATE_BATCH, &attr); err != nil {
				return err
			}
		}
		err := p.read(fds, each)
		if len(cookies) > 0 {
			attr := mapBatch{keys: to(&cookies[0]), count: uint32(len(cookies)), fd: uint32(fds.asked)}
			_, failed := bpf(unix.BPF_MAP_DELETE_BATCH, &attr)
			err = errors.Join(err, failed)
		}
		return err
	})
}

// read makes the pass.
func (p *Programs) read(fds *descriptors, each func(*Owner)) error {
	const size = int(unsafe.Sizeof(descriptor{}))
	var rest []byte // of a record whose other part is in the next piece
	err := readIter(fds.owners, make([]byte, 64<<10), func(piece []byte) {
		rest = append(rest, piece...)
		for ; len(rest) >= size; rest = rest[size:] {
			var d descriptor
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&d)), size), rest)
			o := p.owner(&d)
			each(&o)
		}
	})
	if err == nil && len(rest) > 0 {
		err = errors.New("the iterator ended within a record")
	}
	return err
}

func (p *Programs) owner(d *descriptor) Owner {
	comm, _, _ := strings.Cut(string(d.comm[:]), "\x00")
	return Owner{
		Holder: sock.Holder{PID: int(d.pid), Start: clockTicks(time.Duration(d.start) + p.bootOffset), Comm: comm},
		Cookie: d.cookie,
		Inode:  uint32(d.inode),
		Netns:  d.netns,
		FD:     int(d.fd),
	}
}

// clockTicks is how /proc/PID/stat shows a time since boot: 100 a second on all machines that
// Linux is built for but Alpha.
func clockTicks(d time.Duration) uint64 { return uint64(d / (time.Second / 100)) }

// bootOffset reads what a time namespace adds to CLOCK_BOOTTIME, as /proc/PID/stat does.
func bootOffset() (time.Duration, error) {
	file, err := os.Open("/proc/self/timens_offsets")
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil // a kernel without time namespaces
	}
	if err != nil {
		return 0, fmt.Errorf("time namespace offset: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var clock string
		var sec, nsec int64
		if n, _ := fmt.Sscan(lines.Text(), &clock, &sec, &nsec); n == 3 && (clock == "boottime" || clock == "7") {
			return time.Duration(sec)*time.Second + time.Duration(nsec), nil
		}
	}
	return 0, lines.Err()
}
