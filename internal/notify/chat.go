package notify

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"
	"unicode"

	"github.com/sockdog/sockdog/rules"
)

// inFormat encodes a notification in the format of the receiver.
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

// inBody encodes a notification by a template of the rules file. If that makes too
// long a text, it leaves out alerts.
func inBody(b *rules.Body, n *notification) ([]byte, error) {
	d := compose(n, func(d *digest) bool { return len(plainText(d)) <= mostText })
	data := &rules.Notification{
		Status: n.Status, Receiver: n.Receiver, Rule: n.GroupLabels["alertname"], Instance: n.CommonLabels["instance"],
		LeftOut: n.TruncatedAlerts, Page: n.ExternalURL, Title: d.title, Text: plainText(d),
	}
	data.Firing, data.Resolved = n.count()
	for _, a := range n.Alerts {
		data.Alerts = append(data.Alerts, rules.NotifiedAlert{
			Status: a.Status, Severity: a.Labels["severity"], Summary: a.Annotations["summary"], Description: a.Annotations["description"],
			Labels: a.Labels, Annotations: a.Annotations, StartsAt: a.StartsAt, EndsAt: a.EndsAt,
		})
	}
	for {
		body, err := b.Render(data)
		if !errors.Is(err, rules.ErrLongBody) || len(data.Alerts) == 1 {
			return body, err
		}
		half := len(data.Alerts) / 2
		data.LeftOut += len(data.Alerts) - half
		data.Alerts = data.Alerts[:half]
	}
}

// mostText bounds a digest as one text, in bytes.
const mostText = 4000

// markup is how a chat writes the parts of a digest in one text: a format of each, and
// what escapes them.
type markup struct {
	title, summary, detail string // no title: it stands elsewhere
	escape                 func(string) string
}

// plainText is a digest without any markup.
func plainText(d *digest) string {
	return d.text(markup{"%s", "%s", "%s", func(line string) string { return line }})
}

func (d *digest) text(m markup) string {
	var lines []string
	add := func(format, line string) {
		if format != "" && line != "" {
			lines = append(lines, fmt.Sprintf(format, m.escape(line)))
		}
	}
	add(m.title, d.title)
	for _, e := range d.entries {
		add(m.summary, e.summary)
		for _, line := range e.details {
			add(m.detail, line)
		}
	}
	add("%s", d.rest())
	add("%s", d.page)
	return strings.Join(lines, "\n")
}

// count returns how many alerts of a notification fire, and how many have ended.
func (n *notification) count() (firing, over int) {
	for _, a := range n.Alerts {
		if a.Status == statusFiring {
			firing++
		}
	}
	return firing, len(n.Alerts) - firing
}

// digest is a notification as people read it: a title, and a paragraph for each alert.
// It is plain text, which every format escapes in its way.
type digest struct {
	resolved bool // no alert of it fires any more
	title    string
	entries  []paragraph
	more     int    // alerts that it has no room for
	page     string // the URL where sockdog shows more
}

// paragraph is what a digest says of one alert.
type paragraph struct {
	summary string   // one line
	details []string // lines
}

// mostSummary and mostDetails bound what is said of one alert, in characters: a
// template may say 8 KiB. Where a digest is too long, the details of all are cut to the
// next of these bounds.
const mostSummary = 300

var mostDetails = []int{2000, 800, 0}

// mostEntries bounds the alerts of a digest, and mostDescribed those with details.
const (
	mostEntries   = 150
	mostDescribed = 50
)

// compose puts as much of a notification into a digest as fits: all alerts with
// details, or else only their summaries, and at last as many of those as there is room
// for. Alerts that fire come first, and are left out last.
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

// title names the rule, the host, and how many alerts fire or have ended.
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
	word, summary := a.Labels["severity"], cmp.Or(oneLine(a.Annotations["summary"]), "an alert without a summary")
	if a.Status == statusResolved {
		word = "resolved"
	}
	if word != "" {
		summary = oneLine(word) + ": " + summary
	}
	e := paragraph{summary: cut(summary, mostSummary)}
	for line := range strings.Lines(cut(a.Annotations["description"], most)) {
		if line = oneLine(line); line != "" {
			e.details = append(e.details, line)
		}
	}
	return e
}

// rest says how many alerts a digest leaves out, or nothing.
func (d *digest) rest() string {
	switch d.more {
	case 0:
		return ""
	case 1:
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
