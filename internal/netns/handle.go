package netns

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

const fileIDNsfs = 0xf1 // FILEID_NSFS

// Open opens a namespace that is known by its numbers, whether or not a process is in
// it: by its handle (struct nsfs_file_handle), through any open namespace. The error is
// unix.ESTALE where there is none with both numbers, or CAP_SYS_ADMIN does not reach it:
// the kernel makes no difference. Kernels before 6.18 open none, and say the same, or
// unix.EPERM.
func (n *Namespace) Open(cookie uint64, inode uint32) (*Namespace, error) {
	if n.file == nil {
		return nil, fmt.Errorf("open network namespace %d: /proc shows none to begin with: %w", inode, unix.EOPNOTSUPP)
	}
	handle := make([]byte, 0, 16)
	handle = binary.NativeEndian.AppendUint64(handle, cookie)
	handle = binary.NativeEndian.AppendUint32(handle, unix.CLONE_NEWNET)
	handle = binary.NativeEndian.AppendUint32(handle, inode)
	var fd int
	var refused error
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer raise()()
	err := n.control(func(mount int) {
		fd, refused = unix.OpenByHandleAt(mount, unix.NewFileHandle(fileIDNsfs, handle), unix.O_RDONLY|unix.O_CLOEXEC)
	})
	if err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, fmt.Errorf("open network namespace %d by its handle: %w", inode, refused)
	}
	file, opened, err := newFile(fd)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %d by its handle: %w", inode, err)
	}
	return &Namespace{Inode: opened, Cookie: cookie, file: file}, nil
}
