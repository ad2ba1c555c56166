package rules

import (
	"strings"

	"gopkg.in/yaml.v3"
)

// reported marks a node whose value cannot be trusted and about which the reader
// has been told.
const reported yaml.Kind = 0

// maxMerges is how deeply merge keys may nest; a mapping that merges itself has
// no end.
const maxMerges = 10

// check walks the whole document once, aliases not followed, for what YAML would
// twist without a word, wherever it stands.
func (p *parser) check(n *yaml.Node) {
	p.budget += cost(n)
	if tag := p.tag(n); tag != "" {
		p.reportTag(n, tag)
		n.Kind = reported
		return
	}
	p.aliases = p.aliases || n.Kind == yaml.AliasNode
	if n.Kind == yaml.MappingNode {
		seen := make(map[string]*yaml.Node, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode {
				continue // reported when the mapping is read
			}
			if first := seen[key.Value]; first != nil {
				name := errorf("this key")
				if p.mayQuote(key, key.Value) {
					name = errorf("%q", key.Value)
				}
				p.report(key, "%v stands twice in this mapping, first on line %d: remove one", name, first.Line)
				continue
			}
			seen[key.Value] = key
		}
	}
	for _, c := range n.Content {
		p.check(c)
	}
}

// tag returns the tag written before a node. The decoder leaves no trace of a
// tag that is a lone "!", so the source is asked.
func (p *parser) tag(n *yaml.Node) string {
	if n.Kind == yaml.AliasNode {
		return ""
	}
	rest, line := p.from(n), n.Line
	if strings.HasPrefix(rest, "&") { // an anchor may stand before the tag, even lines before
		rest = strings.TrimLeft(rest[len(anchorName(rest)):], " \t")
		for (rest == "" || rest[0] == '#') && line < p.lineCount() {
			line++
			rest = strings.TrimLeft(p.line(line), " \t")
		}
	}
	if !strings.HasPrefix(rest, "!") {
		return ""
	}
	return untilBlank(rest)
}

// untilBlank returns the first word of s, or as much of it as is ever shown.
func untilBlank(s string) string {
	s = s[:min(len(s), maxShown+1)]
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

func (p *parser) reportTag(n *yaml.Node, tag string) {
	if p.hides(n.Line) { // a password may begin like a tag
		p.report(n, "YAML takes a value that begins with ! for a tag: write it in quotes")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 && !strings.HasPrefix(tag, "!!") {
		p.report(n, "YAML takes %q here for a tag and drops it: write the value in quotes: '%s'", tag, strings.ReplaceAll(tag+" "+n.Value, "'", "''"))
		return
	}
	p.report(n, "the YAML tag %q has no meaning here: remove it", tag)
}

// isNull reports whether a scalar is YAML's null: nothing at all, ~ or null.
func isNull(n *yaml.Node) bool {
	return n.Tag == "!!null"
}

// target is what an alias stands for, and any other node itself.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// resolve follows an alias and counts the value read. It returns nil where there
// is nothing to read, after saying so.
func (p *parser) resolve(n *yaml.Node) *yaml.Node {
	n = target(n)
	if n.Kind == reported {
		p.reports++ // again
		return nil
	}
	if !p.spend(n, cost(n)) {
		return nil
	}
	if n.Kind == yaml.ScalarNode && isNull(n) {
		p.report(n, "the value is empty: write one, or remove its key")
		return nil
	}
	return n
}

// spend takes values read from the budget, and reports false once it is used up.
func (p *parser) spend(n *yaml.Node, values int) bool {
	if p.budget < 0 {
		return false
	}
	p.budget -= values
	if p.budget < 0 {
		p.report(n, "the aliases of this file repeat too much: write fewer")
		return false
	}
	return true
}

// cost is how much of the budget a value takes: more where its text is long.
func cost(n *yaml.Node) int { return 1 + len(n.Value)/32 }

// scalar returns the node of a scalar. Its Value is the text as written:
// YAML's own reading of 010, yes or 1e3 is never used.
func (p *parser) scalar(n *yaml.Node, want string) *yaml.Node {
	if n = p.resolve(n); n == nil {
		return nil
	}
	if n.Kind != yaml.ScalarNode {
		p.report(n, "%s belongs here, not %s", want, kindName(n))
		return nil
	}
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 && strings.TrimSpace(n.Value) == "" {
		p.report(n, "YAML takes this for the beginning of a text of several lines, and none follows: put a value that begins with > or | in quotes, such as \"> 1\"")
		return nil
	}
	return n
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}

// entry is one key of a mapping with its value.
type entry struct{ key, value *yaml.Node }

// entries lists a mapping's keys, merge keys (<<) resolved: what the mapping
// says itself comes first and wins.
func (p *parser) entries(n *yaml.Node, depth int) []entry {
	if !p.spend(n, len(n.Content)/2) {
		return nil
	}
	var own, merged []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := target(n.Content[i]), n.Content[i+1]
		switch {
		case key.Kind == reported:
			p.reports++
		case key.Kind != yaml.ScalarNode:
			p.report(key, "a key must be a word, not %s", kindName(key))
		case key.Tag == "!!merge":
			merged = append(merged, p.merge(value, depth)...)
		default:
			own = append(own, entry{key, value})
		}
	}
	return append(own, merged...)
}

// merge lists the entries that a merge key brings: of one mapping or of several.
func (p *parser) merge(n *yaml.Node, depth int) []entry {
	if depth == maxMerges {
		p.report(n, "merge keys are nested more than %d deep", maxMerges)
		return nil
	}
	if n = p.resolve(n); n == nil {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		return p.entries(n, depth+1)
	case yaml.SequenceNode:
		var all []entry
		for _, item := range n.Content {
			all = append(all, p.merge(item, depth+1)...)
		}
		return all
	default:
		p.report(n, "a merge key takes a mapping, such as <<: *anchor")
		return nil
	}
}
