package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/events"
)

// fewFiles is how many open files a host may have for a walk of /proc to be over before an
// eBPF program is loaded: 50 ms, at some 4 µs for each descriptor.
const fewFiles = 15_000

// errFew says that a walk is quicker.
var errFew = errors.New("the host has so few open files that /proc is read sooner")

// holderPass is a holders.Pass.
type holderPass = func(inodes []uint32, each func(inode uint32, h sock.Holder)) error

// HolderPass is ExactHolderPass for who can do with less: where the host has few open files, it is
// an error, and /proc is to be walked; only once if exact.
func HolderPass(exact bool) holderPass {
	pass, few := ExactHolderPass(), false
	return func(inodes []uint32, each func(inode uint32, h sock.Holder)) error {
		if files, err := openFiles(); !(exact && few) && (err != nil || files < fewFiles) {
			few = true
			return errors.Join(errFew, err)
		}
		return pass(inodes, each)
	}
}

// ExactHolderPass returns a holders.Pass for commands. It loads the program when it is first used,
// and never closes it: the command ends. It is an error where eBPF cannot be had.
func ExactHolderPass() holderPass { return passOf(sync.OnceValues(events.LoadOwners)) }

// LoadedHolderPass is ExactHolderPass for who cannot wait later: it loads the program at once, which
// takes longer than a scan.
func LoadedHolderPass() holderPass {
	programs, err := events.LoadOwners()
	return passOf(func() (*events.Programs, error) { return programs, err })
}

func passOf(load func() (*events.Programs, error)) holderPass {
	return func(inodes []uint32, each func(inode uint32, h sock.Holder)) error {
		programs, err := load()
		if err != nil {
			return err
		}
		owners, err := programs.Owners(inodes)
		for i := range owners {
			each(owners[i].Inode, owners[i].Holder)
		}
		return err
	}
}

// openFiles reads how many open files the host has: the first number in file-nr
// (proc_sys_fs(5)). Descriptors of one file count once.
func openFiles() (n int, err error) {
	text, err := os.ReadFile(filepath.Join(ProcRoot, "sys/fs/file-nr"))
	if err == nil {
		_, err = fmt.Sscan(string(text), &n)
	}
	return n, err
}
