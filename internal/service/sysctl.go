package service

import (
	"context"
	"log/slog"
	"runtime"
	"strconv"
	"time"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/internal/state"
	"github.com/sockdog/sockdog/internal/sysctl"
	"github.com/sockdog/sockdog/rules"
)

// keepSysctls has the daemon set settings, and puts back what an earlier run has left.
func keepSysctls(h *host.Host, source *node.Source, kept *state.State, log *slog.Logger, o *daemon.Options) {
	origin, _ := h.Origin() // without the boot nothing is found again
	settings := sysctl.New(source, host.ProcRoot+"/sys", origin.BootID, nil)
	if kept != nil && kept.Dir != nil {
		settings = sysctl.New(source, host.ProcRoot+"/sys", origin.BootID, kept.Dir)
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked: its capability ends with the thread
			putBack(settings, kept.Journal, log)
		}()
		<-done
	}
	o.Sysctls = settings
}

// putBack puts back what an earlier run has left changed, on the record.
func putBack(settings *sysctl.Settings, j *journal.Journal, log *slog.Logger) {
	left, err := settings.Left()
	if err != nil {
		log.Error("what sysctls were before a crash cannot be read", "error", err.Error())
	}
	for i := range left {
		c := &left[i]
		records := []journal.Record{{
			Time: time.Now(), Rule: c.Rule, Action: rules.Sysctl.Name, Result: journal.Intent,
			Reason: "put back " + c.Name + " from " + c.New + " to " + c.Old + ": an earlier sockdog ended before", Group: map[string]string{},
		}}
		r := &records[0]
		if c.Netns != 0 {
			r.Netns = strconv.FormatUint(uint64(c.Netns), 10)
		}
		if j != nil {
			_ = j.Append(records) // the act is done all the same, and the daemon says what fails
		}
		found, err := settings.PutBackLeft(c)
		r.Time, r.Result, r.Reason = time.Now(), journal.Done, "an earlier sockdog left it set: "+found
		level := slog.LevelInfo
		if err != nil {
			r.Result, r.Reason, level = journal.Failed, "an earlier sockdog left it set: "+err.Error(), slog.LevelError
		}
		if j != nil {
			_ = j.Append(records)
		}
		log.LogAttrs(context.Background(), level, r.Words(), r.Attrs()...)
	}
}
