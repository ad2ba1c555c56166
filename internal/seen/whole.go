package seen

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/sockdog/sockdog/internal/statedir"
)

// replace writes a file anew. Until that is done, and after an error, the old one stands.
func replace(dir *statedir.Dir, name string, text []byte) error {
	gone := dir.Check()
	f, err := dir.Replace(name, 0, func(f *os.File) error {
		_, err := f.Write(text)
		return err
	})
	f.Close() // nil is closed, too
	return errors.Join(gone, err)
}

// load has such a file parsed, if it is there, of no more than that many bytes. An error says that
// there is something, and that it cannot be read as a whole.
func load[T any](dir *statedir.Dir, name string, most int64, parse func(text []byte) ([]T, error)) ([]T, error) {
	f, err := dir.OpenFile(name, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// One byte more than counts, so that what is too long is not whole.
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	return parse(text)
}
