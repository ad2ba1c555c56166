package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// pagerEvent is an event of PagerDuty's Events API, version 2, but for the routing
// key, which is read when the event is sent.
// https://developer.pagerduty.com/docs/send-alert-event
type pagerEvent struct {
	EventAction string        `json:"event_action"`
	DedupKey    string        `json:"dedup_key"`
	Client      string        `json:"client,omitempty"`
	ClientURL   string        `json:"client_url,omitempty"`
	Payload     *pagerPayload `json:"payload,omitempty"`
}

type pagerPayload struct {
	Summary       string       `json:"summary"`
	Source        string       `json:"source"`
	Severity      string       `json:"severity"`
	Timestamp     time.Time    `json:"timestamp"`
	Class         string       `json:"class"`
	CustomDetails pagerDetails `json:"custom_details"`
}

type pagerDetails struct {
	Firing   int          `json:"firing"`
	Resolved int          `json:"resolved"`
	LeftOut  int          `json:"left_out,omitempty"`
	Alerts   []pagerAlert `json:"alerts"`
}

type pagerAlert struct {
	Status      string            `json:"status"`
	Summary     string            `json:"summary"`
	Description string            `json:"description"`
	Labels      map[string]string `json:"labels"`
}

// PagerDuty's limits: of a summary in characters, of an event in bytes, of which the
// routing key has to have some.
const (
	mostPagerSummary = 1024
	mostPagerEvent   = 500 << 10
)

// pagerDuty is an event for the incident of a rule, on this host and of one severity:
// it triggers while any of the alerts fires, and resolves when none does.
func pagerDuty(n *notification) []byte {
	first := n.Alerts[0] // which fires, if any does
	e := pagerEvent{EventAction: "resolve", DedupKey: dedupKey(first.Labels)}
	if n.Status == statusResolved {
		return encode(e)
	}
	d := pagerDetails{LeftOut: n.TruncatedAlerts}
	d.Firing, d.Resolved = n.count()
	begun := first.StartsAt
	for _, a := range n.Alerts {
		if a.Status == statusFiring && a.StartsAt.Before(begun) {
			begun = a.StartsAt
		}
		d.Alerts = append(d.Alerts, pagerAlert{a.Status, a.Annotations["summary"], a.Annotations["description"], a.Labels})
	}
	summary := oneLine(first.Annotations["summary"])
	if d.Firing > 1 {
		summary = title(n) + ": " + summary
	}
	source := oneLine(first.Labels["instance"])
	if source == "" {
		source = "sockdog"
	}
	e.EventAction, e.Client, e.ClientURL = "trigger", "sockdog", n.ExternalURL
	e.Payload = &pagerPayload{
		Summary: cut(summary, mostPagerSummary-1), Source: source, Severity: pagerSeverity(first.Labels["severity"]),
		Timestamp: begun, Class: first.Labels["alertname"], CustomDetails: d,
	}
	if e.Payload.Summary == "" { // it must say something
		e.Payload.Summary = title(n)
	}
	body := encode(e)
	for len(body) > mostPagerEvent {
		some := &e.Payload.CustomDetails
		some.Alerts = some.Alerts[:len(some.Alerts)/2]
		some.LeftOut = n.TruncatedAlerts + len(n.Alerts) - len(some.Alerts)
		body = encode(e)
	}
	return body
}

// dedupKey names an incident: the same rule, host and severity have the same one after
// a restart, too. It is a digest because it has 255 characters at most.
func dedupKey(labels map[string]string) string {
	of := canonical(map[string]string{"alertname": labels["alertname"], "instance": labels["instance"], "severity": labels["severity"]})
	digest := sha256.Sum256([]byte(of))
	return "sockdog-" + hex.EncodeToString(digest[:])
}

// pagerSeverity is the one of PagerDuty's four severities that a label means; error,
// if that cannot be told.
func pagerSeverity(label string) string {
	switch label = strings.ToLower(label); label {
	case "critical", "error", "warning", "info":
		return label
	case "page", "fatal", "emergency", "crit":
		return "critical"
	case "warn":
		return "warning"
	case "notice", "information", "none":
		return "info"
	}
	return "error"
}

// withRoutingKey puts the key into an event.
func withRoutingKey(event []byte, key string) []byte {
	return slices.Concat([]byte(`{"routing_key":`), encode(key), []byte(","), event[1:])
}
