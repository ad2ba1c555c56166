package events

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/sock"
)

// Owner is a process that has a descriptor of a socket.
type Owner struct {
	sock.Holder // but Exe
	Inode       uint32
}

// descriptor is struct owner of bpf/events.bpf.c.
type descriptor struct {
	inode, start uint64
	pid, _       uint32
	comm         [16]byte
}

// askedPlaces is how many sockets can be asked for in one pass.
const askedPlaces = 65536

// Owners finds who holds the sockets with these inodes, by passes over the descriptors of all
// processes of the host: one for each 65,536 inodes. A process that has several descriptors of
// one is named for each. What waits in an accept queue or is on its way to another process has
// no owner, nor has what its program closed. It takes CAP_PERFMON and BTF to load, and Linux
// 6.1.
func (p *Programs) Owners(inodes []uint32) ([]Owner, error) {
	inodes = slices.Compact(slices.Sorted(slices.Values(inodes)))
	var found []Owner
	for some := range slices.Chunk(inodes, askedPlaces) {
		err := p.ask(some, func(o *Owner) {
			// A pass that failed may have left others in the map.
			if _, asked := slices.BinarySearch(some, o.Inode); asked {
				found = append(found, *o)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("find the owners of sockets: %w", err)
		}
	}
	return found, nil
}

// ask makes one pass.
func (p *Programs) ask(inodes []uint32, each func(*Owner)) error {
	if p.whyOwners != nil {
		return p.whyOwners
	}
	p.asking.Lock()
	defer p.asking.Unlock()
	keys, values := make([]uint64, len(inodes)), make([]uint8, len(inodes))
	for i, inode := range inodes {
		keys[i] = uint64(inode)
	}
	batch := func(command uintptr, values pointer) error {
		return p.use(func(fds *descriptors) error {
			_, err := bpf(command, &mapBatch{keys: to(&keys[0]), values: values, count: uint32(len(keys)), fd: uint32(fds.asked)})
			return err
		})
	}
	if err := batch(unix.BPF_MAP_UPDATE_BATCH, to(&values[0])); err != nil {
		_ = batch(unix.BPF_MAP_DELETE_BATCH, nil) // those that it took, up to the first that it did not
		return err
	}
	err := p.read(func(fds *descriptors) int { return fds.owners }, int(unsafe.Sizeof(descriptor{})), func(record []byte) {
		var d descriptor
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&d)), len(record)), record)
		o := p.owner(&d)
		each(&o)
	})
	return errors.Join(err, batch(unix.BPF_MAP_DELETE_BATCH, nil))
}

func (p *Programs) owner(d *descriptor) Owner {
	comm, _, _ := strings.Cut(string(d.comm[:]), "\x00")
	return Owner{
		Holder: sock.Holder{PID: int(d.pid), Start: clockTicks(time.Duration(d.start) + p.bootOffset), Comm: comm},
		Inode:  uint32(d.inode),
	}
}

// clockTicks is how /proc/PID/stat shows a time since boot: 100 a second on all machines that
// Linux is built for but Alpha.
func clockTicks(d time.Duration) uint64 { return uint64(d / (time.Second / 100)) }
