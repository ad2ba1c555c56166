package reload

import (
	"bytes"
	"fmt"
	"os"

	"github.com/sockdog/sockdog/internal/readfile"
)

// File is one reading of the file: its bytes, or why there are none.
type File struct {
	Data []byte
	Err  error
}

// same reports whether two readings say the same.
func (f File) same(g File) bool {
	return bytes.Equal(f.Data, g.Data) && fmt.Sprint(f.Err) == fmt.Sprint(g.Err)
}

// read reads the file at path, whole or not at all.
func read(path string) (f File) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return File{Err: fmt.Errorf("read %s: it is a directory; all rules stand in one file: name that", path)}
	}
	f.Data, f.Err = readfile.Regular(path)
	return f
}
