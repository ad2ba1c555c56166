package document

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// reported marks a node whose value cannot be trusted and about which the reader
// has been told.
const reported yaml.Kind = 0

// maxMerges is how deeply merge keys may nest; a mapping that merges itself has
// no end.
const maxMerges = 10

// check walks the whole document once, aliases not followed, for what YAML would
// twist without a word, wherever it stands.
func (r *Reader) check(n *yaml.Node) {
	r.budget += cost(n)
	if tag := r.tag(n); tag != "" {
		r.reportTag(n, tag)
		n.Kind = reported
		return
	}
	if n.Kind == yaml.MappingNode {
		seen := make(map[string]*yaml.Node, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode {
				continue // reported when the mapping is read
			}
			if first := seen[key.Value]; first != nil {
				name := message.Errorf("this key")
				if r.MayQuote(key, key.Value) {
					name = message.Errorf("%q", key.Value)
				}
				r.Report(key, "%v appears twice in this mapping, first on line %d: remove one", name, first.Line)
				continue
			}
			seen[key.Value] = key
		}
	}
	for _, c := range n.Content {
		r.check(c)
	}
}

// tag returns the tag written before a node. The decoder leaves no trace of a
// tag that is a lone "!", so the source is asked.
func (r *Reader) tag(n *yaml.Node) string {
	if n.Kind == yaml.AliasNode {
		return ""
	}
	rest, line := r.from(n), n.Line
	if strings.HasPrefix(rest, "&") { // an anchor may stand before the tag, even lines before
		rest = strings.TrimLeft(rest[len(anchorName(rest)):], " \t")
		for (rest == "" || rest[0] == '#') && line < len(r.lines) {
			line++
			rest = strings.TrimLeft(r.line(line), " \t")
		}
	}
	if !strings.HasPrefix(rest, "!") {
		return ""
	}
	return untilBlank(rest)
}

// untilBlank returns the first word of s, or as much of it as is ever shown.
func untilBlank(s string) string {
	s = s[:min(len(s), message.MaxValue+1)]
	if end := strings.IndexAny(s, " \t"); end >= 0 {
		return s[:end]
	}
	return s
}

// anchorName returns the anchor that s begins with, and its &.
func anchorName(s string) string {
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '_', c == '-', '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z':
		default:
			return s[:i]
		}
	}
	return s
}

func (r *Reader) reportTag(n *yaml.Node, tag string) {
	if r.hides(n.Line) { // a password may begin like a tag
		r.Report(n, "YAML reads a value that begins with ! as a tag: put it in quotes")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 && !strings.HasPrefix(tag, "!!") {
		value := strings.TrimRight(tag+" "+n.Value, " ")
		r.Report(n, "YAML reads %q as a tag and drops it: write the value in quotes: '%s'", tag, strings.ReplaceAll(value, "'", "''"))
		return
	}
	r.Report(n, "the YAML tag %q has no meaning here: remove it", tag)
}

// IsNull reports whether a scalar is YAML's null: nothing at all, ~ or null.
func IsNull(n *yaml.Node) bool {
	return n.Tag == "!!null"
}

// Target is what an alias stands for, and any other node itself.
func Target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// Resolve follows an alias and counts the value read. It returns nil where there
// is nothing to read, after saying so.
func (r *Reader) Resolve(n *yaml.Node) *yaml.Node {
	n = Target(n)
	if n.Kind == reported {
		r.Again()
		return nil
	}
	if !r.spend(n, cost(n)) {
		return nil
	}
	if n.Kind == yaml.ScalarNode && IsNull(n) {
		r.Report(n, "the value is empty: write one, or remove its key")
		return nil
	}
	return n
}

// spend takes values read from the budget, and reports false once it is used up.
func (r *Reader) spend(n *yaml.Node, values int) bool {
	if r.budget < 0 {
		return false
	}
	r.budget -= values
	if r.budget < 0 {
		r.Report(n, "the aliases of this file expand to too much: use fewer")
		return false
	}
	return true
}

// cost is how much of the budget a value takes: more where its text is long.
func cost(n *yaml.Node) int { return 1 + len(n.Value)/32 }

// Scalar returns the node of a scalar. Its Value is the text as written:
// YAML's own reading of 010, yes or 1e3 is never used.
func (r *Reader) Scalar(n *yaml.Node, want string) *yaml.Node {
	if n = r.Resolve(n); n == nil {
		return nil
	}
	if n.Kind != yaml.ScalarNode {
		r.Report(n, "%s belongs here, not %s", want, KindName(n))
		return nil
	}
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 && strings.TrimSpace(n.Value) == "" {
		r.Report(n, "YAML reads this as the start of a text of several lines, and none follows: put a value that begins with > or | in quotes, such as \"> 1\"")
		return nil
	}
	return n
}

// KindName is what kind of node it is, in words.
func KindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}

// KeyNode is the key of that name in a mapping; nil: there is none.
func KeyNode(n *yaml.Node, name string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i]
		}
	}
	return nil
}

// Entry is one key of a mapping with its value.
type Entry struct{ Key, Value *yaml.Node }

// Entries lists a mapping's keys, merge keys (<<) resolved: what the mapping
// says itself comes first and wins.
func (r *Reader) Entries(n *yaml.Node, depth int) []Entry {
	if !r.spend(n, len(n.Content)/2) {
		return nil
	}
	var own, merged []Entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := Target(n.Content[i]), n.Content[i+1]
		switch {
		case key.Kind == reported:
			r.Again()
		case key.Kind != yaml.ScalarNode:
			r.Report(key, "a key must be a word, not %s", KindName(key))
		case key.Tag == "!!merge":
			merged = append(merged, r.merge(value, depth)...)
		default:
			own = append(own, Entry{key, value})
		}
	}
	return append(own, merged...)
}

// merge lists the entries that a merge key brings: of one mapping or of several.
func (r *Reader) merge(n *yaml.Node, depth int) []Entry {
	if depth == maxMerges {
		r.Report(n, "merge keys are nested more than %d deep", maxMerges)
		return nil
	}
	if n = r.Resolve(n); n == nil {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		return r.Entries(n, depth+1)
	case yaml.SequenceNode:
		var all []Entry
		for _, item := range n.Content {
			all = append(all, r.merge(item, depth+1)...)
		}
		return all
	default:
		r.Report(n, "a merge key takes a mapping, such as <<: *anchor")
		return nil
	}
}

// Named lists the entries of a mapping whose keys the writer chooses.
func (r *Reader) Named(n *yaml.Node, what string) []Entry {
	if n = r.Resolve(n); n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.Report(n, "%s is a mapping of names to values, not %s", what, KindName(n))
		return nil
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(r.Entries(n, 0), func(e Entry) bool {
		again := seen[e.Key.Value] // reported, or merged behind the mapping's own
		seen[e.Key.Value] = true
		return again
	})
}
