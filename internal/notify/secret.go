package notify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/sockdog/sockdog/internal/readfile"
	"github.com/sockdog/sockdog/rules"
)

// read returns what a source holds. Its errors name the source, and never its content.
func read(s rules.Source) (string, error) {
	switch {
	case s.File != "":
		data, err := readfile.Regular(s.File)
		if err != nil {
			return "", err
		}
		if data = bytes.TrimSpace(data); len(data) == 0 {
			return "", fmt.Errorf("%s is empty", s.File)
		}
		return string(data), nil
	case s.Env != "":
		value := strings.TrimSpace(os.Getenv(s.Env))
		if value == "" {
			return "", fmt.Errorf("the environment variable %s is not set", s.Env)
		}
		return value, nil
	default:
		return s.Text, nil
	}
}

// ordinary are parts of paths that are never secret.
var ordinary = []string{
	"alerts", "channels", "enqueue", "hook", "hooks", "incoming", "integrations", "invoke", "manual", "messages", "notify", "paths",
	"services", "spaces", "triggers", "webhook", "webhooks", "webhookb2", "workflows",
}

// urlSecrets are the parts of a URL that may be secret: of its path and its query.
func urlSecrets(u *url.URL) []string {
	var secrets []string
	for part := range strings.SplitSeq(u.Path, "/") {
		if !slices.Contains(ordinary, strings.ToLower(part)) {
			secrets = append(secrets, part)
		}
	}
	secrets = append(secrets, u.RawQuery)
	for _, values := range u.Query() {
		secrets = append(secrets, values...)
	}
	return secrets
}

// secretKeys stand in the keys of JSON whose values may be secret.
var secretKeys = []string{"auth", "credential", "key", "password", "secret", "signature", "token"}

// bodySecrets are the texts in a message that may be secret, by their keys: some receivers
// take theirs there, and it stands in the rules file.
func bodySecrets(body []byte) []string {
	var value any
	if json.Unmarshal(body, &value) != nil {
		return nil
	}
	var secrets []string
	var walk func(value any, secret bool)
	walk = func(value any, secret bool) {
		switch value := value.(type) {
		case string:
			if secret {
				secrets = append(secrets, value)
			}
		case []any:
			for _, v := range value {
				walk(v, secret)
			}
		case map[string]any:
			for key, v := range value {
				named := slices.ContainsFunc(secretKeys, func(s string) bool { return strings.Contains(strings.ToLower(key), s) })
				walk(v, secret || named)
			}
		}
	}
	walk(value, false)
	return secrets
}

const (
	// A secret shorter than leastSecret is none, and would be found in every text.
	leastSecret = 4
	// So much of a secret in one piece gives it away.
	window = 8
)

// hide puts dots in the place of every secret in a text, and of every piece of one.
// A receiver may repeat what it was sent in capitals, cut off, or escaped for a URL, for
// JSON or for HTML.
func hide(text string, secrets []string) string {
	folded := lower(text)
	secret := make([]bool, len(text))
	for _, s := range secrets {
		quoted := encode(s)
		for _, s := range []string{ // in all forms
			s, url.PathEscape(s), url.QueryEscape(s), inHTML.Replace(s), string(quoted[1 : len(quoted)-1]), strings.ReplaceAll(s, "/", `\/`),
		} {
			s = lower(s)
			n := min(len(s), window)
			for i := 0; n >= leastSecret && i+n <= len(folded); i++ {
				if strings.Contains(s, folded[i:i+n]) {
					for j := range n {
						secret[i+j] = true
					}
				}
			}
		}
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !secret[i]:
			b.WriteByte(text[i])
		case i == 0 || !secret[i-1]:
			b.WriteString("•••")
		}
	}
	return b.String()
}

var inHTML = strings.NewReplacer("&", "&amp;", "'", "&#39;", "<", "&lt;", ">", "&gt;", `"`, "&#34;")

// lower lowers the letters of ASCII alone, so that a text keeps its length.
func lower(text string) string {
	b := []byte(text)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
