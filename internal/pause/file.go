package pause

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/sockdog/sockdog/internal/statedir"
	"github.com/sockdog/sockdog/internal/status"
)

// FileName is the file of the state directory that pauses all acting for as long as it
// stands there. It is for people, too: whatever root or the user of the directory puts
// there, empty or not, pauses. What it says is the reason, but for the lines
//
//	until: 2026-11-30T12:00:00Z
//	by: uid 0
//
// of which the first ends the pause, and the second says who began it, where that is not
// the owner of the file.
const FileName = "paused"

const (
	untilKey, byKey = "until: ", "by: "

	// mostRead bounds what is read of the file, and mostReason the reason, in characters.
	mostRead   = 4096
	mostReason = 200
)

// noReason stands where nobody said why.
const noReason = "no reason was given"

// Reason makes one printable line of a reason: it goes to the log, to terminals and to
// the service manager, for which a line break ends what it is told.
func Reason(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, " "))
	words := []rune(strings.Join(strings.Fields(text), " "))
	if len(words) > mostReason {
		words = append(words[:mostReason-1], '…')
	}
	if len(words) == 0 {
		return noReason
	}
	return string(words)
}

// Read reads what the file in a directory says, if it stands there; else nil. An error
// says that this cannot be told.
func Read(dir *statedir.Dir) (*status.Pause, error) {
	uid, at, err := dir.Stands(FileName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := &status.Pause{By: Who(uid), Since: at, File: filepath.Join(dir.Path(), FileName)}
	text, err := readText(dir)
	if err != nil {
		// That it stands there is enough: who is in a hurry must not fail by its mode.
		p.Reason = Reason("what the file says cannot be read: " + err.Error())
		return p, nil
	}
	parse(p, text)
	return p, nil
}

func readText(dir *statedir.Dir) ([]byte, error) {
	f, err := dir.OpenFile(FileName, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, mostRead))
}

// parse takes in what the file says. A line that is no key of ours is of the reason, and
// so is one whose value is none: the pause then does not end by itself.
func parse(p *status.Pause, text []byte) {
	var reason []string
	for line := range bytes.Lines(text) {
		words := strings.TrimSpace(string(line))
		if until, is := strings.CutPrefix(words, untilKey); is {
			if at, err := time.Parse(time.RFC3339, strings.TrimSpace(until)); err == nil {
				p.Until = at
				continue
			}
		}
		if by, is := strings.CutPrefix(words, byKey); is {
			p.By = Reason(by)
			continue
		}
		reason = append(reason, words)
	}
	p.Reason = Reason(strings.Join(reason, " "))
}

// Write has the file in a directory say that all acting is paused.
func Write(dir *statedir.Dir, p *status.Pause) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%s%s\n", Reason(p.Reason), byKey, p.By)
	if !p.Until.IsZero() {
		fmt.Fprintf(&b, "%s%s\n", untilKey, p.Until.UTC().Format(time.RFC3339Nano))
	}
	f, err := dir.Replace(FileName, 0, func(f *os.File) error {
		if _, err := f.Write(b.Bytes()); err != nil {
			return err
		}
		return dir.Give(f)
	})
	f.Close() // nil is closed, too
	if err != nil {
		return err
	}
	return dir.Sync()
}

// Remove takes the file away, and reports whether it was there.
func Remove(dir *statedir.Dir) (was bool, err error) {
	err = dir.Remove(FileName)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, dir.Sync()
}

// Who is how a user is called that paused.
func Who(uid uint32) string { return fmt.Sprintf("uid %d", uid) }

// WriteIn has the file say so in the directory at path, where no daemon need run. It is for
// root and for the user whose directory it is.
func WriteIn(path string, p *status.Pause) error {
	dir, err := statedir.OpenToRead(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return Write(dir, p)
}

// RemoveIn takes the file away from there, and reports whether it was there.
func RemoveIn(path string) (was bool, err error) {
	dir, err := statedir.OpenToRead(path)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	return Remove(dir)
}
