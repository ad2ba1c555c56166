// Package kubernetes tests the manifests and the rules here: that the pods are locked down as
// they say, that probes and rules reach them, and that the rules are good ones. That the fields
// are the API's own, and that kustomize and Helm make of them what they should, is checked in
// CI, in .ci/manifest.
package kubernetes

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules"
)

// kustomization is what makes the ConfigMap of the rules.
type kustomization struct {
	ConfigMapGenerator []struct {
		Name  string
		Files []string
	} `yaml:"configMapGenerator"`
	GeneratorOptions struct {
		DisableNameSuffixHash bool `yaml:"disableNameSuffixHash"`
	} `yaml:"generatorOptions"`
}

// workload is a Deployment or a DaemonSet.
type workload struct {
	Spec struct {
		Template struct {
			Spec struct {
				AutomountToken bool        `yaml:"automountServiceAccountToken"`
				InitContainers []container `yaml:"initContainers"`
				Containers     []container
				Volumes        []struct {
					Name      string
					ConfigMap struct{ Name string } `yaml:"configMap"`
				}
			}
		}
	}
}

type container struct {
	Name            string
	RestartPolicy   string `yaml:"restartPolicy"`
	Args            []string
	SecurityContext map[string]any `yaml:"securityContext"`
	Ports           []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	LivenessProbe  probe `yaml:"livenessProbe"`
	ReadinessProbe probe `yaml:"readinessProbe"`
	VolumeMounts   []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		SubPath   string `yaml:"subPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// workloads are the files of those that are not made from another.
var workloads = []string{"sidecar/deployment.yaml", "node/daemonset.yaml"}

// decode reads a YAML file.
func decode(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// read returns a workload, and sockdog's container in it.
func read(t *testing.T, file string) (w workload, c container) {
	t.Helper()
	decode(t, file, &w)
	pod := w.Spec.Template.Spec
	all := slices.Concat(pod.InitContainers, pod.Containers)
	i := slices.IndexFunc(all, func(c container) bool { return c.Name == "sockdog" })
	if i < 0 {
		t.Fatalf("%s: there is no container sockdog", file)
	}
	return w, all[i]
}

// flag is the value of a flag, or "".
func (c *container) flag(name string) string {
	for _, arg := range c.Args {
		if value, ok := strings.CutPrefix(arg, name+"="); ok {
			return value
		}
	}
	return ""
}

// The rules are good ones.
func TestRules(t *testing.T) {
	files, err := filepath.Glob("*/rules.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no rules: ", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if warnings, err := rules.Lint(strings.NewReader(string(text))); err != nil || len(warnings) > 0 {
			t.Errorf("%s: warnings %v, error %v", file, warnings, err)
		}
	}
}

// So are those that the chart has in its values: by default they kill nothing.
func TestChartRules(t *testing.T) {
	for file, kills := range map[string]bool{"chart/values.yaml": false, "chart/ci/everything-values.yaml": true} {
		var values struct{ Rules string }
		decode(t, file, &values)
		warnings, err := rules.Lint(strings.NewReader(values.Rules))
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: warnings %v, error %v", file, warnings, err)
			continue
		}
		set, err := rules.Parse(strings.NewReader(values.Rules))
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(set.Rules, func(r rules.Rule) bool {
			return slices.ContainsFunc(r.Then, func(a rules.Action) bool { return a.Kind.Destructive })
		}); got != kills {
			t.Errorf("%s: that a rule kills is %v; want %v", file, got, kills)
		}
	}
}

// The rules for a node kill nothing but sockets of pods.
func TestNodeRulesNamePods(t *testing.T) {
	text, err := os.ReadFile("node/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	anywhere := strings.ReplaceAll(string(text), ", cgroup: [/kubepods.slice, /kubepods]", "")
	if anywhere == string(text) {
		t.Fatal("no rule of node/rules.yaml names the cgroups of pods")
	}
	if _, err := rules.Parse(strings.NewReader(anywhere)); err == nil {
		t.Error("a kill in every pod and on the node itself is taken")
	}
}

func TestLockedDown(t *testing.T) {
	want := map[string]map[string]any{
		"sidecar/deployment.yaml": {
			"runAsNonRoot":             true,
			"runAsUser":                65532, // as in the Dockerfile
			"allowPrivilegeEscalation": false,
			"readOnlyRootFilesystem":   true,
			"capabilities":             map[string]any{"drop": []any{"ALL"}, "add": []any{"NET_ADMIN"}},
			"seccompProfile":           map[string]any{"type": "RuntimeDefault"},
		},
		"node/daemonset.yaml": {
			"runAsUser":              0,
			"readOnlyRootFilesystem": true,
			"capabilities": map[string]any{"drop": []any{"ALL"}, "add": []any{
				"NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "BPF",
			}},
			"seccompProfile":  map[string]any{"type": "RuntimeDefault"},
			"appArmorProfile": map[string]any{"type": "Unconfined"},
		},
	}
	for _, file := range workloads {
		w, c := read(t, file)
		if diff := cmp.Diff(want[file], c.SecurityContext); diff != "" {
			t.Errorf("%s: securityContext (-want +got):\n%s", file, diff)
		}
		if w.Spec.Template.Spec.AutomountToken {
			t.Errorf("%s: the token of the service account is mounted", file)
		}
		for _, m := range c.VolumeMounts {
			if !m.ReadOnly && m.MountPath != "/var/lib/sockdog" {
				t.Errorf("%s: %s may be written to", file, m.MountPath)
			}
		}
	}
	if _, c := read(t, "sidecar/deployment.yaml"); c.RestartPolicy != "Always" {
		t.Errorf("restartPolicy %q: only with Always is an init container a sidecar", c.RestartPolicy)
	}
}

// TestProbesReachSockdog follows the probes to the address of --listen, which must not be one
// that only the pod itself can reach. That something answers there is seen in CI, with the
// image. A sidecar has no readiness probe: it would take the application out of its service.
func TestProbesReachSockdog(t *testing.T) {
	ready := map[string]string{"node/daemonset.yaml": "/readyz"}
	for _, file := range workloads {
		_, c := read(t, file)
		live := c.LivenessProbe.HTTPGet
		if live.Path != "/healthz" {
			t.Errorf("%s: the liveness probe asks for %q; want /healthz", file, live.Path)
		}
		if got := c.ReadinessProbe.HTTPGet; got.Path != ready[file] || got.Path != "" && got.Port != live.Port {
			t.Errorf("%s: the readiness probe is %+v; want %q", file, got, ready[file])
		}
		port := 0
		for _, p := range c.Ports {
			if p.Name == live.Port {
				port = p.ContainerPort
			}
		}
		if listen := c.flag("--listen"); port == 0 || listen != ":"+strconv.Itoa(port) {
			t.Errorf("%s: the probe goes to port %q, %d, and sockdog listens on %q; want the same port on every address", file, live.Port, port, listen)
		}
	}
}

// TestRulesReachSockdog follows the file of --rules through mount and volume to the ConfigMap
// that kustomize makes of the rules, under a name that stays when they change.
func TestRulesReachSockdog(t *testing.T) {
	for _, file := range workloads {
		w, c := read(t, file)
		var k kustomization
		decode(t, filepath.Join(filepath.Dir(file), "kustomization.yaml"), &k)
		if len(k.ConfigMapGenerator) != 1 || !k.GeneratorOptions.DisableNameSuffixHash {
			t.Fatalf("%s: kustomize makes %+v; want one ConfigMap under its own name", file, k)
		}
		rulesFile := c.flag("--rules")
		var volume, source string
		for _, m := range c.VolumeMounts {
			if m.MountPath != path.Dir(rulesFile) {
				continue
			}
			volume = m.Name
			if m.SubPath != "" {
				t.Errorf("%s: %s is mounted by subPath, which never sees a change", file, m.MountPath)
			}
		}
		for _, v := range w.Spec.Template.Spec.Volumes {
			if v.Name == volume {
				source = v.ConfigMap.Name
			}
		}
		made := k.ConfigMapGenerator[0]
		if source != made.Name || !slices.Contains(made.Files, path.Base(rulesFile)) {
			t.Errorf("%s: %s comes from volume %q, ConfigMap %q; kustomize makes %+v", file, rulesFile, volume, source, made)
		}
	}
}
