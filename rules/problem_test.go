package rules

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	tests := map[string]struct {
		problem Problem
		want    string
	}{
		"plain":                 {Problem{3, 5, "bad", "abcdefg"}, "f:3:5: bad\n    3 | abcdefg\n      |     ^\n"},
		"tabs have one width":   {Problem{1, 3, "bad", "\t\tx"}, "f:1:3: bad\n    1 |         x\n      |         ^\n"},
		"wide characters":       {Problem{1, 3, "bad", "日本x"}, "f:1:3: bad\n    1 | 日本x\n      |     ^\n"},
		"combining characters":  {Problem{1, 3, "bad", "e\u0301x"}, "f:1:3: bad\n    1 | e\u0301x\n      |  ^\n"},
		"no terminal sequences": {Problem{1, 5, "bad", "\x1b[1mx"}, "f:1:5: bad\n    1 | \uFFFD[1mx\n      |     ^\n"},
		"behind the end":        {Problem{1, 3, "bad", "ab"}, "f:1:3: bad\n    1 | ab\n      |   ^\n"},
		"empty line":            {Problem{7, 1, "bad", ""}, "f:7:1: bad\n"},
		"long line, middle": {
			Problem{1, 201, "bad", strings.Repeat("a", 200) + "X" + strings.Repeat("b", 200)},
			"f:1:201: bad\n    1 | …" + strings.Repeat("a", 50) + "X" + strings.Repeat("b", 49) + "…\n      | " + strings.Repeat(" ", 51) + "^\n",
		},
		"long line, end": {
			Problem{1, 201, "bad", strings.Repeat("a", 200)},
			"f:1:201: bad\n    1 | …" + strings.Repeat("a", 100) + "\n      | " + strings.Repeat(" ", 101) + "^\n",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Problems{tt.problem}.Report("f")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	names := []string{"state", "sport", "dport", "src", "dst", "in_state_for", "idle_for", "verdict"}
	tests := map[string]string{
		"dprot": "dport", "DPORT": "dport", "d-port": "dport", "state_for": "in_state_for", "in_state": "in_state_for", "instatefor": "in_state_for",
		"stat": "state", "srcs": "src", "verdicts": "verdict", "x": "", "colour": "", "": "", strings.Repeat("state", 100): "",
	}
	for written, want := range tests {
		if got := nearest(written, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", written, got, want)
		}
	}
}

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
	} {
		_, err := Parse(strings.NewReader(text))
		problems, ok := errors.AsType[Problems](err)
		if !ok {
			t.Errorf("%q is not refused: %v", text, err)
		}
		for _, p := range problems {
			if strings.Contains(p.Text, secret) {
				t.Errorf("%q\nis said to be %s", text, Problems{p}.Report("f"))
			}
			if raw := strings.Split(text, "\n")[p.Line-1]; utf8.RuneCountInString(p.Text) != utf8.RuneCountInString(raw) {
				t.Errorf("%q became %q: the caret would stand elsewhere", raw, p.Text)
			}
		}
	}
	_, err := Parse(strings.NewReader("receivers:\n  a: {webhook: {url: http://a}}\nrules:\n  - nam: s3cr3t\n"))
	if problems, _ := errors.AsType[Problems](err); !strings.Contains(problems.Report("f"), secret) {
		t.Errorf("of a rule all is shown: %v", err)
	}
}
