// Package release holds what is said twice of a release together: .goreleaser.yaml, Dockerfile,
// Makefile, CHANGELOG.md and the workflows.
package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// matches returns the first group of each match, sorted, each once.
func matches(text, pattern string) []string {
	var all []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

type config struct {
	Builds []struct{ Flags, LDFlags []string }
	Images []struct{ Flags []string } `yaml:"dockers_v2"`
}

func goreleaser(t *testing.T) (c config) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, ".goreleaser.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// A release has an image of each target of the Dockerfile; .ci/image builds them as it does.
func TestImages(t *testing.T) {
	var targets []string
	for _, image := range goreleaser(t).Images {
		targets = append(targets, strings.TrimPrefix(image.Flags[0], "--target="))
	}
	slices.Sort(targets)
	if diff := cmp.Diff(matches(read(t, "Dockerfile"), `(?m)^FROM base AS (\S+)$`), targets); diff != "" {
		t.Errorf("-Dockerfile +.goreleaser.yaml:\n%s", diff)
	}
}

// The file of the image for nodes permits what the DaemonSet gives its container, and no more.
func TestCapabilities(t *testing.T) {
	permitted := strings.Fields(strings.ToUpper(strings.Join(matches(read(t, "Dockerfile"), `filecaps /out/node/sockdog (.*)`), "")))
	slices.Sort(permitted)
	added := matches(read(t, "examples/kubernetes/node/daemonset.yaml"), `(?m)^ *- ([A-Z_]+) #`)
	if diff := cmp.Diff(permitted, added); diff != "" || len(added) == 0 {
		t.Errorf("-Dockerfile +daemonset.yaml:\n%s", diff)
	}
}

// Whoever builds a binary builds it alike, and what the linker sets is there to be set.
func TestFlags(t *testing.T) {
	build := goreleaser(t).Builds[0]
	for _, file := range []string{"Dockerfile", "Makefile"} {
		for _, flag := range append(build.Flags, "-s -w") {
			if !strings.Contains(read(t, file), flag) {
				t.Errorf("%s: no %s, which .goreleaser.yaml has", file, flag)
			}
		}
	}
	const set = `-X main\.(\w+)=`
	linked := matches(read(t, "cmd/sockdog/version.go"), `\b(linked\w+)`)
	for name, text := range map[string]string{"Dockerfile": read(t, "Dockerfile"), ".goreleaser.yaml": build.LDFlags[0]} {
		if diff := cmp.Diff(linked, matches(text, set)); diff != "" {
			t.Errorf("%s sets other variables than there are (-version.go +%[1]s):\n%s", name, diff)
		}
	}
}

// Whoever has the version of a tool pinned has the same, and actions are pinned by their commits.
func TestPins(t *testing.T) {
	want := matches(read(t, "Dockerfile"), `(?m)^ARG GO_IMAGE=golang:([\d.]+)-bookworm$`)
	files, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil || len(files) == 0 || len(want) != 1 {
		t.Fatal(files, err, want)
	}
	for _, file := range files {
		text := read(t, filepath.Join(".github/workflows", filepath.Base(file)))
		if got := matches(text, `(?:golang:|go-version: )([\d.]+)`); !slices.Equal(got, want) {
			t.Errorf("%s: Go %v; the Dockerfile has %v", file, got, want)
		}
		for _, used := range matches(text, `uses: ([^.\s].*)`) {
			if !regexp.MustCompile(`^[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`).MatchString(used) {
				t.Errorf("%s: %s is not pinned", file, used)
			}
		}
	}
}

// The notes of a release are its section of CHANGELOG.md, whose versions are from new to old.
func TestNotes(t *testing.T) {
	changelog := read(t, "CHANGELOG.md")
	headings := regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(changelog, -1)
	if len(headings) == 0 || headings[0][1] != "[Unreleased]" {
		t.Fatalf("CHANGELOG.md begins with %q; want [Unreleased]", headings)
	}
	if len(headings) > 1 {
		app := matches(read(t, "examples/kubernetes/chart/Chart.yaml"), `(?m)^appVersion: (\S+)`)
		if newest := matches(headings[1][1], `^\[(.*)\]`); !slices.Equal(app, newest) {
			t.Errorf("the chart is of version %v, CHANGELOG.md of %v", app, newest)
		}
	}
	for _, h := range headings[1:] {
		if !regexp.MustCompile(`^\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d$`).MatchString(h[1]) {
			t.Errorf("CHANGELOG.md: %q is no version with a date", h[1])
		}
	}
	for _, h := range headings {
		version, _, _ := strings.Cut(strings.TrimPrefix(h[1], "["), "]")
		_, rest, _ := strings.Cut(changelog, "\n"+h[0]+"\n")
		want, _, _ := strings.Cut(rest, "\n## ")
		if want = strings.TrimSpace(want); want == "" {
			continue // nothing is unreleased
		}
		got, err := exec.Command("./notes", version).Output()
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("notes %s: %v\n%s", version, err, cmp.Diff(want, strings.TrimSpace(string(got))))
		}
	}
	if got, err := exec.Command("./notes", "9.9.9").Output(); err == nil || len(got) > 0 {
		t.Errorf("notes of no version: %q, %v; want an error", got, err)
	}
}
