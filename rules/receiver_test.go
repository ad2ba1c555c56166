package rules

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/rules/internal/schematest"
)

func TestReceivers(t *testing.T) {
	const text = `
x-tls: &tls {ca_file: /etc/ca.pem, cert_file: /etc/cert.pem, key_file: /etc/key.pem, server_name: alerts}
receivers:
  oncall:
    alertmanager:
      urls: ["http://alertmanager-0:9093", "https://[2001:db8::1]/am/"]
      tls: *tls
      timeout: 3s
  chat:
    webhook:
      url_file: /run/secrets/chat-url
      headers: {X-Team: data}
      header_files: {X-Token: /run/secrets/token}
      header_env: {Authorization: CHAT_TOKEN}
  a: {alertmanager: {url_env: ALERTMANAGER, bearer_token_file: /run/token}}
  b: {webhook: {url: "https://hooks.example.com/T0/B0?x=y", basic_auth: {username: me, password_file: /run/password}, tls: {insecure_skip_verify: true}}}
  slack: {webhook: {format: slack, url_env: SLACK_URL}}
  pager: {webhook: {format: pagerduty, routing_key_file: /run/secrets/pager}}
  pager-eu: {webhook: {format: pagerduty, url: "https://events.eu.pagerduty.com/v2/enqueue", routing_key_env: PAGER}}
rules: []
`
	want := []Receiver{
		{
			Name: "oncall", Form: Alertmanager, Timeout: 3 * time.Second, Headers: map[string]Source{},
			URLs: []Source{{Text: "http://alertmanager-0:9093/api/v2/alerts"}, {Text: "https://[2001:db8::1]/am/api/v2/alerts"}},
			TLS:  TLS{CAFile: "/etc/ca.pem", CertFile: "/etc/cert.pem", KeyFile: "/etc/key.pem", ServerName: "alerts"},
		},
		{
			Name: "chat", Form: Webhook, Format: FormatAlertmanager, Timeout: 10 * time.Second, URLs: []Source{{File: "/run/secrets/chat-url"}},
			Headers: map[string]Source{"X-Team": {Text: "data"}, "X-Token": {File: "/run/secrets/token"}, "Authorization": {Env: "CHAT_TOKEN"}},
		},
		{
			Name: "a", Form: Alertmanager, Timeout: 10 * time.Second, URLs: []Source{{Env: "ALERTMANAGER"}},
			Headers: map[string]Source{}, Bearer: Source{File: "/run/token"},
		},
		{
			Name: "b", Form: Webhook, Format: FormatAlertmanager, Timeout: 10 * time.Second, URLs: []Source{{Text: "https://hooks.example.com/T0/B0?x=y"}},
			Headers: map[string]Source{}, BasicAuth: BasicAuth{Username: "me", Password: Source{File: "/run/password"}}, TLS: TLS{InsecureSkipVerify: true},
		},
		{
			Name: "slack", Form: Webhook, Format: FormatSlack, Timeout: 10 * time.Second, URLs: []Source{{Env: "SLACK_URL"}}, Headers: map[string]Source{},
		},
		{
			Name: "pager", Form: Webhook, Format: FormatPagerDuty, Timeout: 10 * time.Second, RoutingKey: Source{File: "/run/secrets/pager"},
			URLs: []Source{{Text: "https://events.pagerduty.com/v2/enqueue"}}, Headers: map[string]Source{},
		},
		{
			Name: "pager-eu", Form: Webhook, Format: FormatPagerDuty, Timeout: 10 * time.Second, RoutingKey: Source{Env: "PAGER"},
			URLs: []Source{{Text: "https://events.eu.pagerduty.com/v2/enqueue"}}, Headers: map[string]Source{},
		},
	}
	if diff := cmp.Diff(want, mustParse(t, text).Receivers); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := schematest.Validate(t, schematest.Compile(t, Schema()), []byte(text)); err != nil {
		t.Errorf("the schema refuses it: %v", err)
	}
}

