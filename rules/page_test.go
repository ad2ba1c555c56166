package rules

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const pageHead = `# Reference of the rules file

Every key, what it takes, and an example that the tests run. What the words mean, and why, is in [rules.md](rules.md) and
[alerts.md](alerts.md). This page is made of the JSON Schema, which ` + "`sockdog schema`" + ` prints for your editor; packages
install it as sockdog-rules(5).

`

// page is the reference in Markdown.
func (f *fileFormat) page(t *testing.T) string {
	var b strings.Builder
	b.WriteString(pageHead)
	var index []string
	for _, s := range f.sections() {
		index = append(index, link(s.name))
	}
	b.WriteString(strings.Join(index, " ·\n") + " ·\n[values](#values)\n")
	shown := map[int]string{}
	var before []section
	for _, s := range f.sections() {
		fmt.Fprintf(&b, "\n## %s\n\n", title(s.name))
		for _, where := range f.uses(s.name) {
			fmt.Fprintf(&b, "- %s\n", where)
		}
		if s.name != f.root.name {
			b.WriteString("\n")
		}
		rows := f.newKeys(s, before, func(keys []string, of string) {
			fmt.Fprintf(&b, "As in %s: `%s`.\n\n", link(of), strings.Join(keys, "`, `"))
		})
		if len(rows) > 0 {
			b.WriteString("| key | meaning | takes | absent | example |\n|---|---|---|---|---|\n")
		}
		for _, key := range rows {
			meaning, absent := f.meaning(s, key)
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", key.name, cell(meaning), f.takes(key), cell(absent), strings.Join(examples(t, key), "<br>"))
		}
		if len(s.keys) == 0 {
			b.WriteString("It takes no options.\n")
		}
		if i := f.bestExample(s); i >= 0 && shown[i] == "" {
			shown[i] = s.name
			fmt.Fprintf(&b, "\n```yaml\n%s\n```\n", blockYAML(t, &f.root.Examples[i]))
		} else if i >= 0 && len(s.keys) > 0 {
			fmt.Fprintf(&b, "\nA whole file with it stands under %s.\n", link(shown[i]))
		}
		before = append(before, s)
	}
	b.WriteString("\n## values\n\n| value | what it is |\n|---|---|\n")
	for _, v := range f.values() {
		fmt.Fprintf(&b, "| <a id=\"value-%s\"></a>%s | %s |\n", v.name, words(v.name), cell(v.Description)+f.choices(v))
	}
	return b.String()
}

// newKeys are the keys of a section that none before it has in the same words; of the others,
// same is told where they stand.
func (f *fileFormat) newKeys(s section, before []section, same func(keys []string, of string)) (rows []schemaNode) {
	told := map[string][]string{}
	for _, key := range s.keys {
		equal := func(k schemaNode) bool {
			return k.name == key.name && k.Description == key.Description && k.Ref == key.Ref
		}
		i := slices.IndexFunc(before, func(b section) bool { return slices.ContainsFunc(b.keys, equal) && alike(s, b) })
		if i < 0 {
			rows = append(rows, key)
			continue
		}
		told[before[i].name] = append(told[before[i].name], key.name)
	}
	for _, b := range before {
		if keys := told[b.name]; keys != nil {
			same(keys, b.name)
		}
	}
	return rows
}

// alike reports whether most keys of a section stand in the other, too.
func alike(s, other section) bool {
	common := 0
	for _, key := range s.keys {
		if slices.ContainsFunc(other.keys, func(k schemaNode) bool { return k.name == key.name }) {
			common++
		}
	}
	return 2*common > len(s.keys)
}

// uses says in which sections a mapping stands, and as which key.
func (f *fileFormat) uses(name string) (all []string) {
	for _, s := range f.sections() {
		for _, key := range s.keys {
			if f.leadsTo(&key, name) {
				meaning, _ := f.meaning(s, key)
				all = append(all, fmt.Sprintf("`%s` in %s: %s", key.name, link(s.name), cell(meaning)))
			}
		}
	}
	return all
}

// leadsTo reports whether the value of a key may be that mapping.
func (f *fileFormat) leadsTo(n *schemaNode, name string) bool {
	if n == nil {
		return false
	}
	if n.Ref != "" {
		d := f.definition(n.Ref)
		return d.name == name || mappingOf(d) == nil && f.leadsTo(d, name)
	}
	var additional schemaNode
	if n.Additional.Kind == yaml.MappingNode && n.Additional.Decode(&additional) == nil && f.leadsTo(&additional, name) {
		return true
	}
	return f.leadsTo(n.Items, name) || slices.ContainsFunc(n.AnyOf, func(one schemaNode) bool { return f.leadsTo(&one, name) })
}

// meaning parts the description of a key from what holds where it is absent.
func (f *fileFormat) meaning(s section, key schemaNode) (meaning, absent string) {
	meaning, absent, _ = strings.Cut(key.Description, "; absent: ")
	if slices.Contains(s.required, key.name) {
		absent = "an error"
	}
	return meaning, absent
}

