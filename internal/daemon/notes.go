package daemon

import (
	"log/slog"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
)

// note is a line for the log about sockdog itself.
type note struct {
	level slog.Level
	text  string
}

// notes are what the engine's notes say to people.
var notes = map[engine.NoteKind]note{
	engine.ScanFailed:       {level: slog.LevelWarn, text: "socket table scan failed; retrying"},
	engine.ScansSucceed:     {level: slog.LevelInfo, text: "socket table scans succeed again"},
	engine.LookupFailed:     {level: slog.LevelWarn, text: "socket lookup failed; retrying"},
	engine.IntervalStretch:  {level: slog.LevelWarn, text: "scan interval stretched by cpu_budget; new sockets may be found late"},
	engine.IntervalAsWanted: {level: slog.LevelInfo, text: "scan interval is as wanted again"},
	engine.TooManySockets:   {level: slog.LevelWarn, text: "too many sockets for the memory limit; the oldest are watched first"},
	engine.AllSocketsFit:    {level: slog.LevelInfo, text: "all sockets that rules want are watched again"},
	engine.TooManyGroups:    {level: slog.LevelWarn, text: "the rule has too many groups; sockets beyond are not counted"},
	engine.MoreTransitions:  {level: slog.LevelWarn, text: "more groups changed at once than are logged one by one"},
	engine.NoTimeWaitCount:  {level: slog.LevelWarn, text: "counter of timewait sockets unreadable; rules that need it wait"},
	engine.PortsUnknown:     {level: slog.LevelWarn, text: "local port range unreadable; rules on port_usage wait"},
	engine.NotMeasured:      {level: slog.LevelWarn, text: "what a rule measures is not known here; the rule waits (docs/alerts.md)"},
	engine.HoldersUnseen:    {level: slog.LevelWarn, text: "who holds some sockets cannot be seen; the rule waits for it"},
	engine.HoldersSeen:      {level: slog.LevelInfo, text: "who holds the sockets is seen again"},
	engine.WalkHangs:        {level: slog.LevelError, text: "a walk through /proc takes long; holders of new sockets are unknown"},
	engine.WalkEnded:        {level: slog.LevelInfo, text: "the walk through /proc has ended"},
	engine.StillOpen:        {level: slog.LevelWarn, text: "the program still holds descriptors of sockets killed ten seconds ago"},
	engine.SpinBegan:        {level: slog.LevelError, text: "kills made a program spin; the rule leaves it alone for now"},
	engine.SpinOver:         {level: slog.LevelInfo, text: "the program is quiet again; the rule goes on killing its sockets"},
	engine.CanaryPassed:     {level: slog.LevelInfo, text: "the first kills did the program no harm; the rule goes on"},
	engine.CanaryEnded:      {level: slog.LevelWarn, text: "the program ended soon after its first kills"},
	engine.CanaryUntold:     {level: slog.LevelWarn, text: "what kills do to a program is unseen; the rule goes slowly"},
	engine.TooManyMatches:   {level: slog.LevelError, text: "the rule means more sockets than max_matches; it kills none"},
	engine.FewMatches:       {level: slog.LevelWarn, text: "the rule means fewer sockets again, and acts"},
	engine.LeakReturns:      {level: slog.LevelError, text: "the leak comes back again and again; killing is not the cure"},
	engine.RuleStopped:      {level: slog.LevelError, text: "the rule stopped itself; its kills do harm (docs/rules.md)"},
	engine.RuleGoesOn:       {level: slog.LevelWarn, text: "the rule was reset and acts again"},
	engine.ActionOff:        {level: slog.LevelError, text: "the action is switched off for good; sockdog doctor says why"},
	engine.WayChanged:       {level: slog.LevelWarn, text: "the action goes another way for good; sockdog doctor says why"},
}

// notesOf puts what the engine notes into words.
func notesOf(said []engine.Note, at time.Time) []slog.Record {
	lines := make([]slog.Record, len(said))
	for i, n := range said {
		lines[i] = logLine(at, notes[n.Kind].level, notes[n.Kind].text, n.Values)
	}
	return lines
}
