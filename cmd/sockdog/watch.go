package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"
)

// watchShare is how many times as long as a scan took the next one waits at
// least: watching must not become the load that it scans for.
const watchShare = 20

// again scans and prints until a signal ends it.
func (l *listing) again(ctx context.Context, out, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second one ends it at once, even if nobody reads what it writes
	var text bytes.Buffer
	for first := true; ; first = false {
		began := time.Now()
		if err := l.scan(ctx, stderr); err != nil {
			return err
		}
		text.Reset()
		screen := screenOf(out)
		if err := l.print(&text, screen); err != nil {
			return err
		}
		wait := max(l.watch-time.Since(began), watchShare*time.Since(began))
		frame := text.Bytes()
		if l.output != "json" {
			frame = l.frame(began, frame, screen, first)
		}
		if _, err := out.Write(frame); err != nil {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// frame is what one scan prints: in place of the last on a terminal, below it
// elsewhere.
func (l *listing) frame(at time.Time, text []byte, screen screen, first bool) []byte {
	var b bytes.Buffer
	if screen.height == 0 {
		if !first {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s\n%s", at.Format(time.RFC3339), text)
		return b.Bytes()
	}
	// Autowrap is off within the frame: a line that is too long must not move the
	// others.
	const home, clearScreen, noWrap, wrap = "\x1b[H", "\x1b[2J", "\x1b[?7l", "\x1b[?7h"
	fmt.Fprintf(&b, "%s%s%s%s  %s\n", home, clearScreen, noWrap, at.Format(time.TimeOnly), count(l.crowd.size, "socket"))
	lines := bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	if room := max(screen.height-2, 1); len(lines) > room {
		more := fmt.Sprintf("… and %d more", len(lines)-(room-1))
		lines = append(lines[:room-1], []byte(more))
	}
	for _, line := range lines {
		b.Write(line)
	}
	b.WriteString("\n" + wrap)
	return b.Bytes()
}
