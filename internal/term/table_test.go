package term

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestShort(t *testing.T) {
	tests := map[time.Duration]string{
		0:                             "0s",
		9 * time.Millisecond:          "0s",
		19 * time.Millisecond:         "10ms",
		999 * time.Millisecond:        "990ms",
		time.Second:                   "1s",
		1509 * time.Millisecond:       "1.5s",
		1050 * time.Millisecond:       "1.05s",
		61999 * time.Millisecond:      "1m1s",
		time.Hour - 1:                 "59m59s",
		49*time.Hour + 59*time.Second: "49h0m",
	}
	for d, want := range tests {
		if got := Short(d); got != want {
			t.Errorf("Short(%v) = %q, want %q", d, got, want)
		}
	}
}

// TestShortIsTrue: people who know Go's durations read them, and it is never longer.
func TestShortIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(100*24*time.Hour)).Draw(t, "d"))
		step := 10 * time.Millisecond
		switch {
		case d >= time.Hour:
			step = time.Minute
		case d >= time.Minute:
			step = time.Second
		}
		said, err := time.ParseDuration(Short(d))
		if err != nil || said > d || d-said >= step {
			t.Errorf("Short(%v) = %q, %v", d, Short(d), err)
		}
	})
}

func TestTable(t *testing.T) {
	header := []string{"A", "SPARE", "MIDDLE", "LAST"}
	rows := [][]string{
		{"1", "spared", "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:443", "a reason that takes more than one line"},
		{"22", "-", "10.0.0.2:5432", "-"},
	}
	for _, test := range []struct {
		name   string
		header []string
		rows   [][]string
		cells  int
		want   string
	}{
		{"no bound", header, rows, 0, `
A   SPARE   MIDDLE                                     LAST
1   spared  [2001:db8:aaaa:bbbb:cccc:dddd:eeee:1]:443  a reason that takes more than one line
22  -       10.0.0.2:5432                              -
`},
		{"no headings", nil, rows[1:], 0, `
22  -  10.0.0.2:5432  -
`},
		{"it fits with less", header, rows, 70, `
A   SPARE   MIDDLE                        LAST
1   spared  [2001:db8:aaa…dd:eeee:1]:443  a reason that takes more
                                          than one line
22  -       10.0.0.2:5432                 -
`},
		{"it fits without", header, rows, 48, `
A   MIDDLE                 LAST
1   [2001:db8:…eee:1]:443  a reason that takes
                           more than one line
22  10.0.0.2:5432          -
`},
		{"it cannot fit", header, rows[1:], 10, `
A   SPARE  MIDDLE         LAST
22  -      10.0.0.2:5432  -
`},
		{"wide runes", nil, [][]string{{"漢字", "e\u0301", "≥5s", "-"}, {"1234", "-", "abc", "-"}}, 0, `
漢字  é  ≥5s  -
1234  -  abc  -
`},
		{"nothing", nil, nil, 80, "\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b strings.Builder
			table := NewTable(header...)
			table.Columns[1].Spare, table.Bare, table.Wraps = 1, test.header == nil, true
			for _, row := range test.rows {
				table.Row(row...)
			}
			if err := table.Print(&b, test.cells); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, "\n"+b.String()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWrap: all words are there, in lines that fit.
func TestWrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.StringMatching(`[a-zé漢]{1,12}`)).Draw(t, "words"), " ")
		cells := rapid.IntRange(2, 30).Draw(t, "cells")
		lines := Wrap(text, cells)
		for _, line := range lines {
			if Width(line) > cells {
				t.Errorf("%q is longer than %d cells", line, cells)
			}
		}
		squeezed := func(s string) string { return strings.ReplaceAll(s, " ", "") }
		if got := squeezed(strings.Join(lines, "")); got != squeezed(text) {
			t.Errorf("%q of %q", got, text)
		}
	})
}

// A process may call itself what it likes: no table lets it govern the terminal.
func TestTablesAreHarmless(t *testing.T) {
	var out strings.Builder
	table := NewTable("", "")
	table.Bare = true
	table.Row("a\x1b[31mEVIL\a", "\u202egnp\nkill")
	if err := table.Print(&out, 0); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "a\ufffd[31mEVIL\ufffd  \ufffdgnp\ufffdkill\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
