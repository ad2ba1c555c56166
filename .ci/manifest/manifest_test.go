// Package manifest decodes Kubernetes manifests, also those that kustomize and Helm make, into
// the API's own types, and refuses what a server with strict field validation would refuse. It
// is a module of its own, so that sockdog does not depend on these types.
package manifest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chartutil"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const examples = "../../examples/kubernetes/"

// kinds are the ones that our examples use.
var kinds = map[string]func() any{
	"v1 ConfigMap":                        func() any { return new(core.ConfigMap) },
	"v1 Namespace":                        func() any { return new(core.Namespace) },
	"v1 ServiceAccount":                   func() any { return new(core.ServiceAccount) },
	"apps/v1 Deployment":                  func() any { return new(apps.Deployment) },
	"apps/v1 DaemonSet":                   func() any { return new(apps.DaemonSet) },
	"networking.k8s.io/v1 NetworkPolicy":  func() any { return new(networking.NetworkPolicy) },
	"monitoring.coreos.com/v1 PodMonitor": func() any { return new(monitoring.PodMonitor) },
}

// decode reads all documents of a text by the types of the API.
func decode(t *testing.T, name string, text []byte) (objects []any) {
	t.Helper()
	for i, doc := range bytes.Split(text, []byte("\n---\n")) {
		var of meta.TypeMeta
		if err := yaml.Unmarshal(doc, &of); err != nil {
			t.Errorf("%s: document %d: %v", name, i+1, err)
			continue
		}
		kind, known := kinds[of.APIVersion+" "+of.Kind]
		if !known {
			t.Errorf("%s: document %d: no type for %s %s", name, i+1, of.APIVersion, of.Kind)
			continue
		}
		object := kind()
		if err := strictly(doc, object); err != nil {
			t.Errorf("%s: document %d: %v", name, i+1, err)
		}
		objects = append(objects, object)
	}
	return objects
}

// strictly decodes as the API server does where field validation is strict: yaml.UnmarshalStrict
// would take hostPid for hostPID.
func strictly(doc []byte, into any) error {
	text, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return err
	}
	mistakes, err := json.UnmarshalStrict(text, into)
	return errors.Join(append(mistakes, err)...)
}

// build is what kubectl apply -k would send.
func build(t *testing.T, dir string) []any {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), examples+dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := made.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, dir, text)
}

// podOf is the pod of the one workload among objects.
func podOf(t *testing.T, objects []any) core.PodTemplateSpec {
	t.Helper()
	var all []core.PodTemplateSpec
	for _, o := range objects {
		switch o := o.(type) {
		case *apps.Deployment:
			all = append(all, o.Spec.Template)
		case *apps.DaemonSet:
			all = append(all, o.Spec.Template)
		}
	}
	if len(all) != 1 {
		t.Fatalf("%d workloads; want one", len(all))
	}
	return all[0]
}

// Each file is a manifest, also one that a kustomization names in a comment.
func TestFiles(t *testing.T) {
	files, err := filepath.Glob(examples + "*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decoded := 0
	for _, file := range files {
		switch {
		case filepath.Base(file) == "kustomization.yaml", strings.HasPrefix(filepath.Base(file), "rules"), filepath.Base(filepath.Dir(file)) == "chart":
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		decoded += len(decode(t, file, text))
	}
	if decoded == 0 {
		t.Fatal("there are no manifests")
	}
}

// What kustomize makes of each directory, and the first level of the Pod Security Standards that
// takes it, with what the level below would refuse.
func TestKustomize(t *testing.T) {
	tests := map[string]struct {
		level   api.Level
		refused []string // by the levels below
	}{
		"sidecar":       {api.LevelPrivileged, []string{"non-default capabilities"}},
		"container":     {api.LevelPrivileged, []string{"non-default capabilities"}},
		"observe":       {api.LevelRestricted, nil},
		"node":          {api.LevelPrivileged, []string{"forbidden AppArmor profile", "non-default capabilities", "host namespaces", "hostPath volumes"}},
		"node-rootless": {api.LevelPrivileged, []string{"forbidden AppArmor profile", "non-default capabilities", "host namespaces", "hostPath volumes"}},
	}
	kustomizations, err := filepath.Glob(examples + "*/kustomization.yaml")
	if err != nil || len(kustomizations) != len(tests) {
		t.Errorf("%d kustomizations, of which %d are tested: %v", len(kustomizations), len(tests), err)
	}
	for dir, test := range tests {
		t.Run(dir, func(t *testing.T) {
			pod := podOf(t, build(t, dir))
			level, refused := standard(t, &pod)
			if level != test.level || !slices.Equal(refused, test.refused) {
				t.Errorf("Pod Security Standard %s, below which it has %q; want %s, %q", level, refused, test.level, test.refused)
			}
		})
	}
}

// standard is the strictest level that takes a pod, and what baseline refuses of it.
func standard(t *testing.T, pod *core.PodTemplateSpec) (api.Level, []string) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []api.Level{api.LevelRestricted, api.LevelBaseline} {
		results := evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec)
		sum := policy.AggregateCheckResults(results)
		if sum.Allowed {
			return level, nil
		}
		if level == api.LevelBaseline {
			return api.LevelPrivileged, sum.ForbiddenReasons
		}
	}
	panic("unreachable")
}

