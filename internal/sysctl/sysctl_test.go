package sysctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/statedir"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// own is the network namespace of a test, and others that are gone.
type own struct{ cookie uint64 }

func (o own) In(netns uint32, do func(cookie uint64) error) error {
	if netns != 0 {
		return errors.New("the network namespace is gone")
	}
	return do(o.cookie)
}

const (
	root    = "/proc/sys"
	timeout = "net.ipv4.tcp_fin_timeout"
	ports   = "net.ipv4.ip_local_port_range"
)

func value(t *testing.T, name string) string {
	t.Helper()
	k := &Settings{root: root}
	v, err := k.read(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func wants(t *testing.T, name, want string) {
	t.Helper()
	if got := value(t, name); got != want {
		t.Errorf("%s is %q, want %q", name, got, want)
	}
}

func open(t *testing.T, path string) *statedir.Dir {
	t.Helper()
	dir, err := statedir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSetAndPutBack: a setting of this namespace has a value while anybody wants it, and its
// old one after.
func TestSetAndPutBack(t *testing.T) {
	nstest.Isolate(t)
	before := value(t, ports)
	k := New(own{}, root, "boot", nil)
	for _, by := range []string{"a", "b"} {
		if old, err := k.Set(0, ports, "15000 60999", "flood", by); err != nil || old != before {
			t.Fatalf("old value %q, error %v", old, err)
		}
	}
	wants(t, ports, "15000 60999")
	if _, err := k.Set(0, ports, "20000 60999", "other", "c"); err == nil || !strings.Contains(err.Error(), `the rule "flood" has set it to 15000 60999`) {
		t.Errorf("two values at once: %v", err)
	}
	if found, err := k.PutBack(0, ports, "a"); err != nil || !strings.Contains(found, "another group wants it") {
		t.Errorf("%q, error %v", found, err)
	}
	wants(t, ports, "15000 60999")
	if found, err := k.PutBack(0, ports, "b"); err != nil || found != "put back "+ports+" to "+before {
		t.Errorf("%q, error %v", found, err)
	}
	wants(t, ports, before)
}

// TestNotOurs: what somebody else has changed meanwhile stays as it is.
func TestNotOurs(t *testing.T) {
	nstest.Isolate(t)
	k := New(own{}, root, "boot", nil)
	if _, err := k.Set(0, timeout, "15", "flood", "a"); err != nil {
		t.Fatal(err)
	}
	if err := k.write(timeout, "17"); err != nil {
		t.Fatal(err)
	}
	if found, err := k.PutBack(0, timeout, "a"); err != nil || !strings.Contains(found, "is 17 by now") {
		t.Errorf("%q, error %v", found, err)
	}
	wants(t, timeout, "17")
}

// TestCrash: the next run puts back what this one has left, in the same boot and namespace
// alone.
func TestCrash(t *testing.T) {
	for _, test := range []struct {
		name, boot string
		cookie     uint64
		back       bool
	}{{"crash", "boot", 7, true}, {"another boot", "other", 7, false}, {"another namespace", "boot", 8, false}} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Isolate(t)
			before, path := value(t, timeout), filepath.Join(t.TempDir(), "state")
			dir := open(t, path)
			k := New(own{7}, root, "boot", dir)
			if _, err := k.Set(0, timeout, "15", "flood", "a"); err != nil {
				t.Fatal(err)
			}
			dir.Close() // as the end of the process does
			dir = open(t, path)
			defer dir.Close()
			k = New(own{test.cookie}, root, test.boot, dir)
			left, err := k.Left()
			if err != nil || len(left) == 1 != (test.boot == "boot") {
				t.Fatalf("left %+v, error %v", left, err)
			}
			for i := range left {
				if _, err := k.PutBackLeft(&left[i]); err != nil {
					t.Error(err)
				}
			}
			want := "15"
			if test.back {
				want = before
			}
			wants(t, timeout, want)
			if left, err := New(own{7}, root, test.boot, dir).Left(); err != nil || len(left) != 0 {
				t.Errorf("there is still something left: %+v, error %v", left, err)
			}
		})
	}
}

// TestBeforeTheWrite: what a setting was is on disk before it is changed; where it cannot be,
// nothing is changed.
func TestBeforeTheWrite(t *testing.T) {
	nstest.Isolate(t)
	before, path := value(t, timeout), filepath.Join(t.TempDir(), "state")
	dir := open(t, path)
	defer dir.Close()
	if err := os.Mkdir(filepath.Join(path, fileName+".new"), 0o700); err != nil { // which no file replaces
		t.Fatal(err)
	}
	k := New(own{}, root, "boot", dir)
	if _, err := k.Set(0, timeout, "15", "flood", "a"); err == nil || !strings.Contains(err.Error(), "not in the state directory") {
		t.Errorf("set without a record: %v", err)
	}
	wants(t, timeout, before)
}

// leaving is a network namespace that goes once a setting of it was changed.
type leaving struct{ gone error }

func (l *leaving) In(_ uint32, do func(cookie uint64) error) error {
	if l.gone != nil {
		return l.gone
	}
	return do(7)
}

// TestGone: a setting is gone with its network namespace; where that is only not to be seen, it
// is remembered.
func TestGone(t *testing.T) {
	for _, test := range []struct {
		name string
		gone error
		left int
	}{
		{"gone", fmt.Errorf("the network namespace: %w", os.ErrNotExist), 0},
		{"not to be seen", errors.New("not all namespaces can be seen"), 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Isolate(t)
			dir := open(t, filepath.Join(t.TempDir(), "state"))
			defer dir.Close()
			l := &leaving{}
			k := New(l, root, "boot", dir)
			if _, err := k.Set(4026532000, timeout, "15", "flood", "a"); err != nil {
				t.Fatal(err)
			}
			l.gone = test.gone
			found, err := k.PutBack(4026532000, timeout, "a")
			if (err == nil) != (test.left == 0) || err == nil && found != timeout+" is gone with its network namespace" {
				t.Errorf("%q, error %v", found, err)
			}
			if left, err := New(l, root, "boot", dir).Left(); err != nil || len(left) != test.left {
				t.Errorf("left %+v, error %v", left, err)
			}
		})
	}
}

// TestCannotBeSet: what is missing or refused says so, and how to cure it.
func TestCannotBeSet(t *testing.T) {
	nstest.Isolate(t)
	k := New(own{}, root, "boot", nil)
	for _, test := range []struct {
		netns             uint32
		name, value, want string
	}{
		{0, "net.ipv4.tcp_no_such_thing", "1", "does not exist here"},
		{0, ports, "60999 15000", "the kernel does not take"},
		{99, timeout, "15", "the network namespace is gone"},
	} {
		if _, err := k.Set(test.netns, test.name, test.value, "flood", "a"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	if len(k.sets) != 0 {
		t.Errorf("it remembers what it has not changed: %+v", k.sets)
	}
}
