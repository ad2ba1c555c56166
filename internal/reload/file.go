package reload

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"syscall"
)

// maxSize is far above any rules file, and bounds what a wrong path can cost.
const maxSize = 1 << 20

// File is one reading of the file: its bytes, or why there are none.
type File struct {
	Data []byte
	Err  error
}

// fingerprint is equal for two readings that say the same.
func (f File) fingerprint() string {
	if f.Err != nil {
		return f.Err.Error()
	}
	sum := sha256.Sum256(f.Data)
	return string(sum[:])
}

// read reads the regular file at path, whole or not at all.
func read(path string) File {
	data, err := readRegular(path)
	return File{Data: data, Err: err}
}

func readRegular(path string) ([]byte, error) {
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
	if info.IsDir() {
		return nil, fmt.Errorf("read %s: it is a directory; all rules stand in one file: name that", path)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file (%v); name the rules file itself", path, info.Mode().Type())
	}
	// Bounded, because the size may be growing, or unknown as in /proc.
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("read %s: larger than %d bytes; is it a rules file?", path, maxSize)
	}
	return data, nil
}
