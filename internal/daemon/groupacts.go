package daemon

import (
	"encoding/json"
	"log/slog"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/journal"
)

// Intend has the record of an action on a group written before it is done.
func (d *watch) Intend(a engine.GroupAction) {
	d.workers.running.Go(func() {
		d.recorder.IntendGroup(&a, d.groupRecord)
		d.workers.send(engine.GroupIntended{Act: a})
	})
}

// ActOn has an action on a group done, on a goroutine of its own: whatever it does, no other
// action waits for it.
func (d *watch) ActOn(a engine.GroupAction) {
	d.workers.running.Go(func() { d.workers.send(d.runner.Run(d.runs, &a)) })
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
