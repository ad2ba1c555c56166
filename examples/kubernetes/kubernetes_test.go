// Package kubernetes tests the manifest and the rules beside it: that they are locked
// down as they say, and that the rules are good ones. That its fields are the API's own is
// checked in CI, against the API's types.
package kubernetes

import (
	"os"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules"
)

type configMap struct {
	Metadata struct{ Name string }
	Data     map[string]string
}

type deployment struct {
	Spec struct {
		Template struct {
			Spec struct {
				InitContainers []sidecar `yaml:"initContainers"`
				Volumes        []struct {
					Name      string
					ConfigMap struct{ Name string } `yaml:"configMap"`
				}
			}
		}
	}
}

type sidecar struct {
	RestartPolicy   string `yaml:"restartPolicy"`
	Args            []string
	SecurityContext map[string]any `yaml:"securityContext"`
	Ports           []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	LivenessProbe struct {
		HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
	} `yaml:"livenessProbe"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		SubPath   string `yaml:"subPath"`
	} `yaml:"volumeMounts"`
}

func read(t *testing.T) (configMap, deployment) {
	t.Helper()
	f, err := os.Open("sidecar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var c configMap
	var d deployment
	docs := yaml.NewDecoder(f)
	if err := docs.Decode(&c); err != nil {
		t.Fatal(err)
	}
	if err := docs.Decode(&d); err != nil {
		t.Fatal(err)
	}
	if n := len(d.Spec.Template.Spec.InitContainers); n != 1 {
		t.Fatalf("%d init containers; want the sidecar", n)
	}
	return c, d
}

// The rules for a node are good ones, and kill nothing but sockets of pods.
func TestNodeRules(t *testing.T) {
	text, err := os.ReadFile("node-rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if warnings, err := rules.Lint(strings.NewReader(string(text))); err != nil || len(warnings) > 0 {
		t.Errorf("warnings %v, error %v", warnings, err)
	}
	anywhere := strings.ReplaceAll(string(text), ", cgroup: [/kubepods.slice, /kubepods]", "")
	if _, err := rules.Parse(strings.NewReader(anywhere)); err == nil {
		t.Error("a kill in every pod and on the node itself is taken")
	}
}

func TestSidecarIsLockedDown(t *testing.T) {
	_, d := read(t)
	s := d.Spec.Template.Spec.InitContainers[0]
	if s.RestartPolicy != "Always" {
		t.Errorf("restartPolicy %q: only with Always is an init container a sidecar", s.RestartPolicy)
	}
	want := map[string]any{
		"runAsNonRoot":             true,
		"runAsUser":                65532, // as in the Dockerfile
		"allowPrivilegeEscalation": false,
		"readOnlyRootFilesystem":   true,
		"capabilities":             map[string]any{"drop": []any{"ALL"}, "add": []any{"NET_ADMIN"}},
		"seccompProfile":           map[string]any{"type": "RuntimeDefault"},
	}
	if diff := cmp.Diff(want, s.SecurityContext); diff != "" {
		t.Errorf("securityContext (-want +got):\n%s", diff)
	}
}

// TestProbeReachesTheSidecar follows the liveness probe to the address of --listen,
// which must not be one that only the pod itself can reach. That something answers
// there is seen in CI, with the image.
func TestProbeReachesTheSidecar(t *testing.T) {
	_, d := read(t)
	s := d.Spec.Template.Spec.InitContainers[0]
	probe := s.LivenessProbe.HTTPGet
	if probe.Path != "/healthz" {
		t.Errorf("the liveness probe asks for %q; want /healthz", probe.Path)
	}
	port := 0
	for _, p := range s.Ports {
		if p.Name == probe.Port {
			port = p.ContainerPort
		}
	}
	if listen := s.flag("--listen"); port == 0 || listen != ":"+strconv.Itoa(port) {
		t.Errorf("the probe goes to port %q, %d, and sockdog listens on %q; want the same port on every address", probe.Port, port, listen)
	}
}

// flag is the value of a flag, or "".
func (s *sidecar) flag(name string) string {
	for _, arg := range s.Args {
		if value, ok := strings.CutPrefix(arg, name+"="); ok {
			return value
		}
	}
	return ""
}

// TestRulesReachTheSidecar follows the file of --rules through mount and volume
// to the ConfigMap, and reads the rules there.
func TestRulesReachTheSidecar(t *testing.T) {
	c, d := read(t)
	pod := d.Spec.Template.Spec
	s := pod.InitContainers[0]

	file := s.flag("--rules")
	var volume string
	for _, m := range s.VolumeMounts {
		if m.MountPath != path.Dir(file) {
			continue
		}
		volume = m.Name
		if m.SubPath != "" {
			t.Errorf("%s is mounted by subPath, which never sees a change", m.MountPath)
		}
	}
	var source string
	for _, v := range pod.Volumes {
		if v.Name == volume {
			source = v.ConfigMap.Name
		}
	}
	if source != c.Metadata.Name {
		t.Fatalf("%s comes from volume %q, ConfigMap %q; want ConfigMap %q", file, volume, source, c.Metadata.Name)
	}
	if _, err := rules.Parse(strings.NewReader(c.Data[path.Base(file)])); err != nil {
		t.Errorf("%s:\n%v", path.Base(file), err)
	}
}
