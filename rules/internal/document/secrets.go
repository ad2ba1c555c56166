package document

import (
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// closed reports whether a secret may stand below a key at the top level.
func (r *Reader) closed(key string) bool { return !slices.Contains(r.format.Open, key) }

// hide finds the lines of what is closed; below keys that begin with x- it is those alone
// that something closed has an alias to.
func (r *Reader) hide(root *yaml.Node) {
	if root.Kind != yaml.MappingNode {
		return
	}
	r.hidden = make([]bool, len(r.lines))
	used, walked := map[*yaml.Node]bool{}, map[*yaml.Node]bool{}
	extra := func(key string) bool { return strings.HasPrefix(key, "x-") }
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i].Value, root.Content[i+1]
		if r.closed(key) && !extra(key) {
			aliased(value, used, walked)
		}
		if key == r.format.Named {
			for j, n := range Target(value).Content {
				if j%2 == 0 && IsName(n.Value) {
					r.words[n.Value] = true
				}
			}
		}
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		if !r.closed(key.Value) || extra(key.Value) && !within(root.Content[i+1], used) {
			continue
		}
		end := len(r.lines)
		if i+2 < len(root.Content) { // the line of the next key too, where something stands before that
			next := root.Content[i+2]
			end = next.Line
			if indentation(r.line(end))+r.from(next) == r.line(end) {
				end--
			}
		}
		for line := key.Line; line <= end; line++ {
			r.hidden[line-1] = true
		}
	}
}

// aliased collects what the aliases within a node stand for. What has an anchor is
// walked once.
func aliased(n *yaml.Node, into, walked map[*yaml.Node]bool) {
	if n.Kind == yaml.AliasNode {
		into[n.Alias] = true
		n = n.Alias
	}
	if n.Anchor != "" {
		if walked[n] {
			return
		}
		walked[n] = true
	}
	for _, c := range n.Content {
		aliased(c, into, walked)
	}
}

// within reports whether one of the nodes is n or stands in it.
func within(n *yaml.Node, nodes map[*yaml.Node]bool) bool {
	return nodes[n] || slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return within(c, nodes) })
}

// hides reports whether a line may hold a secret. Of a text that is no YAML only what
// is below an open key that begins its line is known to hold none.
func (r *Reader) hides(number int) bool {
	number = min(max(number, 1), len(r.lines))
	if r.hidden != nil {
		return r.hidden[number-1]
	}
	first := 1
	for first <= len(r.lines) && needsNoKey(r.line(first)) {
		first++
	}
	if first <= len(r.lines) && topLevel(r.line(first)) == "" {
		return true
	}
	for ; number >= first; number-- {
		line := r.line(number)
		switch key := topLevel(line); {
		case key != "":
			return r.closed(key)
		case line != "" && strings.IndexAny(line, " \t#-]}") != 0:
			return true
		}
	}
	return false
}

// topLevel is the key that a line begins with, or "".
func topLevel(line string) string {
	key, _, _ := strings.Cut(line, ":")
	if len(key) == len(line) {
		return ""
	}
	if key = strings.Trim(strings.TrimRight(key, " \t"), `"'`); !Only(key, Letters+Digits+"_-") {
		return ""
	}
	return key
}

// needsNoKey reports whether a line may stand before the first key.
func needsNoKey(line string) bool {
	line = strings.Trim(line, " \t")
	return line == "" || line[0] == '#' || line == "---"
}

// masked is a line with a dot for each character that is not of a known word, because it
// may be of a secret, and excerpts end in logs. Punctuation stays, and so does the column
// of everything.
func (r *Reader) masked(line string) string {
	const longest = 10_000 // of lines whose words are looked for
	if len(line) > longest {
		return strings.Map(func(c rune) rune {
			if strings.ContainsRune(" \t{}[],", c) {
				return c
			}
			return '•'
		}, line)
	}
	return tokens().ReplaceAllStringFunc(line, func(t string) string {
		rest, isKey := strings.CutSuffix(t, ":")
		if t == "-" || isKey && r.words[strings.Trim(rest, `"'`)] {
			return t
		}
		quote, end := "", t[len(rest):]
		if rest != "" && strings.ContainsAny(rest[:1], `"'`) {
			quote, rest = rest[:1], rest[1:]
			if body, closed := strings.CutSuffix(rest, quote); closed {
				rest, end = body, quote+end
			}
		}
		return quote + strings.Repeat("•", utf8.RuneCountInString(rest)) + end
	})
}

var tokens = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`"(?:[^"\\]|\\.)*(?:"|\\?$):?|'[^']*(?:''[^']*)*'?:?|[^\s{}\[\],]+`)
})

// MayQuote reports whether a message about a node can repeat a text: one that cannot be
// a URL or a header in the wrong place, or that stands where there are no secrets.
func (r *Reader) MayQuote(n *yaml.Node, text string) bool {
	return !r.hides(n.Line) || len(text) <= 40 && Only(text, Letters+Digits+"_-")
}
