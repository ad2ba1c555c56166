package owner_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/owner"
	"github.com/sockdog/sockdog/internal/sock"
)

const (
	id    = "fa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c"
	outer = "293f758723d0652a0b9fa869106e600079e56dae362aa1b5a2ab0d5e7e3a8b01"
	uid   = "05b3ee07-a2bd-47e7-9599-7961201f20dd"
	low   = "05b3ee07_a2bd_47e7_9599_7961201f20dd"
	hash  = "6aad2f4ae9d1a0a6b86a5a7a4d3e2f10"
)

func has(text string) sock.Fact { return sock.Fact{Text: text, Known: true} }

var no, unknown = sock.Fact{Known: true}, sock.Fact{}

func TestParse(t *testing.T) {
	pods := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + low + ".slice/"
	tests := []struct {
		name, path           string
		unit, container, pod sock.Fact
	}{
		{"the root", "/", no, no, no},
		{"a service", "/system.slice/nginx.service", has("nginx.service"), no, no},
		{"a service of a slice of its own", "/system.slice/system-getty.slice/getty@tty1.service", has("getty@tty1.service"), no, no},
		{"an instance", "/system.slice/system-postgresql.slice/postgresql@15-main.service", has("postgresql@15-main.service"), no, no},
		{"an escape of a name, which stays", `/system.slice/dev-disk-by\x2dlabel-swap.swap`, has(`dev-disk-by\x2dlabel-swap.swap`), no, no},
		{"an escape of a cgroup, which goes", "/system.slice/system-waldo.slice/_cpu.service/sdfdsaf", has("cpu.service"), unknown, unknown},
		{"a service that has cgroups of its own", "/system.slice/foobar.service/nginx.service", has("foobar.service"), unknown, unknown},
		{"a template without an instance is none", "/system.slice/getty@.service", no, unknown, unknown},
		{"no name of a unit", "/system.slice/a b.service", no, unknown, unknown},
		{"no type of a unit", "/system.slice/nginx", no, unknown, unknown},
		{"systemd", "/init.scope", has("init.scope"), no, no},
		{"a session", "/user.slice/user-1000.slice/session-2.scope", has("session-2.scope"), no, no},
		{"a user's manager", "/user.slice/user-1000.slice/user@1000.service/init.scope", has("init.scope"), no, no},
		{"a user's service", "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service", has("foo.service"), no, no},
		{"a desktop's program", `/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-d0f6b8c8-9f19-4d55-9a2f-1a8d0e5e5f1c.scope`, has("vte-spawn-d0f6b8c8-9f19-4d55-9a2f-1a8d0e5e5f1c.scope"), no, no},
		{"an old user's service", "/user.slice/user-1000.slice/user@1000.service/server.service", has("server.service"), no, no},
		{"a machine", `/machine.slice/machine-debian\x2d12.scope`, has(`machine-debian\x2d12.scope`), no, no},

		{"Docker", "/docker/" + id, no, has(id), no},
		{"Docker with systemd", "/system.slice/docker-" + id + ".scope", has("docker-" + id + ".scope"), has(id), no},
		{"Docker below a parent of the user's", "/build/" + id, no, has(id), unknown},
		{"ECS", "/ecs/2f6f9d0c8f5b4ac2a0c1/" + id, no, has(id), unknown},
		{"nerdctl", "/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-" + id + ".scope", has("nerdctl-" + id + ".scope"), has(id), no},
		{"ctr, by a name", "/default/redis", no, unknown, unknown},
		{"LXC, by a name", "/lxc.payload.web/system.slice/nginx.service", no, unknown, unknown},
		{"an id that is too short", "/docker/" + id[:63], no, unknown, unknown},
		{"an id with another letter", "/docker/" + id[:63] + "G", no, unknown, unknown},
		{"a scope that is called like a container's", "/system.slice/docker-web.scope", has("docker-web.scope"), unknown, unknown},
		{"a plug-in of Docker's", "/docker.slice/" + id + "/init", no, has(id), no},

		{"Podman", "/libpod_parent/libpod-" + id, no, has(id), no},
		{"Podman's monitor", "/libpod_parent/conmon", no, no, no},
		{"a pod of Podman's", "/libpod_parent/" + outer + "/libpod-" + id, no, has(id), no},
		{"the monitor of a pod of Podman's", "/libpod_parent/" + outer + "/conmon", no, no, no},
		{"Podman with systemd", "/machine.slice/libpod-" + id + ".scope/container", has("libpod-" + id + ".scope"), has(id), no},
		{"Podman's monitor with systemd", "/machine.slice/libpod-conmon-" + id + ".scope", has("libpod-conmon-" + id + ".scope"), no, no},
		{"a pod of Podman's with systemd", "/machine.slice/machine-libpod_pod_" + outer + ".slice/libpod-" + id + ".scope", has("libpod-" + id + ".scope"), has(id), no},
		{"a user's Podman", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope/container", has("libpod-" + id + ".scope"), has(id), no},
		{"a Quadlet", "/user.slice/user-1001.slice/user@1001.service/app.slice/quipucords-server.service/libpod-payload-" + id, has("quipucords-server.service"), has(id), no},
		{"a Quadlet's monitor", "/system.slice/wad.service/runtime", has("wad.service"), no, no},
		{"systemd in a container", "/QM.slice/qm.service/libpod-payload-" + id + "/system.slice/dbus-broker.service", has("dbus-broker.service"), has(id), no},

		{"a pod", "/kubepods/burstable/pod" + uid + "/" + id, no, has(id), has(uid)},
		{"a guaranteed pod", "/kubepods/pod" + uid + "/" + id, no, has(id), has(uid)},
		{"a static pod", "/kubepods/besteffort/pod" + hash + "/" + id, no, has(id), has(hash)},
		{"a pod with systemd and containerd", pods + "cri-containerd-" + id + ".scope", has("cri-containerd-" + id + ".scope"), has(id), has(uid)},
		{"a pod with systemd and CRI-O", pods + "crio-" + id + ".scope/container", has("crio-" + id + ".scope"), has(id), has(uid)},
		{"a pod with systemd and Docker", pods + "docker-" + id + ".scope", has("docker-" + id + ".scope"), has(id), has(uid)},
		{"a guaranteed pod with systemd", "/kubepods.slice/kubepods-pod" + low + ".slice/cri-containerd-" + id + ".scope", has("cri-containerd-" + id + ".scope"), has(id), has(uid)},
		{"a static pod with systemd", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + hash + ".slice/crio-" + id + ".scope", has("crio-" + id + ".scope"), has(id), has(hash)},
		{"CRI-O without systemd", "/kubepods/burstable/pod" + uid + "/crio-" + id, no, has(id), has(uid)},
		{"CRI-O's monitor", pods + "crio-conmon-" + id + ".scope", has("crio-conmon-" + id + ".scope"), no, has(uid)},
		{"CRI-O's monitor without systemd", "/kubepods/burstable/pod" + uid + "/crio-conmon-" + id, no, no, has(uid)},
		{"CRI-O's monitor of its own", "/system.slice/crio-conmon-" + id + ".scope", has("crio-conmon-" + id + ".scope"), no, no},
		{"a pod in a kubelet's root", "/k8s.slice/k8s-kubepods.slice/k8s-kubepods-besteffort.slice/k8s-kubepods-besteffort-pod" + low + ".slice/cri-containerd-" + id + ".scope", has("cri-containerd-" + id + ".scope"), has(id), has(uid)},
		{"containerd that does not ask systemd", "/system.slice/containerd.service/kubepods-burstable-pod" + low + ".slice:cri-containerd:" + id, has("containerd.service"), has(id), has(uid)},
		{"containerd that does not ask systemd, at the root", "/kubepods-besteffort-pod" + low + ".slice:cri-containerd:" + id, no, has(id), has(uid)},
		{"kind", "/docker/" + outer + "/kubelet/kubepods/burstable/pod" + uid + "/" + id, no, has(id), has(uid)},
		{"kind with systemd", "/system.slice/docker-" + outer + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + low + ".slice/cri-containerd-" + id + ".scope", has("cri-containerd-" + id + ".scope"), has(id), has(uid)},
		{"the kubelet of kind", "/docker/" + outer + "/system.slice/kubelet.service", has("kubelet.service"), has(outer), no},
		{"k3s of a user", "/user.slice/user-1000.slice/user@1000.service/app.slice/k3s-rootless.service/kubepods/besteffort/pod" + uid + "/" + id, has("k3s-rootless.service"), has(id), has(uid)},
		{"Docker in a pod", "/kubepods/burstable/pod" + uid + "/" + outer + "/docker/" + id, no, has(id), has(uid)},
		{"a pod without a container", pods, no, no, has(uid)},
		{"a pod with an unknown runtime", pods + "kata_overhead", no, unknown, has(uid)},
		{"pods, and none", "/kubepods.slice/kubepods-burstable.slice/kubelet.service", has("kubelet.service"), no, unknown},
		{"a uid that is none", "/kubepods/burstable/podweb-1/" + id, no, has(id), unknown},
		{"a pod outside of kubepods", "/pod" + uid + "/" + id, no, has(id), unknown},
		{"no slice of a pod", "/shop.slice/shop-pod" + low + ".slice/web.service", has("web.service"), no, no},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := sock.Owner{Unit: test.unit, ContainerID: test.container, PodUID: test.pod}
			if diff := cmp.Diff(want, owner.Parse("0::"+test.path+"\n", true)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.path, diff)
			}
		})
	}
}

