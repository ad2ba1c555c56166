package nstest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tcpTable lists the states in the namespace's two tables of TCP sockets.
func tcpTable(t *testing.T) (states []string) {
	t.Helper()
	for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		table, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); fields[0] != "sl" {
				states = append(states, fields[3])
			}
		}
	}
	return states
}

func TestPopulationIsInEveryState(t *testing.T) {
	Isolate(t)
	p, err := NewPopulation()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, lack := range p.Lacks {
		t.Log("left out: ", lack)
	}
	// In hexadecimal, as the kernel prints them; 07 is in no table.
	want := []string{"01", "02", "03", "04", "05", "06", "08", "09", "0A", "0B"}
	deadline := time.Now().Add(patience)
	for {
		states := tcpTable(t)
		missing := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return slices.Contains(states, s) })
		if len(missing) == 0 && len(states) >= 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sockets, none in the states %v", len(states), missing)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestDevice(t *testing.T) {
	Isolate(t)
	if _, err := NewDevice("lo"); err == nil {
		t.Error("a second device has the name lo")
	}
	device, err := NewDevice("one")
	if err != nil {
		t.Skip("needs veth devices: ", err)
	}
	if again, err := deviceByName("one"); err != nil || again != device {
		t.Errorf("device %d, by name %d, %v", device, again, err)
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
