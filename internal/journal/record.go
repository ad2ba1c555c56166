package journal

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Result is what became of an action.
type Result string

// The results.
const (
	Intent      Result = "intent" // about to act; the outcome follows under the same Seq
	Done        Result = "done"
	Gone        Result = "gone"        // it was gone already
	Changed     Result = "changed"     // it is not what was matched any more
	Held        Result = "held"        // limits hold so many back, by rule and minute
	Would       Result = "would"       // a dry run
	Failed      Result = "failed"      // the reason says why
	Unconfirmed Result = "unconfirmed" // asked for, and no answer came
	Interrupted Result = "interrupted" // sockdog ended between intent and outcome

	// Of a group of sockets:
	Pending  Result = "pending" // its rule's conditions hold, and not yet for long enough
	Firing   Result = "firing"
	Resolved Result = "resolved" // it was firing
	Quiet    Result = "quiet"    // it was pending

	// Of all acting:
	Paused  Result = "paused"
	Resumed Result = "resumed"
)

// Record is one action on one socket; or the new phase of a group of them or an action on
// it, of which there are only Group, Sockets and perhaps a process; or what limits held back
// of a rule since that was said last, of which there are only Sockets, LetGo and Waiting; or
// that all acting is paused or resumed, of which there is only the Reason. The names
// of its fields, here and in the log, are part of what sockdog promises. What is
// not known is left out: of the holder, and the uid of a socket without an inode,
// whose 0 means nothing.
type Record struct {
	Time   time.Time `json:"time"` // of the act, however late it is written
	Seq    uint64    `json:"seq"`  // joins an intent to its outcome, within one file; 0: neither
	Rule   string    `json:"rule"`
	Action string    `json:"action"`
	Result Result    `json:"result"`
	DryRun bool      `json:"dry_run"`
	Reason string    `json:"reason"`
	Via    string    `json:"via"`    // by which way the socket was reached; empty: by none
	Before string    `json:"before"` // what the action changed, as it was; empty: it tells by itself
	Netns  string    `json:"netns"`  // inode; empty: it is about several
	// NetnsName is the name that ip-netns(8) has for it; empty: none.
	NetnsName string `json:"netns_name"`

	Group   map[string]string `json:"group"` // nil: it is about a socket; empty: all sockets of the rule
	Sockets int               `json:"sockets"`
	LetGo   int               `json:"let_go"`        // of those held back: that ended by themselves, or are not due any more
	Waiting int               `json:"still_waiting"` // that are held back now
	Routine bool              `json:"-"`             // of those held back: a canary alone holds them, or nothing does any more

	Src        netip.AddrPort `json:"src"`
	Dst        netip.AddrPort `json:"dst"`
	State      string         `json:"state"` // as ss spells it
	InStateFor time.Duration  `json:"in_state_for"`
	IdleFor    time.Duration  `json:"idle_for"`
	SilentFor  time.Duration  `json:"silent_for"` // 0: a sockdog wrote it that did not tell
	Cookie     uint64         `json:"cookie"`
	Inode      uint32         `json:"inode"`
	UID        uint32         `json:"uid"`
	PID        int            `json:"pid"`
	Comm       string         `json:"comm"`
	Holders    Holders        `json:"holders"` // of several processes that hold it, MostHolders at most; nil: there are not several

	// Where that process belongs: the unit of systemd; the container, by its name in the pod
	// or the beginning of its id; the pod, as namespace/name or by its uid.
	Unit      string `json:"unit"`
	Container string `json:"container"`
	Pod       string `json:"pod"`
}

// Holders are processes that hold one socket.
type Holders []Holder

// Holder is one of them.
type Holder struct {
	PID  int    `json:"pid"`
	Comm string `json:"comm"`
}

// MostHolders bounds what a record tells of those: a socket may have come to hundreds by fork(2).
const MostHolders = 16

// MarshalJSON is as the journal has it.
func (h Holders) MarshalJSON() ([]byte, error) { return h.append(nil), nil }

// MarshalText is for the log that people read.
func (h Holders) MarshalText() (text []byte, err error) {
	for i, p := range h {
		if i > 0 {
			text = append(text, ' ')
		}
		text = fmt.Appendf(text, "%s[%d]", p.Comm, p.PID)
	}
	return text, nil
}

func (h Holders) append(b []byte) []byte {
	b = append(b, '[')
	for i, p := range h {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, `{"pid":`...), int64(p.PID), 10)
		b = append(appendText(append(b, `,"comm":`...), p.Comm), '}')
	}
	return append(b, ']')
}

// version is that of an intent, which the next sockdog gives its outcome where there
// is none. Intents from before there were versions say none, and are the same.
const version = 1

// timeLayout is RFC 3339 with all nine digits, so that lines sort as text.
const timeLayout = "2006-01-02T15:04:05.000000000Z07:00"

// resolution is that of the ages: the kernel counts them in jiffies.
const resolution = time.Millisecond

// Words says what became of the action as one reads it: "kill done", "would kill".
func (r *Record) Words() string {
	switch r.Result {
	case Paused, Resumed:
		return r.Action + " is " + string(r.Result)
	case Would:
		return "would " + r.Action
	case Gone, Changed:
		return string(r.Result) + " before " + r.Action
	}
	return r.Action + " " + string(r.Result)
}

// MarshalJSON is one line of the journal, without its end.
func (r *Record) MarshalJSON() ([]byte, error) { return r.append(nil), nil }

