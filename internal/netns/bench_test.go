package netns

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/nstest"
)

// BenchmarkFind finds nothing new among 500 processes, in 100 namespaces.
func BenchmarkFind(b *testing.B) {
	nstest.Isolate(b)
	const processes, namespaces = 500, 100
	for i := range processes {
		cmd := exec.Command("cat") // ends with its stdin
		stdin, err := cmd.StdinPipe()
		check(b, err)
		cmd.SysProcAttr = &helperAttr{}
		if i < namespaces {
			newNetns(cmd.SysProcAttr)
		}
		check(b, cmd.Start())
		b.Cleanup(func() {
			stdin.Close()
			_ = cmd.Wait()
		})
	}
	f := newFinder(b)
	b.ReportAllocs()
	for b.Loop() {
		if found := must(f.Find())(b); len(found.Appeared) > 0 {
			b.Fatalf("appeared: %d", len(found.Appeared))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/processes, "µs/process")
}

// BenchmarkDo enters a namespace and comes back.
func BenchmarkDo(b *testing.B) {
	nstest.Isolate(b)
	there := fresh(b)
	for b.Loop() {
		check(b, there.Do(func() error { return nil }))
	}
}

// TestIPNetns: names are those that ip(8) gives.
func TestIPNetns(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip(8): ", err)
	}
	nstest.Isolate(t)
	privateMounts(t)
	ip := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("ip", args...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	f := newFinder(t)
	want := map[string]bool{}
	for i := range 3 {
		want[fmt.Sprint("dog-", i)] = true
		ip("netns", "add", fmt.Sprint("dog-", i))
	}
	found := find(t, f)
	for _, n := range found.Appeared {
		for _, name := range f.Names(n.Inode) {
			delete(want, name)
		}
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
	ip("netns", "delete", "dog-1")
	if gone := find(t, f).Gone; len(gone) == 0 {
		t.Error("what was deleted is not gone")
	}
}