// In a cgroup namespace of the reader's what is above it is hidden, and what is not found
// may be there.
func TestParseInNamespace(t *testing.T) {
	tests := []struct {
		name, path           string
		unit, container, pod sock.Fact
	}{
		{"the reader's own", "/", unknown, unknown, unknown},
		{"a part of the reader's own", "/worker.service", unknown, unknown, unknown},
		{"a manager in the reader's own", "/system.slice/nginx.service", has("nginx.service"), unknown, unknown},
		{"beside the reader's", "/../worker.service", unknown, unknown, unknown},
		{"a container beside the reader's", "/../cri-containerd-" + id + ".scope", has("cri-containerd-" + id + ".scope"), has(id), unknown},
		{"another pod", "/../../kubepods-burstable-pod" + low + ".slice/cri-containerd-" + id + ".scope", has("cri-containerd-" + id + ".scope"), has(id), has(uid)},
		{"another pod without systemd", "/../../pod" + uid + "/" + id, unknown, has(id), has(uid)},
		{"a service of the host", "/../../system.slice/nginx.service", has("nginx.service"), unknown, unknown},
		{"above", "/..", unknown, unknown, unknown},
		{"a name like that", "/..docker", unknown, unknown, unknown},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := sock.Owner{Unit: test.unit, ContainerID: test.container, PodUID: test.pod}
			if diff := cmp.Diff(want, owner.Parse("0::"+test.path+"\n", false)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.path, diff)
			}
		})
	}
}

