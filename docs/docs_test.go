// Package docs_test holds what is written for users to what the code does: the
// rules files, the errors, the command lines and the links.
package docs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/testrun"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
)

const root = ".."

// pages are the files that show rules and commands.
func pages(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages in docs: %v", err)
	}
	return append(pages, filepath.Join(root, "README.md"))
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// block is one block of code in a page.
type block struct {
	line   int
	fenced bool
	info   string // what stands after the fence
	text   string
}

// blocks parts a page into its blocks of code, fenced or indented, and the prose
// between them.
func blocks(page string) (all []block, prose string) {
	var open *block
	shut := func() {
		if open != nil {
			all = append(all, *open)
		}
		open = nil
	}
	for i, line := range strings.SplitAfter(page, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		code, indented := strings.CutPrefix(line, "    ")
		switch {
		case open != nil && open.fenced && fence:
			shut()
		case open != nil && open.fenced:
			open.text += line
		case fence:
			shut()
			open = &block{line: i + 1, fenced: true, info: strings.TrimSpace(info)}
		case indented && open == nil:
			open = &block{line: i + 1, text: code}
		case indented:
			open.text += code
		default:
			shut()
			prose += line
		}
	}
	shut()
	return all, prose
}

// A block of yaml is a whole rules file, the entry of one rule (yaml rule), or a
// file with mistakes (yaml bad), which the next block then shows as check does.
func TestRules(t *testing.T) {
	for _, page := range pages(t) {
		all, _ := blocks(read(t, page))
		for i, b := range all {
			text := b.text
			switch b.info {
			case "yaml", "yaml bad":
			case "yaml rule":
				text = "rules:\n" + text
			default:
				continue
			}
			_, err := rules.Parse(strings.NewReader(text))
			if b.info != "yaml bad" {
				if err != nil {
					t.Errorf("%s:%d: %v", page, b.line, err)
				}
				continue
			}
			var problems rules.Problems
			if !errors.As(err, &problems) || i+1 == len(all) {
				t.Errorf("%s:%d: %v, and what check prints of it below; want problems, and the same", page, b.line, err)
				continue
			}
			if diff := cmp.Diff(problems.Report("rules.yaml"), all[i+1].text); diff != "" {
				t.Errorf("%s:%d: what check prints (-code +page):\n%s", page, all[i+1].line, diff)
			}
		}
	}
}

// A block of yaml test is a file of tests, for the rules in the last block of yaml; what
// sockdog test prints of it may stand below, behind its command line.
func TestFilesOfTests(t *testing.T) {
	all, _ := blocks(read(t, "testing.md"))
	rulesFile, ran, compared := "", 0, 0
	for i, b := range all {
		if b.info == "yaml" {
			rulesFile = b.text
		}
		if b.info != "yaml test" {
			continue
		}
		file, err := ruletest.Parse(strings.NewReader(b.text), ruletest.Config{
			KeptBy: testrun.Reasons(), Load: func(string) (*rules.Set, error) { return rules.Parse(strings.NewReader(rulesFile)) },
		})
		if err != nil {
			t.Errorf("testing.md:%d: %v", b.line, err)
			continue
		}
		r := testrun.FileResult{Name: "rules_test.yaml"}
		for j := range file.Cases {
			r.Results = append(r.Results, testrun.Run(file.Rules, &file.Cases[j]))
		}
		ran++
		var printed strings.Builder
		r.Print(&printed)
		const command = "$ sockdog test rules_test.yaml\n"
		if i+1 == len(all) || !strings.HasPrefix(all[i+1].text, command) {
			if r.Failed() > 0 {
				t.Errorf("testing.md:%d: %s", b.line, printed.String())
			}
			continue
		}
		compared++
		if diff := cmp.Diff(command+printed.String(), all[i+1].text); diff != "" {
			t.Errorf("testing.md:%d: what it prints (-code +page):\n%s", all[i+1].line, diff)
		}
	}
	if ran == 0 || compared == 0 {
		t.Errorf("%d files of tests were run, and of %d the page shows what is printed", ran, compared)
	}
}

