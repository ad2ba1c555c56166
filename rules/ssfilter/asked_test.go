package ssfilter

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAsks(t *testing.T) {
	for _, tt := range []struct {
		text             string
		devices, cgroups []string
		mark             bool
	}{
		{text: "dport = 22 and dev != 3"},
		{text: "not dev = eth0 or dst fe80::1%eth1", devices: []string{"eth0", "eth1"}},
		{text: "dport = 22 and not ( cgroup = a.slice or fwmark = 5 )", cgroups: []string{"/a.slice"}, mark: true},
	} {
		x, err := ParseExpr(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		asked := Asks(x)
		if diff := cmp.Diff([][]string{tt.devices, tt.cgroups}, [][]string{asked.Devices, asked.Cgroups}); diff != "" {
			t.Errorf("Asks(%q) (-want +got):\n%s", tt.text, diff)
		}
		if asked.Mark != tt.mark {
			t.Errorf("Asks(%q).Mark = %v", tt.text, asked.Mark)
		}
	}
	if none := Asks(nil); none.Devices != nil || none.Cgroups != nil || none.Mark {
		t.Error("no filter names something")
	}
}

// What holds outside of a cgroup does not keep within those that it names.
func TestWithinCgroups(t *testing.T) {
	for text, want := range map[string]bool{
		"cgroup = /a":                true,
		"cgroup = /":                 false,
		"cgroup != /a":               false,
		"not cgroup = /a":            false,
		"not cgroup != /a":           true,
		"dport = 80":                 false,
		"dport = 80 and cgroup = /a": true,
		"dport = 80 or cgroup = /a":  false,
		"cgroup = /a or cgroup = /b": true,
		"dport = 80 and ( cgroup = /a or cgroup = /b )": true,
		"dport = 80 and ( cgroup = /a or dport = 81 )":  false,
		"not ( cgroup != /a or dport = 80 )":            true,
		"not ( cgroup != /a and dport = 80 )":           false,
		"not ( cgroup != /a and cgroup != /b )":         true,
	} {
		x, err := ParseExpr(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := WithinCgroups(x); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if WithinCgroups(nil) {
		t.Error("no filter keeps within a cgroup")
	}
}

// A device has several names, and who knows not all of them cannot say that
// another one is of another device.
func TestDeviceNames(t *testing.T) {
	for _, tt := range []struct {
		text, altNames string
		want           Tri
	}{
		{"dev = eth0", "", True},
		{"dev = enp0s3", "", False},
		{"dev = enp0s3", " enp0s3 ", True},
		{"dev = enp0s3", " ens3  enp0s3 ", True},
		{"dev = enp0s", " ens3  enp0s3 ", False},
		{"not dev = enp0s3", " enp0s3 ", False},
		{"dev = eth0", UnknownNames, True},
		{"dev = enp0s3", UnknownNames, Unknown},
		{"dev = ?", UnknownNames, Unknown},
	} {
		x, err := ParseExpr(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := x.Eval(&Conn{Iface: 2, Device: "eth0", AltNames: tt.altNames}); got != tt.want {
			t.Errorf("%s with the other names %q is %v, want %v", tt.text, tt.altNames, got, tt.want)
		}
	}
}
