package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "write the man pages anew")

// TestManual: the man pages say what the commands say of themselves.
func TestManual(t *testing.T) {
	const dir = "../../docs/man"
	written := make(map[string]bool)
	for _, c := range available(newRoot(nil)) {
		c.InitDefaultHelpFlag()
		c.DisableAutoGenTag = true
		c.Long = indented.ReplaceAllString(c.Long, "    $1") // as it is, in Markdown
		name := strings.ReplaceAll(c.CommandPath(), " ", "-")
		written[name+".1"] = true
		var page bytes.Buffer
		began := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)
		if err := doc.GenMan(c, &doc.GenManHeader{Title: strings.ToUpper(name), Section: "1", Date: &began, Source: "sockdog", Manual: "sockdog"}, &page); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name+".1")
		if *update {
			if err := os.WriteFile(file, page.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		kept, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(kept), page.String()); diff != "" {
			t.Errorf("%s (-kept +now): make golden writes it anew\n%s", file, diff)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".5" {
			continue // of a file's format, by the tests of package rules
		}
		if !written[f.Name()] {
			t.Errorf("%s/%s is of no command", dir, f.Name())
		}
	}
}

// indented begins a line of what is laid out in columns.
var indented = regexp.MustCompile(`(?m)^  (\S)`)

// available returns a command and those below it that help lists.
func available(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, below := range c.Commands() {
		if below.IsAvailableCommand() {
			all = append(all, available(below)...)
		}
	}
	return all
}