// The tables of testing.md have every key of a file of tests, each in its place, and every
// word of kept_by; the JSON Schema says of each what the table says.
func TestKeysOfTests(t *testing.T) {
	tables := regexp.MustCompile("(?m)(?:^##+ (.*)\n|^\\| (`.*?`) \\| (.*) \\|\n)").FindAllStringSubmatch(read(t, "testing.md"), -1)
	explained, section := map[string]map[string]string{}, ""
	for _, row := range tables {
		if row[1] != "" {
			section = row[1]
			explained[section] = map[string]string{}
			continue
		}
		for _, key := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(row[2], -1) {
			if explained[section][key[1]] == "" { // the head of the table of words of kept_by is no second one
				explained[section][key[1]] = regexp.MustCompile("\\[([^]]*)\\]\\([^)]*\\)|`").ReplaceAllString(row[3], "$1")
			}
		}
	}
	var schema struct {
		mapping
		Defs map[string]mapping `json:"$defs"`
	}
	if err := json.Unmarshal(ruletest.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	defs := map[string]mapping{
		"The file": schema.mapping, "A test": schema.Defs["test"], "A socket": schema.Defs["socket"], "A change": schema.Defs["change"], "An expectation": schema.Defs["expectation"],
	}
	for section, keys := range ruletest.Keys() {
		for _, key := range keys {
			if diff := cmp.Diff(explained[section][key], defs[section].Properties[key].Description); diff != "" {
				t.Errorf("%s: %s (-page +schema):\n%s", section, key, diff)
			}
		}
		if section == "An expectation" {
			words := testrun.Reasons()
			keys = append(keys, words...)
			slices.Sort(words)
			if diff := cmp.Diff(words, slices.Sorted(slices.Values(defs[section].Properties["kept_by"].Enum))); diff != "" {
				t.Errorf("words of kept_by (-code +schema):\n%s", diff)
			}
		}
		slices.Sort(keys)
		if diff := cmp.Diff(keys, slices.Sorted(maps.Keys(explained[section]))); diff != "" {
			t.Errorf("%s: keys (-code +page):\n%s", section, diff)
		}
	}
}

// mapping is what a schema tells of a mapping.
type mapping struct {
	Properties map[string]struct {
		Description string
		Enum        []string
	}
}

// The tables of messages quote what the golden files of rules hold.
func TestMessages(t *testing.T) {
	var golden strings.Builder
	paths, err := filepath.Glob(filepath.Join(root, "rules/testdata/*/*.golden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		golden.WriteString(read(t, path))
	}
	quoted := regexp.MustCompile("^\\| `([^`]*)` \\|")
	found, inTable := 0, false
	for line := range strings.Lines(read(t, "rules.md") + read(t, "alerts.md")) {
		inTable = strings.HasPrefix(line, "| message |") || inTable && strings.HasPrefix(line, "|")
		message := quoted.FindStringSubmatch(line)
		if !inTable || message == nil {
			continue
		}
		found++
		if !strings.Contains(golden.String(), ": "+message[1]) {
			t.Errorf("no golden file of rules says %q", message[1])
		}
	}
	if found == 0 {
		t.Error("no message was found in the page")
	}
}

// The table of a record's fields has each that there is.
func TestFieldsOfRecords(t *testing.T) {
	_, table, _ := strings.Cut(read(t, "watching.md"), "### The fields of an action")
	table, _, _ = strings.Cut(table, "\n##")
	for field := range reflect.TypeFor[journal.Record]().Fields() {
		if name := field.Tag.Get("json"); name != "-" && !strings.Contains(table, "`"+name+"`") {
			t.Errorf("watching.md does not explain the field %s", name)
		}
	}
}

// Every key that is accepted is explained, and so is every one that is not yet.
func TestKeys(t *testing.T) {
	page := read(t, "rules.md") + read(t, "alerts.md")
	explained := regexp.MustCompile("`[^`\n]+`").FindAllString(page, -1)
	var schema any
	if err := json.Unmarshal(rules.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	keys := properties(schema)
	if !slices.Contains(keys, "in_state_for") {
		t.Fatalf("in the schema there are only the keys %q", keys)
	}
	for _, key := range keys {
		if !slices.Contains(explained, "`"+key+"`") {
			t.Errorf("neither rules.md nor alerts.md explains %s", key)
		}
	}
}

// properties lists the names of all properties of a JSON Schema.
func properties(schema any) []string {
	var names []string
	switch s := schema.(type) {
	case map[string]any:
		for name, value := range s {
			if of, ok := value.(map[string]any); ok && name == "properties" {
				for name := range of {
					names = append(names, name)
				}
			}
			names = append(names, properties(value)...)
		}
	case []any:
		for _, value := range s {
			names = append(names, properties(value)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var (
	inline  = regexp.MustCompile("`(sockdog [a-z][^`\n]*)`")
	atStart = regexp.MustCompile(`(?m)^(?:\$ )?((?:go run \./cmd/)?sockdog [a-z].*)$`)
)

// commandLines are the command lines of sockdog in a page, without what a shell
// would take off them.
func commandLines(page string) [][]string {
	all, prose := blocks(page)
	var lines []string
	for _, found := range inline.FindAllStringSubmatch(prose, -1) {
		lines = append(lines, found[1])
	}
	for _, b := range all {
		for _, found := range atStart.FindAllStringSubmatch(b.text, -1) {
			lines = append(lines, found[1])
		}
	}
	var commands [][]string
	for _, line := range lines {
		words := strings.Fields(strings.TrimPrefix(line, "go run ./cmd/"))
		if end := slices.IndexFunc(words, func(w string) bool { return strings.ContainsAny(w, "#>|;&") }); end >= 0 {
			words = words[:end]
		}
		commands = append(commands, words)
	}
	return commands
}

// Every command that is shown exists, and takes the flags that it is shown with.
func TestCommands(t *testing.T) {
	sockdog, err := build()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range pages(t) {
		for _, words := range commandLines(read(t, page)) {
			found++
			// Flags are parsed before help is printed, and nothing is done.
			out, err := exec.Command(sockdog, append(words[1:], "--help")...).CombinedOutput()
			usage := "\n  " + strings.Join(words[:2], " ") + " "
			if err != nil || !bytes.Contains(out, []byte(usage)) {
				t.Errorf("%s: %s: %v\n%s", page, strings.Join(words, " "), err, out)
			}
		}
	}
	if found == 0 {
		t.Error("no command line was found in any page")
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// Every relative link leads to a file that is there, and to a heading in it.
func TestLinks(t *testing.T) {
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "node_modules"):
			return fs.SkipDir
		case filepath.Ext(path) != ".md":
			return nil
		}
		_, prose := blocks(read(t, path))
		for _, found := range link.FindAllStringSubmatch(prose, -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(found[1], "#")
			to := path
			if file != "" {
				to = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", path, found[1], err)
			} else if anchor != "" && !slices.Contains(anchors(read(t, to)), anchor) {
				t.Errorf("%s: the link %s leads to no heading", path, found[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// anchors are the names that GitHub gives to the headings of a page, and those that it gives
// itself.
func anchors(page string) []string {
	_, prose := blocks(page) // a comment in a block looks like a heading
	dropped := regexp.MustCompile(`[^\w -]`)
	var names []string
	for _, found := range heading.FindAllStringSubmatch(prose, -1) {
		name := dropped.ReplaceAllString(strings.ToLower(found[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	for _, found := range regexp.MustCompile(`<a id="([^"]*)">`).FindAllStringSubmatch(prose, -1) {
		names = append(names, found[1])
	}
	return names
}

// Each line of sockdog doctor has its row in the table of what it means, and no other has.
func TestDoctor(t *testing.T) {
	sources, err := filepath.Glob(filepath.Join(root, "internal/doctor/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	findings := make(map[string]bool)
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`What: "([^"]+)"`).FindAllStringSubmatch(read(t, source), -1) {
			findings[m[1]] = true
		}
	}
	_, table, _ := strings.Cut(read(t, "troubleshooting.md"), "## What doctor says")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		rows[m[1]] = true
	}
	if diff := cmp.Diff(findings, rows); diff != "" {
		t.Errorf("lines of doctor (-those there are +those explained):\n%s", diff)
	}
}

// TestReasons: what keeps a rule from acting is explained, reason by reason, and is counted under
// no other name.
func TestReasons(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "watching.md"), "\n## Why does it not kill?\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var explained []string
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, word := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				explained = append(explained, word[1])
			}
		}
	}
	slices.Sort(explained)
	if diff := cmp.Diff(slices.Sorted(slices.Values(status.HeldReasons)), explained); diff != "" {
		t.Errorf("(-counted +explained):\n%s", diff)
	}
}
