// Package metrics shows a status.Status to Prometheus. A scrape reads what the
// daemon has published and asks nothing of the kernel.
package metrics

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sockdog/sockdog/internal/status"
)

// Handler serves the metrics of what current returns, and those of the process.
// Where current returns nil, there are only the latter.
func Handler(current func() *status.Status) http.Handler {
	// A registry of its own: what a library puts into the global one is not ours.
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collector{current},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		DisableCompression: true, // the server does that, once for all who ask
	})
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sockdog_"+name, help, labels, nil)
}

var (
	buildInfo      = desc("build_info", "The version of sockdog; always 1.", "version", "goversion")
	sockets        = desc("sockets", "TCP sockets in each state, where that was read.", "state")
	socketsAt      = desc("sockets_timestamp_seconds", "When the sockets in each state were counted.")
	ruleSockets    = desc("rule_sockets", "Sockets that match the rule in full.", "rule")
	ruleCandidates = desc("rule_candidates", "Sockets that match the rule in all but their age.", "rule")
	ruleOldest     = desc("rule_oldest_seconds", "The longest that a socket of the rule has been in its state; 0 without any.", "rule")
	ruleFiring     = desc("rule_firing", "Groups of the rule that are firing.", "rule")
	ruleStopped    = desc("rule_stopped", "1 for a rule that its canary has stopped.", "rule")
	ruleActs       = desc("rule_acts", "1 for a rule that acts: it is enabled, and neither a dry run nor stopped.", "rule")
	actions        = desc("actions_total", "Actions, by what became of them; an alert is done once it is raised.", "rule", "action", "result")
	heldBack       = desc("held_back_total", "Actions that a limit held back (limit.*), and connections that were spared, by the reason.", "rule", "reason")
	actionPossible = desc("action_possible", "1 where the kernel and the privileges allow the action.", "action")
	lateness       = desc("action_lateness_seconds", "How long after they fell due actions were done, for sockets seen before that.")
	scans          = desc("looks_total", "Readings of the socket table.", "result")
	scanDuration   = desc("look_duration_seconds", "How long readings of the socket table took.")
	scanInterval   = desc("look_interval_seconds", "Time between readings of the socket table, stretched by cpu_budget where they cost much.")
	scanWanted     = desc("look_interval_wanted_seconds", "What the interval would be if readings of the socket table had no cost.")
	scanStalled    = desc("scan_stalled_seconds", "For how long the reading of the socket table under way has not ended, beyond a second; else 0.")
	writeStalled   = desc("state_write_stalled_seconds", "For how long a write to the state directory has not ended, beyond a second; else 0.")
	reloadOK       = desc("rules_last_reload_successful", "1 if what the rules file says is in force.")
	reloadTime     = desc("rules_last_reload_success_timestamp_seconds", "When the rules in force were loaded; 0 while no file was, and the built-in ones are in force.")
	alerts         = desc("alerts_total", "Alerts by receiver, and by what became of them.", "receiver", "result")
)

// collector makes the metrics of one Status at each scrape.
type collector struct {
	current func() *status.Status
}

// Describe tells every metric of Collect, so that a registry can check them.
func (collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		buildInfo, sockets, socketsAt, ruleSockets, ruleCandidates, ruleOldest, ruleFiring, ruleStopped, ruleActs, actions, heldBack,
		actionPossible, lateness, scans, scanDuration, scanInterval, scanWanted, scanStalled, writeStalled, reloadOK, reloadTime, alerts,
	} {
		descs <- d
	}
}

// Collect is every metric of the status of now. What could be counted and was not
// is 0; what could not be read is absent.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	s := c.current()
	if s == nil {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}

	gauge(buildInfo, 1, s.Version, runtime.Version())
	for state, n := range s.Sockets {
		gauge(sockets, float64(n), state)
	}
	if !s.SocketsAt.IsZero() {
		gauge(socketsAt, seconds(s.SocketsAt))
	}
	for i := range s.Rules {
		r := &s.Rules[i]
		gauge(ruleSockets, float64(r.Sockets), r.Name)
		gauge(ruleCandidates, float64(r.Candidates), r.Name)
		gauge(ruleOldest, r.OldestSeconds, r.Name)
		gauge(ruleFiring, float64(r.Firing), r.Name)
		gauge(ruleStopped, number(r.Mode == status.Stopped), r.Name)
		gauge(ruleActs, number(r.Mode == status.Enabled), r.Name)
		for action, tally := range r.Actions {
			for _, result := range status.Results {
				counter(actions, tally[result], r.Name, action, string(result))
			}
		}
		for _, reason := range status.HeldReasons {
			counter(heldBack, r.HeldBack[reason], r.Name, reason)
		}
	}
	for action, possible := range s.ActionPossible {
		gauge(actionPossible, number(possible), action)
	}
	metrics <- histogram(lateness, &s.Lateness)
	counter(scans, s.Scans.OK, "ok")
	counter(scans, s.Scans.Failed, "failed")
	metrics <- histogram(scanDuration, &s.Scans.Duration)
	gauge(scanInterval, s.Scans.IntervalSeconds)
	gauge(scanWanted, s.Scans.WantedSeconds)
	gauge(scanStalled, s.Scans.StalledSeconds)
	gauge(writeStalled, s.WriteStalledSeconds)
	gauge(reloadOK, number(s.File.OK))
	loaded := 0.0
	if !s.File.BuiltIn {
		loaded = seconds(s.File.Loaded)
	}
	gauge(reloadTime, loaded)
	for _, r := range s.Receivers {
		counter(alerts, r.Sent, r.Name, "sent")
		counter(alerts, r.Failed, r.Name, "failed")
		counter(alerts, r.Dropped, r.Name, "dropped")
	}
}

// seconds is an instant in seconds since 1970.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// histogram is h with its buckets added up, as Prometheus has them.
func histogram(d *prometheus.Desc, h *status.Histogram) prometheus.Metric {
	buckets := make(map[float64]uint64, len(h.Bounds))
	var below uint64
	for i, bound := range h.Bounds {
		below += h.Counts[i]
		buckets[bound] = below
	}
	return prometheus.MustNewConstHistogram(d, h.Total(), h.Sum, buckets)
}
