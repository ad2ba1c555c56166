package rules

import (
	"net/url"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
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
		return "this is an address of " + s.name + ", not of an Alertmanager: write a webhook with format: " + string(s.format)
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
		if len(part) >= 16 && document.Only(part, document.Letters+document.Digits+"_-") && slices.ContainsFunc(strings.FieldsFunc(part, isJoint), random) {
			return true
		}
	}
	return false
}

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

// lintReceiver warns of secrets and trust that are given away, and of messages that
// will be refused.
func (p *parser) lintReceiver(a *address) {
	for _, name := range []string{"url", "urls"} {
		if a.given.Wrote(name) {
			p.lintURLs(a, a.given[name])
		}
	}
	for _, h := range a.headers {
		if h.Text != "" && strings.EqualFold(h.name, "Authorization") {
			p.Report(h.at, "everyone who reads this file sees the secret: use header_files or header_env")
		}
	}
	if a.TLS.InsecureSkipVerify {
		p.Report(a.tlsGiven["insecure_skip_verify"], "any certificate is accepted: whoever answers gets the alerts and the credentials; use ca_file to trust one authority")
	}
}

// lintURLs warns of what is wrong with one of the URLs, once of each kind.
func (p *parser) lintURLs(a *address, at *yaml.Node) {
	misfit, secret := false, false
	for _, s := range a.URLs {
		u, err := url.Parse(s.Text)
		if err != nil {
			continue // reported
		}
		if what := a.Misfit(u); what != "" && !misfit {
			misfit = true
			p.Report(at, "%s", message.Phrase(what))
		}
		if holdsSecret(u) && !secret {
			secret = true
			p.Report(at, "this URL holds a secret, and everyone who reads this file can post to it: use url_file or url_env")
		}
	}
}
