package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// isTerminal reports whether f is one: then people read it.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// screen is the size of a terminal, in cells; 0 where there is none, or where it
// does not tell.
type screen struct{ width, height int }

func screenOf(out io.Writer) screen {
	f, ok := out.(*os.File)
	if !ok {
		return screen{}
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return screen{}
	}
	return screen{int(size.Col), int(size.Row)}
}

// widen gives a pipe the most room that anybody may (pipe-max-size), so that who
// reads it is woken for many lines at once. What is no pipe, or may have no more,
// stays as it is.
func widen(out io.Writer) {
	if f, ok := out.(*os.File); ok {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, 1<<20)
	}
}
