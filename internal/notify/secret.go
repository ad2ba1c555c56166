package notify

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/sockdog/sockdog/rules"
)

// maxSecret bounds what a wrong path can cost: it is far above any bundle of
// certificates.
const maxSecret = 1 << 20

// read returns what a source holds. Its errors say where, and never what.
func read(s rules.Source) (string, error) {
	switch {
	case s.File != "":
		data, err := readFile(s.File)
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

func readFile(path string) ([]byte, error) {
	// Without O_NONBLOCK, opening a FIFO waits for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file that can be read (%v)", path, info.Mode().Type())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSecret {
		return nil, fmt.Errorf("%s is larger than %d bytes: is it the right file?", path, maxSecret)
	}
	return data, nil
}

// ordinary are parts of paths that no secret is made of.
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

const (
	// A secret shorter than leastSecret is none, and would be found in every text.
	leastSecret = 4
	// So much of a secret in one piece gives it away.
	window = 8
)

// hide puts dots in the place of every secret in a text, and of every piece of one. Who
// answers may repeat what was sent in capitals, cut off, or escaped for a URL, for JSON
// or for HTML.
func hide(text string, secrets []string) string {
	folded := lower(text)
	at := make(map[string][]int) // where the pieces of the text stand, of each length that is looked for
	for n := leastSecret; n <= window; n++ {
		for i := range len(folded) - n + 1 {
			at[folded[i:i+n]] = append(at[folded[i:i+n]], i)
		}
	}
	secret := make([]bool, len(text))
	mark := func(piece string) {
		for _, from := range at[piece] {
			for i := range piece {
				secret[from+i] = true
			}
		}
		delete(at, piece) // a secret may be a megabyte of the same
	}
	for _, s := range secrets {
		quoted := encode(s)
		for _, s := range []string{
			s, url.PathEscape(s), url.QueryEscape(s), html.EscapeString(s), string(quoted[1 : len(quoted)-1]), strings.ReplaceAll(s, "/", `\/`),
		} {
			switch s = lower(s); {
			case len(s) < leastSecret:
			case len(s) < window:
				mark(s)
			default:
				for i := range len(s) - window + 1 {
					mark(s[i : i+window])
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

// lower is a text with the small letters of ASCII, as long as before.
func lower(text string) string {
	b := []byte(text)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
