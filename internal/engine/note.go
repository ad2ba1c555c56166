package engine

import "log/slog"

// Note is something about the watchdog itself that belongs into the log. What it
// says to people is for who writes that.
type Note struct {
	Kind   NoteKind
	Values []slog.Attr
}

// NoteKind is what a note is about.
type NoteKind string

// The kinds of notes.
const (
	ScanFailed       NoteKind = "scan_failed"
	ScansSucceed     NoteKind = "scans_succeed"
	LookupFailed     NoteKind = "lookup_failed"
	IntervalStretch  NoteKind = "interval_stretched"
	IntervalAsWanted NoteKind = "interval_as_wanted"
	TooManySockets   NoteKind = "too_many_sockets"
	AllSocketsFit    NoteKind = "all_sockets_fit"
	TooManyGroups    NoteKind = "too_many_groups"
	MoreTransitions  NoteKind = "more_transitions"
	NoTimeWaitCount  NoteKind = "no_timewait_count"
	PortsUnknown     NoteKind = "ports_unknown"
	NotMeasured      NoteKind = "not_measured"
	HoldersUnseen    NoteKind = "holders_unseen"
	HoldersSeen      NoteKind = "holders_seen"
	WalkHangs        NoteKind = "walk_hangs"
	WalkEnded        NoteKind = "walk_ended"
	StillOpen        NoteKind = "still_open"
	SpinBegan        NoteKind = "spin_began"
	SpinOver         NoteKind = "spin_over"
	CanaryPassed     NoteKind = "canary_passed"
	CanaryEnded      NoteKind = "canary_ended"
	CanaryUntold     NoteKind = "canary_untold"
	TooManyMatches   NoteKind = "too_many_matches"
	FewMatches       NoteKind = "few_matches"
	LeakReturns      NoteKind = "leak_returns"
	RuleStopped      NoteKind = "rule_stopped"
	RuleGoesOn       NoteKind = "rule_goes_on"
	ActionOff        NoteKind = "action_off"
	WayChanged       NoteKind = "way_changed"
)

func (e *Engine) note(kind NoteKind, values ...slog.Attr) {
	e.plan.Notes = append(e.plan.Notes, Note{kind, values})
}