// append is MarshalJSON with little garbage: an intent is written before the act, so
// every microsecond here is one in which a socket is not being killed.
func (r *Record) append(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = r.Time.UTC().AppendFormat(b, timeLayout)
	b = append(b, '"')
	if r.Seq != 0 {
		b = appendAttr(b, slog.Uint64("seq", r.Seq))
	}
	for _, a := range r.Attrs() {
		b = appendAttr(b, a)
	}
	if r.Result == Intent {
		b = appendAttr(b, slog.Int("version", version))
	}
	return append(b, '}')
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Record) UnmarshalJSON(text []byte) error {
	type fields Record
	line := struct {
		*fields
		InStateFor float64 `json:"in_state_for"`
		IdleFor    float64 `json:"idle_for"`
		SilentFor  float64 `json:"silent_for"`
	}{fields: (*fields)(r)}
	if err := json.Unmarshal(text, &line); err != nil {
		return err
	}
	r.InStateFor, r.IdleFor, r.SilentFor = duration(line.InStateFor), duration(line.IdleFor), duration(line.SilentFor)
	return nil
}

func duration(seconds float64) time.Duration {
	return time.Duration(math.Round(seconds * float64(time.Second)))
}

// Attrs returns the fields of the record for a line of the log: all but its time,
// which is the line's, and Seq, for the log tells no intents.
func (r *Record) Attrs() []slog.Attr {
	attrs := make([]slog.Attr, 0, 24)
	attrs = append(attrs,
		slog.String("rule", r.Rule),
		slog.String("action", r.Action),
		slog.String("result", string(r.Result)),
		slog.Bool("dry_run", r.DryRun),
		slog.String("reason", r.Reason))
	if r.Via != "" {
		attrs = append(attrs, slog.String("via", r.Via))
	}
	if r.Before != "" {
		attrs = append(attrs, slog.String("before", r.Before))
	}
	if r.Netns != "" {
		attrs = append(attrs, slog.String("netns", r.Netns))
	}
	if r.NetnsName != "" {
		attrs = append(attrs, slog.String("netns_name", r.NetnsName))
	}
	switch {
	case r.Group != nil:
		var labels []any
		for _, name := range slices.Sorted(maps.Keys(r.Group)) {
			labels = append(labels, slog.String(name, r.Group[name]))
		}
		return r.appendHolder(append(attrs, slog.Group("group", labels...), slog.Int("sockets", r.Sockets)))
	case r.Result == Paused, r.Result == Resumed:
		return attrs[1:] // it is about no rule
	case r.Result == Held:
		return append(attrs, slog.Int("sockets", r.Sockets), slog.Int("let_go", r.LetGo), slog.Int("still_waiting", r.Waiting))
	}
	attrs = append(attrs,
		slog.String("src", r.Src.String()),
		slog.String("dst", r.Dst.String()),
		slog.String("state", r.State),
		slog.Duration("in_state_for", r.InStateFor.Truncate(resolution)),
		slog.Duration("idle_for", r.IdleFor.Truncate(resolution)))
	if r.SilentFor > 0 {
		attrs = append(attrs, slog.Duration("silent_for", r.SilentFor.Truncate(resolution)))
	}
	attrs = append(attrs,
		slog.Uint64("cookie", r.Cookie),
		slog.Uint64("inode", uint64(r.Inode)))
	if r.Inode != 0 {
		attrs = append(attrs, slog.Uint64("uid", uint64(r.UID)))
	}
	return r.appendHolder(attrs)
}

// appendHolder appends what is known of the process that it is about.
func (r *Record) appendHolder(attrs []slog.Attr) []slog.Attr {
	if r.PID != 0 {
		attrs = append(attrs, slog.Int("pid", r.PID))
	}
	if r.Comm != "" {
		attrs = append(attrs, slog.String("comm", r.Comm))
	}
	if r.Holders != nil {
		attrs = append(attrs, slog.Any("holders", r.Holders))
	}
	for _, of := range [...]struct{ name, text string }{{"container", r.Container}, {"pod", r.Pod}, {"unit", r.Unit}} {
		if of.text != "" {
			attrs = append(attrs, slog.String(of.name, of.text))
		}
	}
	return attrs
}

// InSeconds is slog.HandlerOptions.ReplaceAttr for a JSON log: durations become
// numbers of seconds there, as in the journal. A text log is for people, and
// keeps "5m12s".
func InSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.Float64Value(a.Value.Duration().Seconds())
	}
	return a
}

// appendAttr appends a key and its value, after a comma unless it is the first of an
// object. Durations are numbers of seconds.
func appendAttr(b []byte, a slog.Attr) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(appendText(b, a.Key), ':')
	switch v := a.Value; v.Kind() {
	case slog.KindBool:
		return strconv.AppendBool(b, v.Bool())
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10)
	case slog.KindUint64:
		return strconv.AppendUint(b, v.Uint64(), 10)
	case slog.KindDuration:
		return strconv.AppendFloat(b, v.Duration().Seconds(), 'f', -1, 64)
	case slog.KindGroup:
		b = append(b, '{')
		for _, member := range v.Group() {
			b = appendAttr(b, member)
		}
		return append(b, '}')
	case slog.KindAny:
		return v.Any().(Holders).append(b)
	default:
		return appendText(b, v.String())
	}
}

// appendText quotes text as RFC 8259, section 7, asks. A command's name can
// hold any bytes; what is not UTF-8 becomes U+FFFD.
func appendText(b []byte, text string) []byte {
	b = append(b, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || 0x7f <= r && r < 0xa0: // the latter only for terminals
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&0xf])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