func TestTarget(t *testing.T) {
	tests := map[string]struct{ alertmanager, webhook string }{
		"http://a":                              {"http://a/api/v2/alerts", "http://a"},
		"http://a/":                             {"http://a/api/v2/alerts", "http://a/"},
		"http://a:9093/api/v2/alerts":           {"http://a:9093/api/v2/alerts", "http://a:9093/api/v2/alerts"},
		"http://a//":                            {"http://a/api/v2/alerts", "http://a//"},
		"http://a/api/v2/alerts/":               {"http://a/api/v2/alerts", "http://a/api/v2/alerts/"},
		"http://a/api/v2":                       {"http://a/api/v2/alerts", "http://a/api/v2"},
		"http://a/p/api/v2/?b=c":                {"http://a/p/api/v2/alerts?b=c", "http://a/p/api/v2/?b=c"},
		"http://a/my-api/v2":                    {"http://a/my-api/v2/api/v2/alerts", "http://a/my-api/v2"},
		"https://a/prefix":                      {"https://a/prefix/api/v2/alerts", "https://a/prefix"},
		"https://a/prefix/?tenant=1":            {"https://a/prefix/api/v2/alerts?tenant=1", "https://a/prefix/?tenant=1"},
		"http://10.0.0.1:9093":                  {"http://10.0.0.1:9093/api/v2/alerts", "http://10.0.0.1:9093"},
		"https://h/services/T0%2FB0?token=a%23": {"https://h/services/T0%2FB0/api/v2/alerts?token=a%23", "https://h/services/T0%2FB0?token=a%23"},
	}
	for text, want := range tests {
		for form, want := range map[Form]string{Alertmanager: want.alertmanager, Webhook: want.webhook} {
			if got, err := form.Target(text); err != nil || got != want {
				t.Errorf("%s: Target(%q) = %q, %v; want %q", form, text, got, err, want)
			}
		}
	}
	for _, text := range []string{
		"", "hush", "//hush", "http:hush", "http://", "http://:80", "HTTP//hush", "file:///hush", "http://a:0/hush", "http://a:65536/hush", "http://a:b/hush",
		"http://me:hush@a", "http://hush@a", "http://a/hush#", "http://a\x7f/hush", "http://[::1/hush", "http://a/%zzhush",
	} {
		switch got, err := Webhook.Target(text); {
		case err == nil:
			t.Errorf("Target(%q) = %q, want an error", text, got)
		case strings.Contains(err.Error(), "hush"):
			t.Errorf("Target(%q) gives the secret away: %v", text, err)
		}
	}
}

func TestReceiverWithBody(t *testing.T) {
	const text = `
receivers:
  telegram:
    webhook:
      url_file: /run/secrets/telegram-url
      body: |
        {"chat_id": -1001, "text": {{.Text}}}
rules: []
`
	r := mustParse(t, text).Receivers[0]
	if r.Format != "" || r.Body.String() != "{\"chat_id\": -1001, \"text\": {{.Text}}}\n" {
		t.Errorf("%+v", r)
	}
	if err := schematest.Validate(t, schematest.Compile(t, Schema()), []byte(text)); err != nil {
		t.Errorf("the schema refuses it: %v", err)
	}
}

// What a receiver's lint knows of hosts.
func TestServices(t *testing.T) {
	tests := map[string]struct {
		format Format
		secret bool
	}{
		"https://hooks.slack.com/services/T/B/x":                                   {FormatSlack, true},
		"https://HOOKS.slack.com./services/T/B/x":                                  {FormatSlack, true},
		"https://hooks.slack.com/triggers/T/1/x":                                   {"", true},
		"https://hooks.slack.com.example.com/services/T/B/x":                       {"", false},
		"https://discord.com/api/webhooks/1/x":                                     {FormatDiscord, true},
		"https://ptb.discord.com/api/v10/webhooks/1/x?wait=true":                   {FormatDiscord, true},
		"https://discord.com/api/webhooks/1/x/slack":                               {FormatSlack, true},
		"https://discord.com/api/webhooks/1/x/github":                              {"", true},
		"https://default1.2.environment.api.powerplatform.com:443/powerautomate/x": {FormatTeams, true},
		"https://a.webhook.office.com/webhookb2/x":                                 {FormatTeams, true},
		"https://events.eu.pagerduty.com/v2/enqueue":                               {FormatPagerDuty, false},
		"https://acme.cloud.mattermost.com/hooks/x":                                {FormatSlack, true},
		"https://open.rocket.chat/hooks/a/b":                                       {FormatSlack, true},
		"https://chat.googleapis.com/v1/spaces/A/messages?key=a":                   {FormatSlack, true},
		"https://example.com/hooks/4z5kw1pbf3yc9xj8r6t7n2m1qa":                     {"", true},
		"https://example.com/hooks/123e4567-e89b-12d3-a456-426614174000":           {"", true},
		"https://example.com/?Token=x":                                             {"", true},
		"https://example.com/?token=":                                              {"", false},
		"https://example.com/alertmanager-webhook-v2/alerts-2026":                  {"", false},
		"http://prometheus-msteams.monitoring.svc.cluster.local:2000/alertmanager": {"", false},
		"http://10.0.0.1:9093/api/v2/alerts":                                       {"", false},
		"http://alertmanager.example.com/0123456789012345/":                        {"", false},
	}
	for text, want := range tests {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if format, secret := serviceOf(u).format, holdsSecret(u); format != want.format || secret != want.secret {
			t.Errorf("%s: format %q, secret %v; want %q, %v", text, format, secret, want.format, want.secret)
		}
	}
}
