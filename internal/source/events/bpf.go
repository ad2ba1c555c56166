package events

import (
	"errors"
	"fmt"
	"runtime"
	"structs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The commands of bpf(2) that are used once the programs are loaded. They are made here and
// not by a library: what the loader, which needs one, brings along must not stay in memory.
//
// Before Linux 5.19, where kernel.unprivileged_bpf_disabled is set, each of them needs
// CAP_BPF of the calling thread; since then a descriptor is enough. Reading from an iterator
// and closing a descriptor, which detaches a link, never need any.

// bpf calls bpf(2), again where a signal came in between. The kernel takes what attr is too
// short for as zero.
func bpf[T any](command uintptr, attr *T) (uintptr, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
		runtime.KeepAlive(attr)
		switch errno {
		case 0:
			return r, nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// pointer is an address in an attr, where it has 64 bits on every machine: on one of 32, attrs
// would need padding (Load refuses it).
type pointer = unsafe.Pointer

func to[T any](p *T) pointer { return pointer(p) }

// mapElem is the attr of BPF_MAP_LOOKUP_ELEM, _UPDATE_ELEM and _DELETE_ELEM.
type mapElem struct {
	_     structs.HostLayout
	fd    uint32
	_     uint32
	key   pointer
	value pointer
	flags uint64
}

// mapBatch is the attr of BPF_MAP_LOOKUP_BATCH, _UPDATE_BATCH and _DELETE_BATCH.
type mapBatch struct {
	_            structs.HostLayout
	in, out      pointer
	keys, values pointer
	count        uint32 // room, then how many there were
	fd           uint32
	_, _         uint64 // flags
}

type linkCreate struct {
	_                         structs.HostLayout
	prog, target, kind, flags uint32
}

// objInfo is the attr of BPF_OBJ_GET_INFO_BY_FD.
type objInfo struct {
	_        structs.HostLayout
	fd, size uint32
	info     pointer
}

// linkInfo is struct bpf_link_info of a link to a cgroup.
type linkInfo struct {
	_                    structs.HostLayout
	kind, id, program, _ uint32
	cgroup               uint64 // its id; 0: the link is detached (bpf_cgroup_link_fill_link_info)
}

type iterCreate struct {
	_           structs.HostLayout
	link, flags uint32
}

func lookup[K, V any](fd int, key *K, value *V) error {
	_, err := bpf(unix.BPF_MAP_LOOKUP_ELEM, &mapElem{fd: uint32(fd), key: to(key), value: to(value)})
	return err
}

func update[K, V any](fd int, key *K, value *V) error {
	_, err := bpf(unix.BPF_MAP_UPDATE_ELEM, &mapElem{fd: uint32(fd), key: to(key), value: to(value)})
	return err
}

func remove[K any](fd int, key *K) error {
	_, err := bpf(unix.BPF_MAP_DELETE_ELEM, &mapElem{fd: uint32(fd), key: to(key)})
	return err
}

// read makes a pass of an iterator and hands over the records that its program wrote, of that
// size each. The pass may wait in the kernel for the lock of a socket, for as long as it likes:
// it holds nothing that others wait for.
func (p *Programs) read(link func(*descriptors) int, size int, each func(record []byte)) error {
	var fd uintptr
	err := p.use(func(fds *descriptors) (err error) {
		fd, err = bpf(unix.BPF_ITER_CREATE, &iterCreate{link: uint32(link(fds))})
		return err
	})
	if err != nil {
		return fmt.Errorf("open the iterator: %w", err)
	}
	defer unix.Close(int(fd))
	piece := make([]byte, 64<<10)
	var rest []byte // of a record whose other part is in the next piece
	for {
		switch n, err := unix.Read(int(fd), piece); {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN): // EAGAIN: a million objects, and nothing written
		case err != nil:
			return fmt.Errorf("read the iterator: %w", err)
		case n == 0 && len(rest) > 0:
			return errors.New("the iterator ended within a record")
		case n == 0:
			return nil
		default:
			for rest = append(rest, piece[:n]...); len(rest) >= size; rest = rest[size:] {
				each(rest[:size])
			}
		}
	}
}
