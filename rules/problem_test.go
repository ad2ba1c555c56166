package rules

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestExcerptsHideSecrets: whatever is wrong below receivers, no value of theirs is
// repeated, and the caret stays where the mistake is.
func TestExcerptsHideSecrets(t *testing.T) {
	const secret = "s3cr3t"
	for _, text := range []string{
		"receivers:\n  chat:\n    webhook:\n      url: https://a\n      bearer_token_file: s3cr3t\n",
		"receivers: {chat: {webhook: {urlz: \"https://hooks/s3cr3t\", timeout: soon}}}\n",
		"receivers: {chat: {webhook: {urls: [https://a/s3cr3t, 'https://a/s3cr3t', \"s3cr3t: x\"]}}}\n",
		"receivers:\n  chat:\n    webhook: {url: \"https://hooks/s3cr3t\n",
		"receivers:\n  chat:\n    webhook: s3cr3t\n",
		"receivers:\n  chat: &s3cr3t\n   webhook: *s3cr3t\n",
		"receivers:\n  chat:\n    webhook:\n      headers: {X: !s3cr3t s3cr3t}\n",
		"receivers:\n\tchat: s3cr3t\n",
		// Not at the beginning of a line, or on the one line of all.
		"{\n  \"receivers\": {\n    \"chat\": {\"webhook\": {\"url\": \"https://a/s3cr3t\", \"timeout\": 1}}}, \"rules\": []}\n",
		"{\n  \"receivers\": {\n    \"chat\": {\"webhook\": {\"urls\": \"s3cr3t\"\n}}}, \"rules\": [1]}\n",
		"{\"rules\":[{\"nam\":1}],\"receivers\":{\"chat\":{\"webhook\":{\"url\":\"s3cr3t\"}}}}\n",
		"{\n  \"receivers\": {\n    \"chat\": {\"webhook\": {\"url\": \"https://a/s3cr3t\" \"timeout\": 1}}}}\n",
		"  receivers:\n    chat: {webhook: {url: s3cr3t}}\n  rules: []\n",
		"  receivers:\n    chat: {webhook: {url: s3cr3t\n  rules: []\n",
		"# all\n---\n? receivers\n: {chat: {webhook: {url: s3cr3t}}}\n",
		"rules: []\n? receivers\n: {chat: {webhook: {url: s3cr3t\n",
		"receivers: {\nchat: {webhook: {url: s3cr3t\n",
		"receiver: {chat: {webhook: {url: \"https://s3cr3t\"}}}\nrules: []\n",
		// By an anchor.
		"x-chat: &chat\n  urls: s3cr3t\nreceivers:\n  chat: {webhook: *chat}\nrules: []\n",
		"<<: {receivers: {chat: {webhook: {url: s3cr3t}}}}\nrules: []\n",
		// What looks like a key.
		"receivers:\n  chat:\n    webhook:\n      bearer_token: s3cr3t:\n",
		"receivers:\n  chat:\n    webhook:\n      url: https://x/s3cr3t:\n      bearer_token_file: https://x/s3cr3t:\n",
		"receivers:\n  chat: {webhook: {url: http://a, basic_auth: {username: u, password: \"a\\\"s3cr3t: b\"}}}\n",
		"receivers:\n  chat: {webhook: {url: http://a, basic_auth: {username: u, password: 'a''s3cr3t: b'}}}\n",
		"receivers:\n  chat: {webhook: {url: http://a, basic_auth: {username: u, password: \"a\n    s3cr3t: b\"}}}\n",
		// In a wrong place, or badly joined.
		"receivers:\nwebhook:\nurl: https://a/s3cr3t\nrules: []\n",
		"receivers:\n  chat:\n    webhook:\n    url: https://a/s3cr3t\n",
		"receivers:\n  chat:\n    webhook:\n      url:https://a/s3cr3t\n      timeout: 1s\n",
		"receivers:\n  chat: {webhook: {url:https://a/s3cr3t, timeout: 1s}}\n",
		"receivers:\n  chat: {webhook: {url: https://a/s3cr3t headers: {X: !s3cr3t}}}\n",
		"chat: {webhook: {url: https://a/s3cr3t}}\nrules: []\n",
		"- chat: {webhook: {url: https://a/s3cr3t}}\n",
		"tests: [{receivers: {chat: {webhook: {url: s3cr3t}}}}]\n",
		// What stands where a name should.
		"receivers:\n  chat: {webhook: {url: http://a, headers: {\"Authorization: Bearer s3cr3t\"}}}\n",
		"receivers:\n  chat: {webhook: {url: http://a, headers: {\"Authorization: Bearer s3cr3t\", \"Authorization: Bearer s3cr3t\"}}}\n",
		"receivers:\n  chat: {webhook: {url: http://a, headers: {X!s3cr3t: a, x!s3cr3t: b}}}\n",
		"receivers:\n  chat: {webhook: {https://hooks/s3cr3t: x}}\n",
		"receivers:\n  chat: {webhook: {url: http://a, tls: {insecure_skip_verify: \"/s3cr3t\"}, timeout: s3cr3t}}\n",
		"receivers:\n  https://hooks/s3cr3t: {webhook: {url: http://a}}\n  https://hooks/s3cr3t: {}\n",
		"receivers:\n  https://hooks/s3cr3t: {webhook: {url: http://a}}\nrules:\n  - {name: a, match: {state: close-wait, in_state_for: 1m}, then: {alert: {to: chat}}}\n",
		"receivers:\n  chat: {webhook: {url: http://a}, https://hooks/s3cr3t: x}\n",
	} {
		_, err := Parse(strings.NewReader(text))
		problems, ok := errors.AsType[Problems](err)
		if !ok {
			t.Errorf("%q is not refused: %v", text, err)
		}
		for _, p := range problems {
			if strings.Contains(p.Text+p.Msg, secret) {
				t.Errorf("%q\nis said to be %s", text, Problems{p}.Report("f"))
			}
			if raw := strings.Split(text, "\n")[p.Line-1]; utf8.RuneCountInString(p.Text) != utf8.RuneCountInString(raw) {
				t.Errorf("%q became %q: the caret would stand elsewhere", raw, p.Text)
			}
		}
	}
	for text, shown := range map[string]string{
		"receivers:\n  Chat: {webhook: {url: http://a}}\nrules: []\n":           "  ••••: {webhook: {url: ••••••••}}",
		"receivers:\n  chat: {webhook: {url: a, headers: {X: b}}}\nrules: []\n": "  chat: {webhook: {url: •, headers: {•: •}}}",
		"x-match: &m {stat: close-wait}\nrules:\n  - {name: a, match: *m}\n":    "x-match: &m {stat: close-wait}",
		"{\n \"receivers\": {},\n \"rules\": [{\"nam\": \"a\"}]\n}\n":           " \"rules\": [{\"nam\": \"a\"}]",
		"receivers: {}\nrules:\n- name: [a\n":                                   "- name: [a",
	} {
		_, err := Parse(strings.NewReader(text))
		if problems, _ := errors.AsType[Problems](err); len(problems) == 0 || problems[0].Text != shown {
			t.Errorf("%q is said to be %v, want %q", text, problems.Report("f"), shown)
		}
	}
	_, err := Parse(strings.NewReader("receivers:\n  a: {webhook: {url: http://a}}\nrules:\n  - nam: s3cr3t\n"))
	if problems, _ := errors.AsType[Problems](err); !strings.Contains(problems.Report("f"), secret) {
		t.Errorf("of a rule all is shown: %v", err)
	}
}
