// Command manifest decodes Kubernetes manifests into the API's own types, and
// refuses what a server with strict field validation would refuse. It is a module
// of its own, so that sockdog does not depend on these types.
package main

import (
	"bytes"
	"fmt"
	"os"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// kinds are the ones that our examples use.
var kinds = map[string]func() any{
	"v1 ConfigMap":       func() any { return new(core.ConfigMap) },
	"apps/v1 Deployment": func() any { return new(apps.Deployment) },
}

func main() {
	for _, file := range os.Args[1:] {
		if err := check(file); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
			os.Exit(1)
		}
	}
}

func check(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for i, doc := range bytes.Split(data, []byte("\n---\n")) {
		var meta struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(doc, &meta); err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
		kind, known := kinds[meta.APIVersion+" "+meta.Kind]
		if !known {
			return fmt.Errorf("document %d: no type for %s %s", i+1, meta.APIVersion, meta.Kind)
		}
		if err := yaml.UnmarshalStrict(doc, kind()); err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
	}
	return nil
}
