// Package metrics shows a status.Status, and the process itself, in the text format
// of Prometheus. It measures nothing: a scrape reads what the daemon has published.
package metrics

import (
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/status"
)

// Text is the metrics of a status, and those of the process. Where there is no status
// yet, there are only the latter.
func Text(s *status.Status) []byte {
	var out exposition
	if s != nil {
		write(&out, "sockdog_", families, s)
	}
	write(&out, "", processFamilies, readProcess())
	return out.text
}

// family is a metric of something: all that is known of it stands in one row.
type family[T any] struct {
	name   string
	kind   string
	help   string
	labels []string
	write  func(of *T, out *exposition)
}

// write writes families under names with a prefix. One without samples is not shown.
func write[T any](out *exposition, prefix string, families []family[T], of *T) {
	for i := range families {
		f := &families[i]
		out.name, out.labels = prefix+f.name, f.labels
		out.header = "# HELP " + out.name + " " + f.help + "\n# TYPE " + out.name + " " + f.kind + "\n"
		f.write(of, out)
	}
}

// families are all metrics of sockdog. What could be counted and was not is 0; what
// could not be read is absent.
var families = []family[status.Status]{
	{"build_info", gauge, "The version of sockdog; always 1.", []string{"goversion", "version"},
		func(s *status.Status, out *exposition) { out.sample(1, runtime.Version(), s.Version) }},
	single("paused", gauge, "1 while all acting is paused.", func(s *status.Status) float64 { return number(s.Paused != nil) }),
	{"pause_info", gauge, "Why all acting is paused, and by whom; 1, and absent while it is not.", []string{"by", "reason"},
		func(s *status.Status, out *exposition) {
			if p := s.Paused; p != nil {
				out.sample(1, p.By, p.Reason)
			}
		}},
	{"sockets", gauge, "TCP sockets in each state that could be counted.", []string{"state"},
		func(s *status.Status, out *exposition) {
			for _, state := range slices.Sorted(maps.Keys(s.Sockets)) {
				out.sample(float64(s.Sockets[state]), state)
			}
		}},
	single("sockets_timestamp_seconds", gauge, "When the sockets in each state were counted.", func(s *status.Status) float64 {
		if s.SocketsAt.IsZero() {
			return math.NaN()
		}
		return seconds(s.SocketsAt)
	}),
	ofRule("rule_sockets", "Sockets that match the rule in full.", func(r *status.Rule) float64 { return float64(r.Sockets) }),
	ofRule("rule_candidates", "Sockets that match the rule in all but their age.", func(r *status.Rule) float64 { return float64(r.Candidates) }),
	{"rule_holder_sockets", gauge, "Sockets that match the rule in full, by the process that holds them: the ten largest, other and unknown.", []string{"process", "rule"},
		func(s *status.Status, out *exposition) {
			for i := range s.Rules {
				for _, p := range s.Rules[i].HeldBy {
					out.sample(float64(p.Sockets), p.Process, s.Rules[i].Name)
				}
			}
		}},
	{"rule_netns_sockets", gauge, "Sockets that match the rule in full, by network namespace where several are watched: the ten with the most, and other.", []string{"netns", "netns_name", "rule"},
		func(s *status.Status, out *exposition) {
			for i := range s.Rules {
				for _, n := range s.Rules[i].InNetns {
					out.sample(float64(n.Sockets), n.Netns, n.NetnsName, s.Rules[i].Name)
				}
			}
		}},
	ofRule("rule_oldest_seconds", "How long the oldest socket of the rule has been in its state; 0 without any.", func(r *status.Rule) float64 { return r.OldestSeconds }),
	ofRule("rule_firing", "Groups of the rule that are firing.", func(r *status.Rule) float64 { return float64(r.Firing) }),
	ofRule("rule_stopped", "1 for a rule that has stopped itself.", func(r *status.Rule) float64 { return number(r.Mode == status.Stopped) }),
	ofRule("rule_acts", "1 for a rule that acts: it is enabled, and neither a dry run nor stopped.", func(r *status.Rule) float64 { return number(r.Mode == status.Enabled) }),
	{"actions_total", counter, "Actions by result; an alert is done once it is raised.", []string{"action", "result", "rule"},
		func(s *status.Status, out *exposition) {
			for i := range s.Rules {
				r := &s.Rules[i]
				for _, action := range slices.Sorted(maps.Keys(r.Actions)) {
					for _, result := range status.Results {
						out.sample(float64(r.Actions[action][result]), action, string(result), r.Name)
					}
				}
			}
		}},
	{"held_back_total", counter, "Actions that were held back and wait, and connections that were skipped, by reason.", []string{"reason", "rule"},
		func(s *status.Status, out *exposition) {
			for i := range s.Rules {
				for _, reason := range status.HeldReasons {
					out.sample(float64(s.Rules[i].HeldBack[reason]), reason, s.Rules[i].Name)
				}
			}
		}},
	{"killed_descriptors_total", counter, "Descriptors of killed sockets, by what their programs had done ten seconds later.", []string{"rule", "state"},
		func(s *status.Status, out *exposition) {
			for i := range s.Rules {
				r := &s.Rules[i]
				out.sample(float64(r.Descriptors.Closed), r.Name, "closed")
				out.sample(float64(r.Descriptors.Open), r.Name, "open")
				out.sample(float64(r.Descriptors.Unknown), r.Name, "unknown")
			}
		}},
	ofRule("rule_leaks_back", "Processes whose leaks came back three times within an hour after the rule had healed them.", func(r *status.Rule) float64 { return float64(r.LeaksBack) }),
	{"action_possible", gauge, "1 where the kernel and the privileges allow the action on sockets.", []string{"action"},
		func(s *status.Status, out *exposition) {
			for _, action := range slices.Sorted(maps.Keys(s.ActionPossible)) {
				out.sample(number(s.ActionPossible[action]), action)
			}
		}},
	{"action_lateness_seconds", histogram, "How long after their due time actions were done, for sockets seen before it.", nil,
		func(s *status.Status, out *exposition) { out.histogram(&s.Lateness) }},
	{"scans_total", counter, "Scans of the socket table.", []string{"result"},
		func(s *status.Status, out *exposition) {
			out.sample(float64(s.Scans.OK), "ok")
			out.sample(float64(s.Scans.Failed), "failed")
		}},
	{"scan_duration_seconds", histogram, "How long scans of the socket table took.", nil,
		func(s *status.Status, out *exposition) { out.histogram(&s.Scans.Duration) }},
	single("scan_interval_seconds", gauge, "Time between scans, stretched by cpu_budget where they cost much.", func(s *status.Status) float64 { return s.Scans.IntervalSeconds }),
	single("scan_interval_wanted_seconds", gauge, "What the interval would be if scans cost nothing.", func(s *status.Status) float64 { return s.Scans.WantedSeconds }),
	single("scan_stalled_seconds", gauge, "How long the present scan has been under way, beyond a second; else 0.", func(s *status.Status) float64 { return s.Scans.StalledSeconds }),
	{"source", gauge, "1 for the kind of source that sockets come from.", []string{"kind"},
		func(s *status.Status, out *exposition) {
			for _, kind := range status.SourceKinds {
				if s.Source.Kind != "" {
					out.sample(number(s.Source.Kind == kind), string(kind))
				}
			}
		}},
	ofSource("namespaces", gauge, "Network namespaces that are watched.", func(s *status.Source) float64 { return float64(s.Namespaces) }),
	ofSource("namespaces_left_out", gauge, "1 while network namespaces cannot be found or entered.", func(s *status.Source) float64 { return number(s.LeftOut != "" && !s.Few) }),
	ofSource("namespaces_older", gauge, "Network namespaces with connections older than the table of events, found by scans.", func(s *status.Source) float64 { return float64(s.Older) }),
	ofSource("events_lost_total", counter, "Sockets for which the table of events had no room.", func(s *status.Source) float64 { return float64(s.Lost) }),
	ofSource("events_missed_total", counter, "Sockets that a check by sock_diag found and the table of events lacked.", func(s *status.Source) float64 { return float64(s.Missed) }),
	single("state_write_stalled_seconds", gauge, "How long a write to the state directory has been under way, beyond a second; else 0.", func(s *status.Status) float64 { return s.WriteStalledSeconds }),
	single("rules_last_reload_successful", gauge, "1 if what the rules file says is in force.", func(s *status.Status) float64 { return number(s.File.OK) }),
	single("rules_last_reload_success_timestamp_seconds", gauge, "When the rules in force were loaded; 0 while the built-in ones are.", func(s *status.Status) float64 {
		if s.File.BuiltIn {
			return 0
		}
		return seconds(s.File.Loaded)
	}),
	{"alerts_total", counter, "Alerts by receiver and result.", []string{"receiver", "result"},
		func(s *status.Status, out *exposition) {
			for _, r := range s.Receivers {
				out.sample(float64(r.Sent), r.Name, "sent")
				out.sample(float64(r.Failed), r.Name, "failed")
				out.sample(float64(r.Dropped), r.Name, "dropped")
			}
		}},
}

