// Package manifest decodes Kubernetes manifests into the API's own types, and
// refuses what a server with strict field validation would refuse. It is a module
// of its own, so that sockdog does not depend on these types.
package manifest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// kinds are the ones that our examples use.
var kinds = map[string]func() any{
	"v1 ConfigMap":       func() any { return new(core.ConfigMap) },
	"apps/v1 Deployment": func() any { return new(apps.Deployment) },
}

func TestManifests(t *testing.T) {
	files, err := filepath.Glob("../../examples/kubernetes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no manifests: ", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "-rules.yaml") || strings.HasSuffix(file, "-rules_test.yaml") { // sockdog's own rules, and their tests
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, doc := range bytes.Split(data, []byte("\n---\n")) {
			var meta struct{ APIVersion, Kind string }
			if err := yaml.Unmarshal(doc, &meta); err != nil {
				t.Errorf("%s: document %d: %v", file, i+1, err)
				continue
			}
			kind, known := kinds[meta.APIVersion+" "+meta.Kind]
			if !known {
				t.Errorf("%s: document %d: no type for %s %s", file, i+1, meta.APIVersion, meta.Kind)
				continue
			}
			if err := yaml.UnmarshalStrict(doc, kind()); err != nil {
				t.Errorf("%s: document %d: %v", file, i+1, err)
			}
		}
	}
}
