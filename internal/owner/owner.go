// Package owner reads from the path of a cgroup where the processes in it belong: to
// which unit of systemd, container and pod. What it does not recognize it leaves unknown.
package owner

import (
	"strings"

	"github.com/sockdog/sockdog/internal/sock"
)

// Parse reads where a process belongs from what /proc/PID/cgroup says of it. rooted says
// that its paths begin at the host's root: to a reader in a cgroup namespace of its own
// they begin at that of the namespace, and what is above is hidden.
//
// The hierarchy of version 2 tells (0::), and of version 1 that of systemd (name=systemd)
// and those of memory and pids, into which all runtimes put their containers. Their paths
// may differ: Docker on a host with version 1 beside version 2 leaves its containers in
// containerd.service in the latter. What one of them tells of containers and pods is
// believed, and what two of them tell differently is not; a unit is that of a process if
// all that systemd manages say so.
func Parse(file string, rooted bool) (o sock.Owner) {
	var first sock.Owner
	seen, managed := false, ""
	for line := range strings.Lines(file) {
		// 0::/system.slice/nginx.service, and 4:memory:/docker/1f2e in version 1.
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) < 3 || !tells(fields[0], fields[1]) {
			continue
		}
		path := strings.TrimSuffix(fields[2], " (deleted)")
		at := parsePath(path, rooted)
		if !seen {
			first, o, seen = at, at, true
		}
		o.ContainerID, o.PodUID = join(o.ContainerID, at.ContainerID), join(o.PodUID, at.PodUID)
		switch {
		case fields[1] != "" && fields[1] != systemd:
		case managed == "", managed == "/": // in the root there is nothing, where it is not used
			o.Unit, managed = at.Unit, path
		case path != "/" && o.Unit != at.Unit:
			o.Unit = sock.Fact{}
		}
	}
	if managed == "" {
		o.Unit = first.Unit
	}
	return o
}

// systemd is the hierarchy of version 1 that systemd manages, and no controller.
const systemd = "name=systemd"

// tells reports whether a hierarchy tells of units or containers.
func tells(number, controllers string) bool {
	if controllers == "" {
		return number == "0"
	}
	for name := range strings.SplitSeq(controllers, ",") {
		if name == systemd || name == "memory" || name == "pids" {
			return true
		}
	}
	return false
}

// join is what follows from what two hierarchies tell.
func join(a, b sock.Fact) sock.Fact {
	switch {
	case a == b, a.Text != "" && b.Text == "":
		return a
	case a.Text == "" && b.Text != "":
		return b
	default:
		return sock.Fact{}
	}
}

// parsePath reads one path, from the root on. A manager of units (systemd of the host, of
// a user or in a container) has its slices first and units in them; a unit divides what is
// below it as it likes. The innermost unit, container and pod are those of the process.
func parsePath(path string, rooted bool) (o sock.Owner) {
	for path == "/.." || strings.HasPrefix(path, "/../") { // another part of the tree than the reader's
		path, rooted = path[len("/.."):], false
	}
	w := walker{manager: rooted, hidden: !rooted, strange: !rooted}
	for name := range strings.SplitSeq(path, "/") {
		if name != "" {
			w.element(name)
		}
	}
	w.unit.Known = w.unit.Text != "" || rooted
	w.container.Known = w.container.Text != "" || !w.strange
	w.pod.Known = w.pod.Text != "" || !w.strange && !w.kubernetes
	return sock.Owner{Unit: w.unit, ContainerID: w.container, PodUID: w.pod}
}

// walker is what the elements of a path have told so far.
type walker struct {
	unit, container, pod sock.Fact

	last       string // the element before
	manager    bool   // a manager made what follows
	hidden     bool   // the elements before are hidden: slices show that a manager made what follows
	kubernetes bool   // an element is of the kubelet's
	strange    bool   // an element is not recognized, or hidden: it may be a container of a kind unknown here
}

func (w *walker) element(name string) {
	switch id, is := containerID(name, w.last); {
	case is && id != "":
		w.container.Text = id
		w.takePod(misplacedPod(name))
		w.takeUnit(name)
		w.manager = true
	case is: // of a runtime, and not as a runtime names one
		w.strange = true
		w.takeUnit(name)
	case strings.HasSuffix(name, ".slice") && (w.manager || w.hidden):
		w.kubernetes, w.manager = w.kubernetes || strings.Contains(name, "kubepods"), true
		w.takePod(podOfSlice(name))
	case w.manager && unitName(name) != "":
		w.takeUnit(name)
	case name == "kubepods":
		w.kubernetes, w.manager = true, false
	case (w.kubernetes || w.hidden) && podOfDirectory(name) != "":
		w.takePod(podOfDirectory(name))
		w.manager = false
	case plain[name], w.last == "libpod_parent" && IsContainerID(name), w.kubernetes && (name == "burstable" || name == "besteffort"), isMonitor(name):
		w.manager = false
	default:
		w.strange, w.manager = true, false
	}
	w.last, w.hidden = name, false
}

func (w *walker) takePod(uid string) {
	if uid != "" {
		w.pod.Text = uid
	}
}

// takeUnit takes an element for a unit if its name is that of one.
func (w *walker) takeUnit(name string) {
	w.manager = false
	if unit := unitName(name); unit != "" {
		w.unit.Text = unit
		w.manager = isUserManager(unit)
	}
}

// plain are elements without a container of their own that runtimes and the kubelet make:
// below them are containers, or they are below one.
var plain = map[string]bool{
	"docker": true, "libpod_parent": true, "kubelet": true, "conmon": true, "supervisor": true, "runtime": true,
	"container": true, "init": true,
}
