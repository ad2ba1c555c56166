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

// Regular reads the regular file at path, whole or not at all.
func Regular(path string) ([]byte, error) {
	// Without O_NONBLOCK, opening a FIFO waits for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: it is not a regular file (%v)", path, info.Mode().Type())
	}
	// Bounded, because the size may be growing, or unknown as in /proc.
	data, err := io.ReadAll(io.LimitReader(f, Most+1))
	if err == nil && len(data) > Most {
		return nil, fmt.Errorf("read %s: it is larger than %d bytes; is it the right file?", path, Most)
	}
	return data, err
}