// single is a metric without labels; NaN: it could not be read.
func single[T any](name, kind, help string, value func(*T) float64) family[T] {
	return family[T]{name, kind, help, nil, func(of *T, out *exposition) {
		if v := value(of); !math.IsNaN(v) {
			out.sample(v)
		}
	}}
}

// ofSource is a metric of the source, where that is known.
func ofSource(name, kind, help string, value func(*status.Source) float64) family[status.Status] {
	return single(name, kind, help, func(s *status.Status) float64 {
		if s.Source.Kind == "" {
			return math.NaN()
		}
		return value(&s.Source)
	})
}

// ofRule is a gauge with a value for each rule.
func ofRule(name, help string, value func(*status.Rule) float64) family[status.Status] {
	return family[status.Status]{name, gauge, help, []string{"rule"}, func(s *status.Status, out *exposition) {
		for i := range s.Rules {
			out.sample(value(&s.Rules[i]), s.Rules[i].Name)
		}
	}}
}

// seconds is an instant in seconds since 1970.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// The kinds of metrics.
const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
	summary   = "summary"
)

// exposition is a text of metrics:
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
type exposition struct {
	text   []byte
	name   string // of the family under way
	labels []string
	header string // written before the first sample
}

// sample adds one with a value for each label of the family.
func (e *exposition) sample(value float64, labels ...string) { e.line("", e.labels, labels, value) }

// histogram adds h with its buckets summed up, as Prometheus has them.
func (e *exposition) histogram(h *status.Histogram) {
	le := []string{"le"}
	var below uint64
	for i, bound := range h.Bounds {
		below += h.Counts[i]
		e.line("_bucket", le, []string{format(bound)}, float64(below))
	}
	e.line("_bucket", le, []string{"+Inf"}, float64(h.Total()))
	e.line("_sum", nil, nil, h.Sum)
	e.line("_count", nil, nil, float64(h.Total()))
}

func (e *exposition) line(suffix string, names, values []string, number float64) {
	e.add(e.header, e.name, suffix)
	e.header = ""
	for i, name := range names {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		e.add(sep, name, `="`, escape.Replace(values[i]), `"`)
	}
	if len(names) > 0 {
		e.add("}")
	}
	e.add(" ", format(number), "\n")
}

func (e *exposition) add(parts ...string) {
	for _, part := range parts {
		e.text = append(e.text, part...)
	}
}

// escape keeps a label's value in its quotes.
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func format(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
