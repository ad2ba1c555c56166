package e2e

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// lock has the program hold the lock of a socket for as long as it lives: it sends what
// lies in a page that nobody provides (userfaultfd(2)), and the kernel waits for the page
// with the lock held (tcp_sendmsg).
func (p *holder) lock(s nstest.Socket) error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return fmt.Errorf("userfaultfd: %w", errno)
	}
	api := struct{ api, features, ioctls uint64 }{api: 0xAA}
	if err := ioctl(fd, 0xc018aa3f, unsafe.Pointer(&api)); err != nil { // UFFDIO_API
		return err
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	start := uint64(uintptr(unsafe.Pointer(&page[0])))
	register := struct{ start, length, mode, ioctls uint64 }{start, 4096, 1, 0} // UFFDIO_REGISTER_MODE_MISSING
	if err := ioctl(fd, 0xc020aa00, unsafe.Pointer(&register)); err != nil {    // UFFDIO_REGISTER
		return err
	}
	go unix.Write(int(s), page[:100])
	// The kernel says when it waits for the page.
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if n, err := unix.Poll(poll, 1000); err == nil && n > 0 {
			return nil
		}
	}
	return fmt.Errorf("the program is not stopped in a page fault")
}

func ioctl(fd, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg)); errno != 0 {
		return fmt.Errorf("ioctl of userfaultfd: %w", errno)
	}
	return nil
}
