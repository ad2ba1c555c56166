package term

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
)

// Count says how many there are of something: "1 socket", "2 sockets".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Short says a duration as people do, and never more than it is.
func Short(d time.Duration) string { return string(AppendShort(nil, d)) }

// AppendShort is Short without garbage.
func AppendShort(b []byte, d time.Duration) []byte {
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
