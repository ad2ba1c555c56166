package rules

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// service is one that is known by its host.
type service struct {
	name   string
	format Format
	secret bool // who knows the URL can post
}

// serviceOf is the service that a URL leads to; without a name, that is not known.
func serviceOf(u *url.URL) service {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	under := func(domain string) bool { return host == domain || strings.HasSuffix(host, "."+domain) }
	within := func(path string) bool { return strings.HasPrefix(u.Path, path) }
	switch {
	case host == "hooks.slack.com" || host == "hooks.slack-gov.com":
		if !within("/services/") { // a workflow of Slack's takes what its author wants
			return service{"Slack", "", true}
		}
		return service{"Slack", FormatSlack, true}
	case host == "chat.googleapis.com":
		return service{"Google Chat", FormatSlack, true}
	case (under("discord.com") || under("discordapp.com")) && within("/api/"):
		switch {
		case strings.HasSuffix(u.Path, "/slack"):
			return service{"Discord", FormatSlack, true}
		case strings.HasSuffix(u.Path, "/github"):
			return service{"Discord", "", true}
		}
		return service{"Discord", FormatDiscord, true}
	case under("webhook.office.com") || under("logic.azure.com") || under("api.powerplatform.com"):
		return service{"Teams", FormatTeams, true}
	case host == "api.telegram.org":
		return service{"Telegram", "", true}
	case host == "events.pagerduty.com" || host == "events.eu.pagerduty.com":
		return service{"PagerDuty", FormatPagerDuty, false}
	case under("cloud.mattermost.com") && within("/hooks/"):
		return service{"Mattermost", FormatSlack, true}
	case under("rocket.chat") && within("/hooks/"):
		return service{"Rocket.Chat", FormatSlack, true}
	}
	return service{}
}

// Misfit says that a message of the receiver is nothing for whoever is at the URL, and
// what is, if that is known; else nothing.
func (r *Receiver) Misfit(u *url.URL) string {
	s := serviceOf(u)
	switch {
	case s.format == "" || s.format == r.Format:
		return ""
	case r.Form == Alertmanager:
		return "this is an address of " + s.name + " and of no Alertmanager: write a webhook with format: " + string(s.format)
	case r.Format == "":
		return ""
	}
	return "this is an address of " + s.name + ", which does not take the format " + string(r.Format) + ": write format: " + string(s.format)
}

// holdsSecret reports whether whoever knows a URL can post to it, as far as that shows:
// it is that of a chat, or some of it looks as if chance had made it.
func holdsSecret(u *url.URL) bool {
	if serviceOf(u).secret {
		return true
	}
	for name, values := range u.Query() {
		switch strings.ToLower(name) {
		case "key", "sig", "signature", "token", "access_token", "api_key", "apikey", "secret", "password":
			if strings.Join(values, "") != "" {
				return true
			}
		}
	}
	for part := range strings.SplitSeq(u.Path, "/") {
		if len(part) >= 16 && tokenChars.MatchString(part) && slices.ContainsFunc(strings.FieldsFunc(part, isJoint), random) {
			return true
		}
	}
	return false
}

// tokenChars are what tokens are made of.
var tokenChars = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// isJoint reports whether a character joins words.
func isJoint(r rune) bool { return r == '-' || r == '_' }

// random reports whether a piece looks as if chance had made it: words and years, such
// as those of eu-central-1-prod-2024, are short, or have no digits.
func random(piece string) bool {
	n := digits(piece)
	return len(piece) >= 8 && n >= 2 && n < len(piece)
}

func digits(text string) (n int) {
	for _, c := range text {
		if '0' <= c && c <= '9' {
			n++
		}
	}
	return n
}
