package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// printTable prints rows in columns that keep their place. (text/tabwriter takes
// 12 ms for a thousand rows, a third of what the whole scan costs.) The header may
// be nil. Lines have so many cells at most, where that can be, 0 is no bound: the
// last column is wrapped, the middle of others left out, and those of spare
// altogether, one after the other. What would govern the terminal is replaced.
func printTable(out io.Writer, header []string, rows [][]string, cells int, spare ...int) error {
	if header != nil {
		rows = append([][]string{header}, rows...)
	}
	if len(rows) == 0 {
		return nil
	}
	last := len(rows[0]) - 1
	natural, narrows := make([]int, last+1), make([]bool, last+1)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = printable(cell)
			natural[i], narrows[i] = max(natural[i], utf8.RuneCountInString(row[i])), true
		}
	}
	l := layout{narrows: narrows, spare: spare}
	widths := l.fit(natural, cells)
	w := bufio.NewWriter(out)
	var line []byte
	for _, row := range rows {
		line = line[:0]
		for i, cell := range row[:last] {
			line = appendCell(line, cell, widths[i])
		}
		for n, part := range wrap(row[last], widths[last]) {
			if n == 1 {
				line = appendBlanks(line[:0], utf8.RuneCount(line))
			}
			w.Write(line)
			w.WriteString(part)
			w.WriteByte('\n')
		}
	}
	return w.Flush()
}

// appendCell appends a cell of a column that is so wide, and the gap after it.
func appendCell(b []byte, cell string, width int) []byte {
	switch cells := utf8.RuneCountInString(cell); {
	case width == hidden:
		return b
	case cells > width:
		return appendBlanks(appendElided(b, []byte(cell), width), gap)
	default:
		return appendBlanks(append(b, cell...), width-cells+gap)
	}
}

// printable keeps what stands in a process's name from governing the terminal.
func printable(text string) string { return string(appendPlain(nil, text)) }

// printJSON prints one array of objects.
func printJSON[T any](out io.Writer, objects []T) error {
	return printObjects(out, slices.Values(objects))
}

// printObjects prints one array of objects as they come: there may be several
// hundred thousand.
func printObjects[T any](out io.Writer, objects iter.Seq[T]) error {
	w := bufio.NewWriter(out)
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("  ", "  ")
	encoder.SetEscapeHTML(false) // who reads a condition wants its > to be one
	separator := "["
	for o := range objects {
		text.Reset()
		if err := encoder.Encode(o); err != nil {
			return err
		}
		w.WriteString(separator)
		w.WriteString("\n  ")
		w.Write(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
		separator = ","
	}
	if separator == "[" {
		w.WriteString("[]\n") // an empty array, not null
	} else {
		w.WriteString("\n]\n")
	}
	return w.Flush()
}

// short prints a duration as people say it, and never more than it is.
func short(d time.Duration) string { return string(appendShort(nil, d)) }

// appendShort is short without garbage.
func appendShort(b []byte, d time.Duration) []byte {
	whole := func(n time.Duration, unit byte) { b = append(strconv.AppendInt(b, int64(n), 10), unit) }
	switch {
	case d >= time.Hour:
		whole(d/time.Hour, 'h')
		whole(d%time.Hour/time.Minute, 'm')
	case d >= time.Minute:
		whole(d/time.Minute, 'm')
		whole(d%time.Minute/time.Second, 's')
	case d >= time.Second:
		b = strconv.AppendInt(b, int64(d/time.Second), 10)
		if hundredths := byte(d % time.Second / (10 * time.Millisecond)); hundredths != 0 {
			b = append(b, '.', '0'+hundredths/10)
			if hundredths%10 != 0 {
				b = append(b, '0'+hundredths%10)
			}
		}
		b = append(b, 's')
	case d >= 10*time.Millisecond:
		b = strconv.AppendInt(b, int64(d/(10*time.Millisecond)*10), 10)
		b = append(b, "ms"...)
	default:
		b = append(b, "0s"...)
	}
	return b
}

// checkOutput checks the value of -o.
func checkOutput(format string) error {
	if format != "table" && format != "json" {
		return usage{fmt.Errorf("-o is table or json, not %q", format)}
	}
	return nil
}
