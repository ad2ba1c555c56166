// Package term fits text into the cells of a terminal: words into lines, rows into
// columns, a frame into the screen. It knows nothing of sockets.
package term

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// Printable replaces what would govern a terminal: a process may call itself what it
// likes.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, text)
}

// Width returns how many cells a printable text takes.
func Width(text string) int {
	cells := 0
	for _, r := range text {
		cells += runeWidth(r)
	}
	return cells
}

func runeWidth(r rune) int {
	switch {
	case r < utf8.RuneSelf:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0 // it joins the rune before it
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	default:
		return 1
	}
}

// prefix returns how many bytes of a text fit into so many cells.
func prefix(text string, cells int) int {
	for i, r := range text {
		if cells -= runeWidth(r); cells < 0 {
			return i
		}
	}
	return len(text)
}

// suffix returns where the longest end of a text begins that fits into so many cells.
func suffix(text string, cells int) int {
	left := Width(text)
	for i, r := range text {
		if left <= cells {
			return i
		}
		left -= runeWidth(r)
	}
	return len(text)
}

// elide leaves out the middle of a text: the beginning and the end of an address tell
// more.
func elide(text string, cells int) string {
	head := prefix(text, (cells-1)/2)
	return text[:head] + "…" + text[suffix(text, cells-1-Width(text[:head])):]
}

// Wrap parts a text into lines of so many cells, between words where it can; 0 is
// no bound.
func Wrap(text string, cells int) []string {
	var lines []string
	for cells > 0 && Width(text) > cells {
		_, first := utf8.DecodeRuneInString(text)
		end := max(prefix(text, cells), first)
		next := end
		if space := strings.LastIndexByte(text[:end+1], ' '); space > 0 {
			end, next = space, space+1
		}
		lines = append(lines, text[:end])
		text = text[next:]
	}
	return append(lines, text)
}