// As a plain container sockdog is what it is as a sidecar, but for where it stands.
func TestContainerIsTheSidecar(t *testing.T) {
	sidecar, plain := podOf(t, build(t, "sidecar")), podOf(t, build(t, "container"))
	if len(sidecar.Spec.InitContainers) != 1 || len(plain.Spec.InitContainers) != 0 || len(plain.Spec.Containers) != 2 {
		t.Fatalf("%d and %d init containers, %d containers", len(sidecar.Spec.InitContainers), len(plain.Spec.InitContainers), len(plain.Spec.Containers))
	}
	want, got := sidecar.Spec.InitContainers[0], plain.Spec.Containers[1]
	want.RestartPolicy = nil
	if a, b := mustYAML(t, want), mustYAML(t, got); a != b {
		t.Errorf("the sidecar is\n%s\nthe container is\n%s", a, b)
	}
}

// Without root it is the DaemonSet but for the user, the image whose file has the capabilities, and
// where its state is.
func TestRootlessIsTheNode(t *testing.T) {
	node, rootless := podOf(t, build(t, "node")), podOf(t, build(t, "node-rootless"))
	want, got := node.Spec.Containers[0], rootless.Spec.Containers[0]
	user := got.SecurityContext.RunAsUser
	if user == nil || *user == 0 || got.SecurityContext.RunAsNonRoot == nil || !*got.SecurityContext.RunAsNonRoot || got.Image != want.Image+"-node" {
		t.Errorf("user %v, image %s: %s", user, got.Image, mustYAML(t, got.SecurityContext))
	}
	want.Image = got.Image
	want.SecurityContext.RunAsUser, want.SecurityContext.RunAsNonRoot = user, got.SecurityContext.RunAsNonRoot
	const flag = "--state-dir=/var/lib/sockdog"
	if !slices.Contains(got.Args, flag+"/state") {
		t.Errorf("its state is in the emptyDir itself, where all may write: %q", got.Args)
	}
	want.Args[slices.Index(want.Args, flag)] += "/state"
	node.Spec.Containers[0] = want
	for i, v := range node.Spec.Volumes {
		if v.Name == "state" {
			node.Spec.Volumes[i] = rootless.Spec.Volumes[i]
		}
	}
	if a, b := mustYAML(t, node), mustYAML(t, rootless); a != b {
		t.Errorf("the DaemonSet is\n%s\nwithout root it is\n%s", a, b)
	}
}

func mustYAML(t *testing.T, value any) string {
	t.Helper()
	text, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A mistake does not pass.
func TestMistakes(t *testing.T) {
	text, err := os.ReadFile(examples + "node/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"an unknown field": {"hostPID: true", "hostPid: true"},
		"a wrong type":     {"containerPort: 9797", "containerPort: many"},
		"a key twice":      {"hostPID: true", "hostPID: true\n      hostPID: false"},
	} {
		wrong := strings.Replace(string(text), edit[0], edit[1], 1)
		if wrong == string(text) {
			t.Errorf("%s: nothing was changed", name)
		}
		if err := strictly([]byte(wrong), new(apps.DaemonSet)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// The page for users names directories that kustomize builds, and files that are there.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	applied := regexp.MustCompile(`(?m)^    kubectl apply -k (\S+)`).FindAllSubmatch(page, -1)
	if len(applied) != 4 {
		t.Errorf("the page applies %d directories; want a sidecar, a container and a DaemonSet with root and without", len(applied))
	}
	for _, m := range applied {
		build(t, strings.TrimPrefix(string(m[1]), "examples/kubernetes/"))
	}
	upgrade := regexp.MustCompile(`(?m)^    helm upgrade sockdog examples/kubernetes/chart .*--set-file rules=(\S+)`).FindSubmatch(page)
	if upgrade == nil {
		t.Fatal("the page gives the chart no rules")
	}
	rules, err := os.ReadFile("../../" + string(upgrade[1]))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := render(chartutil.Values{"rules": string(rules)}); err != nil {
		t.Error(err)
	}
}
