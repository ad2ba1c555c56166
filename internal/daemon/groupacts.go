package daemon

import (
	"encoding/json"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Intend has the record of an action on a group written before it is done.
func (d *watch) Intend(a engine.GroupAction) {
	d.workers.running.Go(func() {
		d.recorder.IntendGroup(&a, engine.RecordTimeout, d.groupRecord)
		d.workers.send(engine.GroupIntended{Act: a})
	})
}

// ActOn has an action on a group done, on a goroutine of its own: whatever it does, no other
// action waits for it.
func (d *watch) ActOn(a engine.GroupAction) {
	runner, ruled := d.runner, d.rulesChanged.Load()
	runner.Recheck = func(a *engine.GroupAction) (match.Reason, error) {
		why, err := d.recheck(a)
		switch { // what came while all this was read
		case err != nil:
			return "", err
		case d.paused.Load():
			return match.Paused, nil
		case d.rulesChanged.Load() != ruled:
			return match.NewRules, nil
		}
		return why, nil
	}
	d.workers.running.Go(func() {
		// The thread may be given capabilities, and ends with the goroutine.
		runtime.LockOSThread()
		d.workers.send(runner.Run(d.runs, &a))
	})
}

// Undo has put back what an action on a group did. It is told to stop with the watchdog, and
// so waits for no disk then: what was stands in the state directory since before it was done.
func (d *watch) Undo(a engine.GroupAction) {
	patience := engine.RecordTimeout
	if d.end != 0 {
		patience = undoPatience
	}
	d.workers.running.Go(func() {
		runtime.LockOSThread()
		d.recorder.IntendGroup(&a, patience, d.groupRecord)
		d.workers.send(d.runner.Undo(&a))
	})
}

// undoPatience is how long it waits for the record of its intent when the watchdog stops.
const undoPatience = 200 * time.Millisecond

// recheck looks once more at the process that a group is of: what it holds now, and all
// those sockets as they are.
func (d *watch) recheck(a *engine.GroupAction) (match.Reason, error) {
	sockets, err := d.ReadSockets(a.Process.PID)
	if err != nil {
		return "", err
	}
	found := d.findHolders(set(slices.Collect(maps.Keys(sockets))))
	if found.Err != nil {
		return "", found.Err
	}
	scanner, err := d.readers.OpenScanner()
	if err != nil {
		return "", err
	}
	defer scanner.Close()
	count := a.Recount(&found)
	take := func(s *sock.Socket, _ sock.Instant) {
		if _, holds := sockets[s.Inode]; holds {
			count.Take(s)
		}
	}
	if err := scanner.Scan(sock.Query{States: ssfilter.AllStates, Known: sock.Now}, take); err != nil {
		return "", err
	}
	return count.Judge(), nil
}

func (d *watch) groupRecord(a *engine.GroupAction, at time.Time) journal.Record {
	return groupRecordOf(a, d.NetnsName, d.Netns, at)
}

// event tells a program of a group that fires: as the line that the log has of it, and in
// variables, both with the name of this host, as alerts have it.
func (d *watch) event(a *engine.GroupAction) (text []byte, environment []string) {
	r := d.groupRecord(a, time.Now())
	r.Result = journal.Firing
	text, _ = r.MarshalJSON() // it has no error
	host, _ := json.Marshal(d.Host)
	text = append(text[:len(text)-1], `,"instance":`...)
	text = append(append(text, host...), "}\n"...)

	attrs := append(r.Attrs(), slog.Time("time", r.Time), slog.String("instance", d.Host))
	for _, attr := range attrs {
		environment = appendVariable(environment, "SOCKDOG", attr)
	}
	return text, environment
}

// appendVariable appends a variable with the name of an attribute, or those of its members.
func appendVariable(environment []string, prefix string, a slog.Attr) []string {
	name := prefix + "_" + strings.ToUpper(a.Key)
	switch a.Value.Kind() {
	case slog.KindGroup:
		for _, member := range a.Value.Group() {
			environment = appendVariable(environment, name, member)
		}
		return environment
	case slog.KindTime:
		return append(environment, name+"="+a.Value.Time().UTC().Format(time.RFC3339Nano))
	default:
		return append(environment, name+"="+strings.ReplaceAll(a.Value.String(), "\x00", ""))
	}
}
