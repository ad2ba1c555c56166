package term

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
)

// Count says how many there are of something: "1 socket", "2 sockets".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Short says a duration as people do, and never more than it is.
func Short(d time.Duration) string {
	switch {
	case d >= time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	case d >= time.Minute:
		return d.Truncate(time.Second).String()
	default:
		return d.Truncate(10 * time.Millisecond).String()
	}
}

// JSON prints one array of objects, each as it comes: there may be several hundred
// thousand.
func JSON[T any](out io.Writer, objects iter.Seq[T]) error {
	w := bufio.NewWriter(out)
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("  ", "  ")
	encoder.SetEscapeHTML(false)  // who reads a condition wants its > to be one
	separator, end := "[", "[]\n" // an empty array, not null
	for o := range objects {
		text.Reset()
		if err := encoder.Encode(o); err != nil {
			return err
		}
		w.WriteString(separator + "\n  ")
		w.Write(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
		separator, end = ",", "\n]\n"
	}
	w.WriteString(end)
	return w.Flush()
}

// JSONOf is JSON of a slice.
func JSONOf[T any](out io.Writer, objects []T) error { return JSON(out, slices.Values(objects)) }
