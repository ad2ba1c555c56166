package daemon

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// service is what the service manager's status line tells.
type service struct {
	ready   bool
	done    int // destructive actions
	scanned time.Duration
}

// aliveEvery is how often signs of life are given: to the service manager, where that does
// not want them more often, and to those who ask whether the loop turns.
const aliveEvery = 5 * time.Second

// beReady tells the service manager once that the daemon has begun.
func (d *watch) beReady() {
	if d.service.ready {
		return
	}
	d.service.ready = true
	d.publish()
	d.tellReady()
	d.log.say(slog.LevelInfo, "watching", d.whatWatches()...)
}

// tellReady tells those who wait for the daemon that it is ready, and with which rules.
func (d *watch) tellReady() {
	if d.Ready != nil {
		d.Ready(d.shown.file.Instead())
	}
	d.Notify("READY=1\nSTATUS=" + d.statusLine())
}

// statusLine is the service manager's.
func (d *watch) statusLine() string {
	text := fmt.Sprintf("%s, %s watched, %d killed, last scan took %s of CPU",
		number(len(d.rules.set.Rules), "rule"), number(d.engine.Watched(), "socket"), d.service.done, d.service.scanned.Round(10*time.Microsecond))
	if p := d.shown.paused; p != nil {
		text = "PAUSED, nothing is acted on: " + p.Words() + "; " + text
	}
	if d.shown.file.OK {
		return text
	}
	mistake, _, _ := strings.Cut(d.shown.file.Error, "\n")
	return "rules NOT in force: " + mistake + "; " + text
}

// reloading tells the service manager that the rules are read again.
func (d *watch) reloading() {
	var now unix.Timespec // 0 where it cannot be read
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	d.Notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}
