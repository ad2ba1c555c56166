package nstest

import (
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestDevice(t *testing.T) {
	Isolate(t)
	if _, err := NewDevice("lo"); err == nil {
		t.Error("a second device has the name lo")
	}
	device, err := NewDevice("one")
	if err != nil {
		t.Skip("needs veth devices: ", err)
	}
	if again, err := netlink.LinkByName("one"); err != nil || again.Attrs().Index != device.Attrs().Index {
		t.Errorf("device %d, by name %v, %v", device.Attrs().Index, again, err)
	}
	s, err := New(V4, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.BindToDevice("one"); err != nil {
		t.Error(err)
	}
}

func TestCgroup(t *testing.T) {
	Need(t)
	own, err := OwnCgroup()
	if err != nil {
		t.Skip("needs a cgroup: ", err)
	}
	group, err := own.New(fmt.Sprint("nstest-", os.Getpid()))
	if err != nil {
		t.Skip("needs the right to make a cgroup: ", err)
	}
	defer func() {
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	}()
	if err := group.Enter(); err != nil {
		t.Skip("needs the right to enter a cgroup: ", err)
	}
	defer func() {
		if err := own.Enter(); err != nil {
			t.Error(err)
		}
	}()
	if now, err := OwnCgroup(); err != nil || now != group {
		t.Errorf("in cgroup %s, %v, want %s", now, err, group)
	}
}
