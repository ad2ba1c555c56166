package manifest

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/helm-unittest/helm-unittest/pkg/unittest"
	"github.com/helm-unittest/helm-unittest/pkg/unittest/printer"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const chartDir = examples + "chart"

var update = flag.Bool("update", false, "write the golden files anew")

// values are the sets that the chart is rendered with: its own, and each of its ci directory.
func values(t *testing.T) map[string]chartutil.Values {
	t.Helper()
	all := map[string]chartutil.Values{"default": {}}
	files, err := filepath.Glob(chartDir + "/ci/*-values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no values in ci: ", err)
	}
	for _, file := range files {
		v, err := chartutil.ReadValuesFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(file), "-values.yaml")] = v
	}
	return all
}

// render is helm template, with the notes: a file each.
func render(v chartutil.Values) (map[string]string, error) {
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		return nil, err
	}
	release := chartutil.ReleaseOptions{Name: "sockdog", Namespace: "watch", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, v, release, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, all)
}

// manifests are what is sent to the server.
func manifests(files map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if text := strings.TrimSpace(files[name]); strings.HasSuffix(name, ".yaml") && text != "" {
			b.WriteString("---\n# " + name + "\n" + text + "\n")
		}
	}
	return strings.TrimPrefix(b.String(), "---\n")
}

func TestChartLints(t *testing.T) {
	for name, v := range values(t) {
		for _, m := range lint.All(chartDir, v, "watch", true).Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

func TestChartRenders(t *testing.T) {
	for name, v := range values(t) {
		files, err := render(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := manifests(files)
		decode(t, name, []byte(text))
		got := text + "--- notes\n" + files["sockdog/templates/NOTES.txt"]
		golden := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: the chart makes other manifests; go test -C .ci/manifest . -update, and read git diff. Now:\n%s", name, got)
		}
	}
}

// The chart's own unit tests, as helm unittest runs them.
func TestChartUnittests(t *testing.T) {
	var said strings.Builder
	plain := false
	runner := unittest.TestRunner{
		Printer: printer.NewPrinter(&said, &plain), Strict: true, TestFiles: []string{"unittests/*.yaml"},
	}
	if !runner.RunV3([]string{chartDir}) || !regexp.MustCompile(`Tests: +[1-9]`).MatchString(said.String()) {
		t.Errorf("helm unittest:\n%s", said.String())
	}
}

// The pods of the chart are those of the DaemonSet beside it, but for names, labels and what
// values leave to the user.
func TestChartIsTheDaemonSet(t *testing.T) {
	files, err := render(chartutil.Values{
		"goMemLimit": "96MiB", "image": map[string]any{"tag": "latest"},
		"resources": map[string]any{"requests": map[string]any{"cpu": "20m", "memory": "64Mi"}, "limits": map[string]any{"memory": "128Mi"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	chart, base := podOf(t, decode(t, "chart", []byte(manifests(files)))), podOf(t, build(t, "node"))
	chart.Spec.Containers[0].ImagePullPolicy = ""
	if a, b := mustYAML(t, base.Spec), mustYAML(t, chart.Spec); a != b {
		t.Errorf("the DaemonSet has\n%s\nthe chart has\n%s", a, b)
	}
}

// The rules that values have reach the ConfigMap to the byte.
func TestChartRules(t *testing.T) {
	for _, rules := range []string{"rules: []\n", "\n# a comment\nrules:\n  - name: a {{ .Values.x }}\n\n", "rules: []"} {
		files, err := render(chartutil.Values{"rules": rules})
		if err != nil {
			t.Fatal(err)
		}
		var c core.ConfigMap
		if err := strictly([]byte(files["sockdog/templates/configmap.yaml"]), &c); err != nil {
			t.Fatal(err)
		}
		if got := c.Data["rules.yaml"]; got != rules {
			t.Errorf("the rules are %q; want %q", got, rules)
		}
	}
}

// The schema refuses a mistake before the server sees it.
func TestChartRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"port: many":     "port",
		"port: 70000":    "port",
		"loopback: 'no'": "loopback",
		"{loopback: true, podMonitor: {enabled: true}}": "loopback",
		"rules: {version: 1}":                           "rules",
		"rules: ''":                                     "rules",
		"tolerations: {operator: Exists}":               "tolerations",
		"resource: {}":                                  "resource",
		"resources: {limit: {}}":                        "limit",
		"image: {tags: a}":                              "tags",
		"image: {tag: 1.0}":                             "tag",
		"image: {digest: latest}":                       "digest",
		"extraArgs: [run]":                              "extraArgs",
		"podMonitor: {enabled: 'yes'}":                  "enabled",
		"networkPolicy: {form: []}":                     "form",
		"extraSecretMounts: [{name: a, secretName: b}]": "mountPath",
		"goMemLimit: 96MB":                              "goMemLimit",
		"updateStrategy: {type: Sudden}":                "updateStrategy",
	} {
		var v chartutil.Values
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		switch _, err := render(v); {
		case err == nil:
			t.Errorf("%s is taken", text)
		case !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v; want a word about %s", text, err, want)
		}
	}
}

// Every value has a place in the schema, and none there is missing from the values.
func TestSchemaHasTheValues(t *testing.T) {
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct{ Properties map[string]any }
	if err := yaml.Unmarshal(chart.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	delete(schema.Properties, "global") // Helm's own, for a chart that is a part of another
	want, got := slices.Sorted(maps.Keys(chart.Values)), slices.Sorted(maps.Keys(schema.Properties))
	if !slices.Equal(want, got) {
		t.Errorf("values.yaml has %q, the schema has %q", want, got)
	}
}
