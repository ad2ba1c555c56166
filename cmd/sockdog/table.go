package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// printTable prints rows in columns that keep their place.
func printTable(out io.Writer, header []string, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
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

// short prints a duration as people say it.
func short(d time.Duration) string {
	switch {
	case d >= time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	case d >= time.Minute:
		return d.Round(time.Second).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}

// checkOutput checks the value of -o.
func checkOutput(format string) error {
	if format != "table" && format != "json" {
		return usage{fmt.Errorf("-o is table or json, not %q", format)}
	}
	return nil
}
