package notify

import (
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"
	"unicode"

	"github.com/sockdog/sockdog/rules"
)

// inFormat is a notification as the receiver takes it.
func inFormat(r *rules.Receiver, n *notification) ([]byte, error) {
	switch r.Format {
	case rules.FormatSlack:
		return slack(n), nil
	case rules.FormatTeams:
		return teams(n), nil
	case rules.FormatPagerDuty:
		return pagerDuty(n), nil
	case rules.FormatDiscord:
		return discord(n), nil
	}
	if r.Body != nil {
		return inBody(r.Body, n)
	}
	return encode(n), nil
}

// inBody is a notification in words of the rules file. Where they are too many, it
// tells of fewer alerts.
func inBody(b *rules.Body, n *notification) ([]byte, error) {
	d := compose(n, func(d *digest) bool { return len(d.text()) <= mostText })
	said := &rules.Notification{
		Status: n.Status, Receiver: n.Receiver, Rule: n.GroupLabels["alertname"], Instance: n.CommonLabels["instance"],
		LeftOut: n.TruncatedAlerts, Page: n.ExternalURL, Title: d.title, Text: d.text(),
	}
	said.Firing, said.Resolved = n.count()
	for _, a := range n.Alerts {
		said.Alerts = append(said.Alerts, rules.NotifiedAlert{
			Status: a.Status, Severity: a.Labels["severity"], Summary: a.Annotations["summary"], Description: a.Annotations["description"],
			Labels: a.Labels, Annotations: a.Annotations, StartsAt: a.StartsAt, EndsAt: a.EndsAt,
		})
	}
	for {
		body, err := b.Render(said)
		if !errors.Is(err, rules.ErrLongBody) || len(said.Alerts) == 1 {
			return body, err
		}
		half := len(said.Alerts) / 2
		said.LeftOut += len(said.Alerts) - half
		said.Alerts = said.Alerts[:half]
	}
}

// mostText bounds a digest as one text, in bytes.
const mostText = 4000

// text is a digest without any markup.
func (d *digest) text() string {
	lines := []string{d.title}
	for _, e := range d.entries {
		lines = append(lines, e.summary)
		lines = append(lines, e.details...)
	}
	for _, line := range []string{d.rest(), d.page} {
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// count says how many alerts of a notification fire, and how many have ended.
func (n *notification) count() (firing, over int) {
	for _, a := range n.Alerts {
		if a.Status == statusFiring {
			firing++
		}
	}
	return firing, len(n.Alerts) - firing
}

// digest is a notification as people read it: a line above, and what there is to say of
// each alert. It is plain text, which every format escapes in its way.
type digest struct {
	resolved bool // no alert of it fires any more
	title    string
	entries  []paragraph
	more     int    // alerts that it has no room for
	page     string // where sockdog shows more
}

// paragraph is what a digest says of one alert.
type paragraph struct {
	resolved bool
	summary  string   // one line
	details  []string // lines
}

// mostSummary and mostDetails bound what is said of one alert, in characters: a
// template may say 8 KiB. Where a digest is too long, the details of all are cut to the
// next of these bounds.
const mostSummary = 300

var mostDetails = []int{2000, 800, 0}

// mostEntries is of how many alerts people are told, and mostDescribed of how many in
// detail.
const (
	mostEntries   = 150
	mostDescribed = 50
)

// compose says as much of the notification as fits: the details of each alert if
// possible, else only their summaries, at last of as many as there is room for. Those
// that fire come first, and stay the longest.
func compose(n *notification, fits func(*digest) bool) *digest {
	d := &digest{resolved: n.Status == statusResolved, title: title(n), page: n.ExternalURL}
	some := n.Alerts[:min(len(n.Alerts), mostEntries)]
	left := n.TruncatedAlerts + len(n.Alerts) - len(some)
	for _, most := range mostDetails {
		if most > 0 && len(some) > mostDescribed {
			continue // they would not fit
		}
		d.entries, d.more = d.entries[:0], left
		for _, a := range some {
			d.entries = append(d.entries, describe(a, most))
		}
		if fits(d) {
			return d
		}
	}
	all := d.entries
	first := func(few int) *digest {
		d.entries, d.more = all[:few], left+len(all)-few
		return d
	}
	return first(sort.Search(len(all), func(few int) bool { return !fits(first(few + 1)) }))
}

// title says which rule, where, and how many of its alerts fire or have ended.
func title(n *notification) string {
	firing, over := n.count()
	what := fmt.Sprintf("FIRING:%d", firing)
	switch {
	case firing == 0:
		what = fmt.Sprintf("RESOLVED:%d", over)
	case over > 0:
		what += fmt.Sprintf(", RESOLVED:%d", over)
	}
	text := fmt.Sprintf("[%s] %s", what, cut(oneLine(n.GroupLabels["alertname"]), mostSummary))
	if host := n.CommonLabels["instance"]; host != "" {
		text += " on " + cut(oneLine(host), mostSummary)
	}
	return text
}

func describe(a notifiedAlert, most int) paragraph {
	e := paragraph{resolved: a.Status == statusResolved}
	word := a.Labels["severity"]
	if e.resolved {
		word = "resolved"
	}
	if e.summary = oneLine(a.Annotations["summary"]); e.summary == "" {
		e.summary = "an alert without a summary"
	}
	if word != "" {
		e.summary = oneLine(word) + ": " + e.summary
	}
	e.summary = cut(e.summary, mostSummary)
	for line := range strings.Lines(cut(a.Annotations["description"], most)) {
		if line = oneLine(line); line != "" {
			e.details = append(e.details, line)
		}
	}
	return e
}

// rest says how many alerts a digest leaves out, or nothing.
func (d *digest) rest() string {
	switch {
	case d.more == 0:
		return ""
	case d.more == 1:
		return "and 1 more alert"
	}
	return fmt.Sprintf("and %d more alerts", d.more)
}

// oneLine is a text without line breaks and without characters that cannot be seen,
// of which some change the direction of all that follows.
func oneLine(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, text))
}

// cut is the beginning of a text that is longer than so many characters.
func cut(text string, most int) string {
	if most == 0 {
		return ""
	}
	n := 0
	for at := range text {
		if n++; n > most {
			return strings.TrimSpace(text[:at]) + "…"
		}
	}
	return text
}

// links are addresses as they stand in a text: of characters that no chat takes for
// anything else within an address.
var links = regexp.MustCompile(`https?://[A-Za-z0-9./?=&%+:#_~-]+[A-Za-z0-9/]`)

// aroundLinks escapes a text but for its links, and these in another way.
func aroundLinks(text string, escape, link func(string) string) string {
	var b strings.Builder
	at := 0
	for _, l := range links.FindAllStringIndex(text, -1) {
		b.WriteString(escape(text[at:l[0]]))
		b.WriteString(link(text[l[0]:l[1]]))
		at = l[1]
	}
	b.WriteString(escape(text[at:]))
	return b.String()
}
