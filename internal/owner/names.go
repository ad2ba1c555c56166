package owner

import "strings"

// unitTypes are the types of units that have processes.
var unitTypes = []string{".service", ".scope", ".mount", ".socket", ".swap"}

// unitName returns the name of the unit whose cgroup is called so; "": it is none.
// Systemd puts an underscore before a name that the kernel could take for a file of its
// own (cg_escape). Other escapes, such as \x2d, belong to the name: systemctl shows them.
func unitName(element string) string {
	name := strings.TrimPrefix(element, "_")
	for _, suffix := range unitTypes {
		prefix, has := strings.CutSuffix(name, suffix)
		if has && prefix != "" && prefix[0] != '@' && !strings.HasSuffix(prefix, "@") && only(prefix, letters+digits+`:-_.\@`) && len(name) <= 255 {
			return name
		}
	}
	return ""
}

// isUserManager reports whether a unit is the systemd of a user, which has units of its own.
func isUserManager(unit string) bool {
	uid, is := strings.CutPrefix(strings.TrimSuffix(unit, ".service"), "user@")
	return is && uid != "" && only(uid, digits)
}

// Runtimes name the cgroup of a container PREFIX-ID, or PREFIX-ID.scope where systemd
// manages it: containerd's CRI, CRI-O, Docker, Podman (in the last place for a container
// that shares the cgroup of a unit), nerdctl.
var runtimes = []string{"cri-containerd-", "crio-", "docker-", "libpod-", "libpod-payload-", "nerdctl-"}

// monitors are what watches over a container from outside: no part of it.
var monitors = []string{"crio-conmon-", "libpod-conmon-"}

func isMonitor(element string) bool {
	name := strings.TrimSuffix(element, ".scope")
	for _, prefix := range monitors {
		if id, ok := strings.CutPrefix(name, prefix); ok && IsContainerID(id) {
			return true
		}
	}
	return false
}

// containerID returns the id of the container whose cgroup is called so; is: it is that of
// a container, of which no id can be read if it is empty.
func containerID(element, parent string) (id string, is bool) {
	name := strings.TrimSuffix(element, ".scope")
	if isMonitor(element) {
		return "", false
	}
	for _, prefix := range runtimes {
		if id, ok := strings.CutPrefix(name, prefix); ok && IsContainerID(id) {
			return id, true
		}
	}
	switch {
	case IsContainerID(element):
		// In libpod_parent it is that of a pod of Podman's.
		return element, parent != "libpod_parent"
	case strings.Contains(element, ".slice:"):
		// A runtime that does not ask systemd took SLICE:PREFIX:ID for a path.
		fields := strings.Split(element, ":")
		if id := fields[len(fields)-1]; len(fields) == 3 && IsContainerID(id) && fields[1]+"-" != "crio-conmon-" {
			return id, true
		}
		return "", true
	}
	if !strings.HasSuffix(element, ".scope") {
		return "", false
	}
	for _, prefix := range runtimes {
		if strings.HasPrefix(name, prefix) {
			return "", true
		}
	}
	return "", false
}

// IsContainerID reports whether a text is the id of a container: 64 hexadecimal digits.
func IsContainerID(text string) bool { return len(text) == 64 && only(text, hexadecimal) }

// misplacedPod returns the uid of the pod in an element SLICE:PREFIX:ID; "": it has none.
func misplacedPod(element string) string {
	slice, _, _ := strings.Cut(element, ":")
	return podOfSlice(slice)
}

// podOfSlice returns the uid of the pod whose slice is called so; "": it is that of none.
// The kubelet writes _ for the - of a uid, which would part slices.
func podOfSlice(element string) string {
	name, is := strings.CutSuffix(element, ".slice")
	at := strings.LastIndex(name, "-pod")
	if !is || at < 0 || !isKubepods(name[:at]) {
		return ""
	}
	return podUID(strings.ReplaceAll(name[at+len("-pod"):], "_", "-"))
}

// isKubepods reports whether slices of pods may be called so before the uid: the kubelet
// may have a root of its own, and guaranteed pods have no class of quality in their path.
func isKubepods(prefix string) bool {
	for _, class := range []string{"-burstable", "-besteffort"} {
		prefix = strings.TrimSuffix(prefix, class)
	}
	return prefix == "kubepods" || strings.HasSuffix(prefix, "-kubepods")
}

// podOfDirectory returns the uid of the pod whose cgroup is called so where systemd does
// not manage it; "": it is that of none.
func podOfDirectory(element string) string {
	uid, is := strings.CutPrefix(element, "pod")
	if !is {
		return ""
	}
	return podUID(uid)
}

// podUID returns a text that is the uid of a pod, else "": a UUID, or for a static pod the
// 32 digits of a hash.
func podUID(text string) string {
	if IsPodUID(text) {
		return text
	}
	return ""
}

// IsPodUID reports whether a text is the uid of a pod as the kubelet uses it in paths.
func IsPodUID(text string) bool {
	if len(text) == 32 {
		return only(text, hexadecimal)
	}
	if len(text) != 36 {
		return false
	}
	for i := range len(text) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (text[i] == '-') || !dash && !only(text[i:i+1], hexadecimal) {
			return false
		}
	}
	return true
}

const (
	digits      = "0123456789"
	hexadecimal = digits + "abcdef"
	letters     = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

func only(text, among string) bool { return strings.Trim(text, among) == "" }
