package message

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// unknown is the error that a name is none of those known.
type unknown struct {
	kind, where Phrase
	name        string
	known       []string
}

// Unknown says that a name is none of those known, and which of them is the nearest.
func Unknown(kind Phrase, name string, where Phrase, known []string) error {
	return unknown{kind, where, name, known}
}

func (u unknown) Error() string {
	word, _, several := strings.Cut(u.name, " ")
	said := Errorf("unknown %s %q in %s", u.kind, u.name, u.where).Error()
	switch near := Nearest(u.name, u.known); {
	case len(near) > 0:
		return said + ": did you mean " + string(Either(near)) + "?"
	case several && slices.Contains(u.known, word):
		return said + ": put a colon after " + word
	case len(u.known) == 0:
		return said + ": there are none"
	default:
		return fmt.Sprintf("%s: choose one of %s", said, List(u.known))
	}
}

// Either is names in quotes, of which one may be meant.
func Either(names []string) Phrase {
	quoted := make([]string, 0, len(names))
	for _, name := range names {
		quoted = append(quoted, strconv.Quote(name))
	}
	return Phrase(strings.Join(quoted, " or "))
}

// Nearest returns the names that a slip of the hand turns into what was written: those
// that are equally near, and none where none is near.
func Nearest(written string, names []string) []string {
	if len(written) > 64 {
		return nil
	}
	fold := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }
	written = fold(written)
	var best []string
	least := max(1, len(written)/3)
	for _, name := range names {
		folded := fold(name)
		part := len(written) >= 3 && (strings.HasPrefix(folded, written) || strings.HasSuffix(folded, written))
		if apart := len(written) - len(folded); !part && (apart > least || -apart > least) {
			continue
		}
		d := distance(written, folded)
		if part {
			d = min(d, 1)
		}
		if d < least {
			best, least = nil, d
		}
		if d == least {
			best = append(best, name)
		}
	}
	return best
}

// distance is the number of bytes to insert, remove, replace or swap with their
// neighbour to turn a into b (optimal string alignment).
func distance(a, b string) int {
	rows := make([]int, 3*(len(b)+1)) // two rows ago, one row ago, and this one
	before, last, row := rows[:len(b)+1], rows[len(b)+1:2*(len(b)+1)], rows[2*(len(b)+1):]
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
