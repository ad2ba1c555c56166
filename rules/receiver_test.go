package rules

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
	if err := validate(t, compileSchema(t), []byte(text)); err != nil {
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
