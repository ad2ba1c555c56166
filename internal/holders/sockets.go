package holders

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ReadStart reads when a process under root, a mounted proc(5), was started, in clock ticks
// after boot: with its PID, that names one life of a process. It takes no privilege.
func ReadStart(root string, pid int) (uint64, error) {
	path := filepath.Join(root, strconv.Itoa(pid), "stat")
	s, err := readStat(unix.AT_FDCWD, path)
	if err != nil {
		return 0, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return s.number(22)
}

// ReadSockets reads which descriptors of a process under root are sockets, and of which
// inode. What the process opens or closes meanwhile may be missing.
func ReadSockets(root string, pid int) (map[uint32][]int, error) {
	dir, err := openDir(unix.AT_FDCWD, filepath.Join(root, strconv.Itoa(pid), "fd"))
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	sockets := make(map[uint32][]int)
	var link [64]byte
	err = new(lister).eachNumber(dir, func(fd int, name []byte) error {
		n, err := readlinkat(dir, name, link[:])
		if err != nil {
			return unlessGone(err) // it was closed meanwhile
		}
		if inode, is := socketInode(link[:n]); is {
			sockets[inode] = append(sockets[inode], fd)
		}
		return nil
	})
	return sockets, err
}
