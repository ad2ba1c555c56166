package host

import (
	"strings"
	"testing"
)

// What keeps the capability away decides what to do: setcap is of no use under
// no_new_privs, and root of none outside of the bounding set.
func TestMissingPrivilege(t *testing.T) {
	for _, test := range []struct {
		name      string
		p         privileges
		why, cure string
		notCure   string
	}{
		{"nobody gave it", privileges{}, "file has no capability", "setcap", ""},
		{"no_new_privs, and none on the file", privileges{noNewPrivs: true}, "no_new_privs", "AmbientCapabilities", "setcap"},
		{"no_new_privs, and one on the file", privileges{noNewPrivs: true, file: true}, "file has the capability, and no_new_privs", "AmbientCapabilities", "setcap"},
		{"nosuid, and one on the file", privileges{nosuid: true, file: true}, "mounted nosuid", "another file system", "setcap"},
		{"one on the file, to no effect", privileges{file: true}, "not granted all the same", "run as root", "setcap"},
		{"outside of the bounding set", privileges{bounded: true, file: true, noNewPrivs: true}, "bounding set", "CapabilityBoundingSet", "setcap"},
		{"root, outside of the bounding set", privileges{bounded: true, root: true}, "bounding set", "NET_ADMIN in the container", "run as root"},
		{"root without it", privileges{root: true, noNewPrivs: true}, "root was started without it", "NET_ADMIN in the container", "run as root"},
	} {
		t.Run(test.name, func(t *testing.T) {
			why, cure := test.p.missing()
			if !strings.Contains(why, test.why) || !strings.Contains(cure, test.cure) || test.notCure != "" && strings.Contains(cure, test.notCure) {
				t.Errorf("why %q, cure %q", why, cure)
			}
		})
	}
}