// takes says what a key takes, with links to what that is.
func (f *fileFormat) takes(n schemaNode) string {
	switch {
	case n.Ref != "":
		d := f.definition(n.Ref)
		if one := f.oneOf(d); one != nil {
			return f.takes(*one) + ", or a list"
		}
		if mappingOf(d) != nil {
			return link(d.name)
		}
		return fmt.Sprintf("[%s](#value-%s)", words(d.name), d.name)
	case n.Const != nil:
		return fmt.Sprintf("`%d`", *n.Const)
	case len(n.Enum) > 0:
		return "`" + strings.Join(n.Enum, "`, `") + "`"
	case len(n.AnyOf) > 0:
		if one := f.oneOf(&n); one != nil {
			return f.takes(*one) + ", or a list"
		}
		var all []string
		for _, one := range n.AnyOf {
			all = append(all, f.takes(one))
		}
		return strings.Join(all, " or ")
	case n.Items != nil:
		return "a list of " + f.takes(*n.Items)
	case n.Minimum != nil:
		return fmt.Sprintf("a number, %d to %d", *n.Minimum, *n.Maximum)
	case n.Additional.Kind == yaml.MappingNode:
		var of schemaNode
		if n.Additional.Decode(&of) == nil {
			return "names, each with " + f.takes(of)
		}
	case slices.Contains(n.Type, "boolean"):
		return "`true` or `false`"
	}
	return "text"
}

// choices are the words that a value is one of.
func (f *fileFormat) choices(v schemaNode) string {
	if len(v.Enum) > 0 {
		return ": `" + strings.Join(v.Enum, "`, `") + "`"
	}
	if i := slices.IndexFunc(v.AnyOf, func(one schemaNode) bool { return len(one.Enum) > 0 }); i >= 0 {
		return ": `" + strings.Join(v.AnyOf[i].Enum, "`, `") + "`"
	}
	return ""
}

// bestExample is the whole file in which most keys of the section stand; -1: it has none.
func (f *fileFormat) bestExample(s section) int {
	best, most := -1, 0
	for i := range f.root.Examples {
		keys := map[string]bool{}
		f.walk(&f.root.Examples[i], func(at place) {
			if at.section == s.name {
				keys[at.key] = true
			}
		})
		if len(keys) > most {
			best, most = i, len(keys)
		}
	}
	return best
}

func examples(t *testing.T, key schemaNode) (all []string) {
	for i := range key.Examples {
		text := key.name + ": " + flowYAML(t, &key.Examples[i])
		all = append(all, "`"+strings.ReplaceAll(text, "|", `\|`)+"`")
	}
	return all
}

func title(name string) string {
	if name == "file" {
		return "The file"
	}
	return name
}

func link(name string) string {
	return fmt.Sprintf("[%s](#%s)", strings.ToLower(title(name)), strings.ReplaceAll(strings.ToLower(title(name)), " ", "-"))
}

// words is the name of a definition as words.
func words(name string) string { return strings.ReplaceAll(name, "_", " ") }

// cell is a text in the cell of a table. What Markdown or HTML would take for markup is none.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "<", "&lt;", "_", `\_`).Replace(text)
}

// manual is the reference as a man page.
func (f *fileFormat) manual(t *testing.T) string {
	var b strings.Builder
	b.WriteString(`.TH "SOCKDOG-RULES" "5" "Nov 2026" "sockdog" "sockdog"
.nh
.ad l
.SH NAME
sockdog\-rules \- the rules file of sockdog
.SH DESCRIPTION
A YAML file that says which TCP sockets are stuck and what is done with them.
.BR sockdog\-run (1)
reads it,
.BR sockdog\-check (1)
finds its mistakes. Below are all keys by the mapping that they stand in, what each takes, and what holds where it is absent.
`)
	for _, s := range f.sections() {
		fmt.Fprintf(&b, ".SH %s\n", roff(strings.ToUpper(title(s.name))))
		for _, where := range f.uses(s.name) {
			fmt.Fprintf(&b, ".P\n%s\n", roff(plainText(where)))
		}
		for _, key := range s.keys {
			meaning, absent := f.meaning(s, key)
			fmt.Fprintf(&b, ".TP\n.B %s\n%s.\nTakes %s.\n", roff(key.name), roff(meaning), roff(plainText(f.takes(key))))
			if absent != "" {
				fmt.Fprintf(&b, "Absent: %s.\n", roff(absent))
			}
			for _, example := range examples(t, key) {
				fmt.Fprintf(&b, ".br\n%s\n", roff(strings.ReplaceAll(strings.Trim(example, "`"), `\|`, "|")))
			}
		}
	}
	b.WriteString(".SH VALUES\n")
	for _, v := range f.values() {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s.\n", roff(words(v.name)), roff(v.Description+plainText(f.choices(v))))
	}
	b.WriteString(".SH EXAMPLES\n")
	for i := range f.root.Examples {
		fmt.Fprintf(&b, ".P\n.nf\n%s\n.fi\n", roff(blockYAML(t, &f.root.Examples[i])))
	}
	b.WriteString(`.SH SEE ALSO
.BR sockdog\-check (1),
.BR sockdog\-plan (1),
.BR sockdog\-run (1),
.BR sockdog\-schema (1),
.BR ss (8)
`)
	return b.String()
}

var markup = regexp.MustCompile("\\[([^]]*)\\]\\([^)]*\\)|`|\\\\")

// plainText is a text without the links, code marks and backslashes of Markdown.
func plainText(text string) string { return markup.ReplaceAllString(text, "$1") }

// roff is a text in a man page: no line of it is taken for a request.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
