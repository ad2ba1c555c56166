package rules

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// schemaNode is what the reference tells of a JSON Schema. It is read as YAML, of which JSON
// is a part, because that keeps the order of keys.
type schemaNode struct {
	name string // of the property or definition

	Description string       `yaml:"description"`
	Examples    []yaml.Node  `yaml:"examples"`
	Ref         string       `yaml:"$ref"`
	Type        wordOrWords  `yaml:"type"`
	Properties  orderedNodes `yaml:"properties"`
	Additional  yaml.Node    `yaml:"additionalProperties"`
	Items       *schemaNode  `yaml:"items"`
	AnyOf       []schemaNode `yaml:"anyOf"`
	Enum        []string     `yaml:"enum"`
	Const       *int         `yaml:"const"`
	Minimum     *int         `yaml:"minimum"`
	Maximum     *int         `yaml:"maximum"`
	Required    []string     `yaml:"required"`
}

type wordOrWords []string

func (w *wordOrWords) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return n.Decode((*[]string)(w))
	}
	*w = wordOrWords{n.Value}
	return nil
}

// orderedNodes are the entries of a mapping, in their order.
type orderedNodes []schemaNode

func (o *orderedNodes) UnmarshalYAML(n *yaml.Node) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		s := schemaNode{name: n.Content[i].Value}
		if err := n.Content[i+1].Decode(&s); err != nil {
			return err
		}
		s.name = n.Content[i].Value
		*o = append(*o, s)
	}
	return nil
}

// fileFormat is the format of a file, as its schema has it.
type fileFormat struct {
	root schemaNode
	defs orderedNodes
}

func readFormat(t *testing.T) *fileFormat {
	t.Helper()
	var f fileFormat
	var defs struct {
		Defs orderedNodes `yaml:"$defs"`
	}
	if err := errors.Join(yaml.Unmarshal(Schema(), &f.root), yaml.Unmarshal(Schema(), &defs)); err != nil {
		t.Fatal(err)
	}
	f.root.name, f.defs = "file", defs.Defs
	return &f
}

// definition returns what a reference is to.
func (f *fileFormat) definition(ref string) *schemaNode {
	name := strings.TrimPrefix(ref, "#/$defs/")
	return &f.defs[slices.IndexFunc(f.defs, func(d schemaNode) bool { return d.name == name })]
}

// section is a mapping with keys of its own.
type section struct {
	name     string
	keys     []schemaNode
	required []string
}

// isMapping reports whether the schema is of a mapping whose keys are known.
func (n *schemaNode) isMapping() bool {
	return slices.Contains(n.Type, "object") && n.Additional.Value == "false"
}

// mappingOf returns the mapping among the alternatives that a definition has; nil: there is none.
func mappingOf(n *schemaNode) *schemaNode {
	if n.isMapping() {
		return n
	}
	if i := slices.IndexFunc(n.AnyOf, func(one schemaNode) bool { return one.isMapping() }); i >= 0 {
		return &n.AnyOf[i]
	}
	return nil
}

// sections are the mappings of the format, the whole file first.
func (f *fileFormat) sections() []section {
	all := []section{{f.root.name, f.root.Properties, f.root.Required}}
	for i := range f.defs {
		if m := mappingOf(&f.defs[i]); m != nil {
			all = append(all, section{f.defs[i].name, m.Properties, m.Required})
		}
	}
	return all
}

// values are the definitions of single values, by which keys name what they take.
func (f *fileFormat) values() (all []schemaNode) {
	for i := range f.defs {
		if d := &f.defs[i]; mappingOf(d) == nil && f.oneOf(d) == nil {
			all = append(all, *d)
		}
	}
	return all
}

// oneOf returns what there may be one of, or a list of; nil: the definition is no such.
func (f *fileFormat) oneOf(d *schemaNode) *schemaNode {
	if len(d.AnyOf) == 2 && d.AnyOf[1].Items != nil && d.AnyOf[0].Ref != "" && d.AnyOf[0].Ref == d.AnyOf[1].Items.Ref {
		return &d.AnyOf[0]
	}
	return nil
}

// place is where a key stands in a file.
type place struct {
	section, key string
	file, holder *yaml.Node
	index        int // of the value in the holder's content
}

// walk visits every key of the format that stands in a file.
func (f *fileFormat) walk(file *yaml.Node, visit func(place)) {
	f.walkNode(file, &f.root, "file", file, visit)
}

func (f *fileFormat) walkNode(n *yaml.Node, s *schemaNode, name string, file *yaml.Node, visit func(place)) {
	if s.Ref != "" {
		s = f.definition(s.Ref)
		name = s.name
	}
	for i := range s.AnyOf {
		f.walkNode(n, &s.AnyOf[i], name, file, visit)
	}
	switch {
	case n.Kind == yaml.SequenceNode && s.Items != nil:
		for _, item := range n.Content {
			f.walkNode(item, s.Items, name, file, visit)
		}
	case n.Kind != yaml.MappingNode:
	case s.isMapping():
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			j := slices.IndexFunc(s.Properties, func(p schemaNode) bool { return p.name == key })
			if j < 0 {
				continue
			}
			visit(place{name, key, file, n, i + 1})
			f.walkNode(n.Content[i+1], &s.Properties[j], name, file, visit)
		}
	case s.Additional.Kind == yaml.MappingNode:
		var of schemaNode
		if s.Additional.Decode(&of) == nil {
			for i := 1; i < len(n.Content); i += 2 {
				f.walkNode(n.Content[i], &of, name, file, visit)
			}
		}
	}
}

// flowYAML writes a value in one line, and quotes what needs it.
func flowYAML(t *testing.T, n *yaml.Node) string {
	t.Helper()
	return encode(t, styled(n, func(*yaml.Node, int) bool { return true }, 0))
}

// blockYAML writes a whole file: rules and receivers each on lines of their own, and what is in
// them too where it is long.
func blockYAML(t *testing.T, n *yaml.Node) string {
	t.Helper()
	return encode(t, styled(n, func(part *yaml.Node, depth int) bool {
		return depth > 0 && (depth > 2 || part.Kind != yaml.MappingNode || depth == 1) && len(flowYAML(t, part)) < 80 && !hasMappings(part, depth)
	}, 0))
}

// hasMappings reports whether a part near the root holds entries that deserve their own lines.
func hasMappings(n *yaml.Node, depth int) bool {
	return depth < 3 && n.Kind == yaml.SequenceNode && slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return c.Kind == yaml.MappingNode })
}

// styled copies a node; flow says which parts of it take one line.
func styled(n *yaml.Node, flow func(part *yaml.Node, depth int) bool, depth int) *yaml.Node {
	c := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value}
	if n.Kind != yaml.ScalarNode && flow(n, depth) {
		c.Style = yaml.FlowStyle
	}
	for _, part := range n.Content {
		c.Content = append(c.Content, styled(part, flow, depth+1))
	}
	return c
}

func encode(t *testing.T, n *yaml.Node) string {
	t.Helper()
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(n), e.Close()); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
