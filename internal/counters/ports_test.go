package counters

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

type spans = []ssfilter.PortRange

func span(first, last uint16) ssfilter.PortRange { return ssfilter.PortRange{First: first, Last: last} }

func TestParsePorts(t *testing.T) {
	tests := []struct {
		name                string
		ephemeral, reserved string
		want                spans
		bad                 bool
	}{
		{name: "none reserved", ephemeral: "32768\t60999\n", reserved: "\n", want: spans{span(32768, 60999)}},
		{name: "some in the middle", ephemeral: "32768\t60999\n", reserved: "40000,50000-50009\n", want: spans{span(32768, 39999), span(40001, 49999), span(50010, 60999)}},
		{name: "at both ends, and beyond", ephemeral: "1000\t2000\n", reserved: "1-1000,1999-3000\n", want: spans{span(1001, 1998)}},
		{name: "outside", ephemeral: "1000\t2000\n", reserved: "80,999,2001\n", want: spans{span(1000, 2000)}},
		{name: "all of them", ephemeral: "1000\t2000\n", reserved: "1-65535\n", want: spans{}},
		{name: "up to the last port", ephemeral: "65000\t65535\n", reserved: "65535\n", want: spans{span(65000, 65534)}},
		{name: "one port", ephemeral: "65535\t65535\n", want: spans{span(65535, 65535)}},
		{name: "overlapping", ephemeral: "10\t20\n", reserved: "14-16,12-15", want: spans{span(10, 11), span(17, 20)}},
		{name: "the wrong way round", ephemeral: "2000\t1000\n", bad: true},
		{name: "one end", ephemeral: "2000\n", bad: true},
		{name: "no number", ephemeral: "1000\t2000\n", reserved: "x", bad: true},
		{name: "too large", ephemeral: "1000\t70000\n", bad: true},
		{name: "nothing", bad: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := parsePorts([]byte(test.ephemeral), []byte(test.reserved))
			if diff := cmp.Diff(test.want, got.Free); diff != "" || ok == test.bad {
				t.Errorf("parsePorts (-want +got), ok %t:\n%s", ok, diff)
			}
		})
	}
}

func FuzzParsePorts(f *testing.F) {
	f.Add([]byte("32768\t60999\n"), []byte("40000,50000-50009\n"))
	f.Fuzz(func(t *testing.T, ephemeral, reserved []byte) {
		ports, _ := parsePorts(ephemeral, reserved)
		before := -1
		for _, r := range ports.Free {
			if int(r.First) <= before || r.First > r.Last {
				t.Fatalf("%v is not in order", ports)
			}
			before = int(r.Last)
		}
	})
}

// TestPorts reads what the kernel of a namespace says, which may change.
func TestPorts(t *testing.T) {
	nstest.Isolate(t)
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	whole := span(20000, 20100)
	for _, step := range []struct {
		file, text string
		want       sock.Ports
	}{
		{"ip_local_port_range", "20000 20100", sock.Ports{Ephemeral: whole, Free: spans{whole}}},
		{"ip_local_reserved_ports", "20050-20059", sock.Ports{Ephemeral: whole, Free: spans{span(20000, 20049), span(20060, 20100)}}},
		{"ip_local_reserved_ports", "", sock.Ports{Ephemeral: whole, Free: spans{whole}}},
	} {
		if err := nstest.Sysctl("net.ipv4."+step.file, step.text+"\n"); err != nil {
			t.Fatal(err)
		}
		got, err := r.Ports()
		if diff := cmp.Diff(map[uint32]sock.Ports{netns.Inode(): step.want}, got); diff != "" || err != nil {
			t.Errorf("after %s = %q: %v (-want +got):\n%s", step.file, step.text, err, diff)
		}
	}
	if n := testing.AllocsPerRun(100, func() { r.Ports() }); n != 0 {
		t.Errorf("ports that have not changed cost %v allocations, want none", n)
	}
}
