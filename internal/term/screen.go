package term

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// Is reports whether f is a terminal: then people read it.
func Is(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// Screen is the size of a terminal, in cells; 0 where there is none, or where it
// does not tell.
type Screen struct{ Width, Height int }

// ScreenOf returns the size of what out leads to.
func ScreenOf(out io.Writer) Screen {
	f, ok := out.(*os.File)
	if !ok {
		return Screen{}
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return Screen{}
	}
	return Screen{width, height}
}

// Frame returns what shows a text in place of the last frame on a terminal, and below
// it elsewhere, under the time and, on a terminal, a title.
func (s Screen) Frame(at time.Time, title string, text []byte, first bool) []byte {
	var b bytes.Buffer
	if s.Height == 0 {
		if !first {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s\n%s", at.Format(time.RFC3339), text)
		return b.Bytes()
	}
	// Autowrap is off within the frame: a line that is too long must not move the
	// others.
	const home, clearScreen, noWrap, wrap = "\x1b[H", "\x1b[2J", "\x1b[?7l", "\x1b[?7h"
	fmt.Fprintf(&b, "%s%s%s%s  %s\n", home, clearScreen, noWrap, at.Format(time.TimeOnly), title)
	lines := bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	if room := max(s.Height-2, 1); len(lines) > room {
		more := fmt.Sprintf("… and %d more", len(lines)-(room-1))
		lines = append(lines[:room-1], []byte(more))
	}
	b.Write(bytes.Join(lines, nil))
	b.WriteString("\n" + wrap)
	return b.Bytes()
}
