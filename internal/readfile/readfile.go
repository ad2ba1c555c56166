// Package readfile reads a file that somebody named, and may have named wrongly.
package readfile

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// Most is far above any rules file or bundle of certificates, and bounds what a wrong
// path can cost.
const Most = 1 << 20

// Open opens the regular file at path, for who bounds what is read of it.
func Open(path string) (*os.File, error) {
	// Without O_NONBLOCK, opening a FIFO waits for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("read %s: it is not a regular file (%v)", path, info.Mode().Type())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Regular reads the regular file at path, whole or not at all.
func Regular(path string) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Bounded, because the size may be growing, or unknown as in /proc.
	data, err := io.ReadAll(io.LimitReader(f, Most+1))
	if err == nil && len(data) > Most {
		return nil, fmt.Errorf("read %s: it is larger than %d bytes; is it the right file?", path, Most)
	}
	return data, err
}
