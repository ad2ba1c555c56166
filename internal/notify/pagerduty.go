package notify

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/sockdog/sockdog/internal/alert"
)

// PagerDuty's limits: of a summary in characters, of an event in bytes, of which the
// routing key has to have some.
const (
	mostPagerSummary = 1024
	mostPagerEvent   = 500 << 10
)

// pagerDuty is an event of PagerDuty's Events API, version 2, but for the routing key,
// which is read when the event is sent. Its incident is that of a rule, on this host and
// of one severity, or of a problem of the rule itself: it triggers while any of the alerts fires, and resolves when none does.
// https://developer.pagerduty.com/docs/send-alert-event
func pagerDuty(n *notification) []byte {
	first := n.Alerts[0] // which fires, if any does
	key := dedupKey(first.Labels)
	if n.Status == statusResolved {
		return encode(object{"event_action": "resolve", "dedup_key": key})
	}
	begun := first.StartsAt
	alerts := make([]object, len(n.Alerts))
	for i, a := range n.Alerts {
		if a.Status == statusFiring && a.StartsAt.Before(begun) {
			begun = a.StartsAt
		}
		alerts[i] = object{
			"status": a.Status, "summary": a.Annotations["summary"], "description": a.Annotations["description"], "labels": a.Labels,
		}
	}
	firing, resolved := n.count()
	summary := oneLine(first.Annotations["summary"])
	if firing > 1 {
		summary = title(n) + ": " + summary
	}
	details := object{"firing": firing, "resolved": resolved}
	event := object{
		"event_action": "trigger", "dedup_key": key, "client": "sockdog",
		"payload": object{
			"summary": cmp.Or(cut(summary, mostPagerSummary-1), title(n)), // it must say something
			"source":  cmp.Or(oneLine(first.Labels["instance"]), "sockdog"), "severity": pagerSeverity(first.Labels["severity"]),
			"timestamp": begun, "class": first.Labels["alertname"], "custom_details": details,
		},
	}
	if n.ExternalURL != "" {
		event["client_url"] = n.ExternalURL
	}
	for {
		details["alerts"] = alerts
		if left := n.TruncatedAlerts + len(n.Alerts) - len(alerts); left > 0 {
			details["left_out"] = left
		}
		body := encode(event)
		if len(body) <= mostPagerEvent {
			return body
		}
		alerts = alerts[:len(alerts)/2]
	}
}

// dedupKey names an incident: the same rule, host and severity have the same one after
// a restart, too, and what is wrong with the rule itself has another. It is a digest because
// PagerDuty takes 255 characters.
func dedupKey(labels map[string]string) string {
	of := map[string]string{"alertname": labels["alertname"], "instance": labels["instance"], "severity": labels["severity"]}
	if problem := labels[alert.ProblemLabel]; problem != "" {
		of[alert.ProblemLabel] = problem
	}
	digest := sha256.Sum256([]byte(canonical(of)))
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