func TestParseHierarchies(t *testing.T) {
	tests := []struct {
		name, file           string
		unit, container, pod sock.Fact
	}{
		{"none", "", unknown, unknown, unknown},
		{"no hierarchy that tells", "3:cpuset:/docker/" + id + "\n", unknown, unknown, unknown},
		{"not as the kernel writes it", "0:\n:\n\n0::", no, no, no},
		{"a cgroup that is removed", "0::/system.slice/nginx.service (deleted)\n", has("nginx.service"), no, no},
		{"version 1", "12:pids:/system.slice/nginx.service\n1:name=systemd:/system.slice/nginx.service\n", has("nginx.service"), no, no},
		{"version 1 with more in one", "9:memory,hugetlb:/docker/" + id + "\n", no, has(id), no},
		{"a session of systemd's, whose controllers stay above", "12:pids:/user.slice/user-1000.slice/session-2.scope\n4:memory:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/session-2.scope\n0::/user.slice/user-1000.slice/session-2.scope\n", has("session-2.scope"), no, no},
		{"version 2 that nobody uses", "1:name=systemd:/system.slice/nginx.service\n0::/\n", has("nginx.service"), no, no},
		{"version 1 that nobody uses", "1:name=systemd:/\n0::/system.slice/nginx.service\n", has("nginx.service"), no, no},
		{"two units", "1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n", unknown, no, no},
		{"Docker beside version 2", "12:pids:/docker/" + id + "\n1:name=systemd:/docker/" + id + "\n0::/system.slice/containerd.service\n", unknown, has(id), no},
		{"two containers", "4:memory:/docker/" + outer + "\n1:name=systemd:/docker/" + id + "\n", no, unknown, no},
		{"a colon in a name", "4:memory:/a:b/" + id + "\n", no, has(id), unknown},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := sock.Owner{Unit: test.unit, ContainerID: test.container, PodUID: test.pod}
			if diff := cmp.Diff(want, owner.Parse(test.file, true)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0::/system.slice/nginx.service\n", true)
	f.Add("0::/../../kubepods-pod"+low+".slice/crio-"+id+".scope/container\n", false)
	f.Add("4:memory:/libpod_parent/"+outer+"/libpod-"+id+"\n1:name=systemd:/user.slice/user@1.service/_a.scope\n", true)
	f.Add("0::/kubepods-besteffort-pod"+low+".slice:cri-containerd:"+id+"\n", true)
	f.Fuzz(func(t *testing.T, file string, rooted bool) {
		o := owner.Parse(file, rooted)
		for _, fact := range []sock.Fact{o.Unit, o.ContainerID, o.PodUID} {
			if fact.Text != "" && !fact.Known {
				t.Errorf("%+v is not known, and has a text", fact)
			}
		}
		if c := o.ContainerID.Text; c != "" && (len(c) != 64 || !strings.Contains(file, c)) {
			t.Errorf("the container %q is not in %q", c, file)
		}
		if p := o.PodUID.Text; p != "" && (!owner.IsPodUID(p) || !strings.Contains(strings.ReplaceAll(file, "_", "-"), p)) {
			t.Errorf("the pod %q is not in %q", p, file)
		}
		if u := o.Unit.Text; u != "" && (strings.ContainsAny(u, "/\n\x00 <>") || !strings.Contains(file, u)) {
			t.Errorf("the unit %q is not in %q", u, file)
		}
	})
}
