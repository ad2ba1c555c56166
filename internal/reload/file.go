package reload

import (
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/sockdog/sockdog/internal/readfile"
)

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

// read reads the file at path, whole or not at all.
func read(path string) (f File) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return File{Err: fmt.Errorf("read %s: it is a directory; all rules stand in one file: name that", path)}
	}
	f.Data, f.Err = readfile.Regular(path)
	return f
}
