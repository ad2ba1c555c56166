package node_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// While the table comes and goes, and while it is found out anew which namespaces it
// follows, each scan shows each socket once.
func TestScansWhileTheTableChanges(t *testing.T) {
	need(t)
	for name, change := range map[string]func(s *node.Source, round int){
		"followed anew": func(s *node.Source, _ int) { s.FollowAnew(s.Inode()) },
		"wanted or not": func(s *node.Source, round int) {
			s.Want([]ssfilter.StateSet{ssfilter.Of(ssfilter.TimeWait), closeWait}[round%2])
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := open(t, node.Config{Kind: node.Events}) // of this namespace alone: others would only take time
			s.Want(closeWait)
			const leaked = 20 // more than the few that a scan result itself recognizes
			leak, err := nstest.CloseWait(loopback, nstest.ServerSide, leaked)
			if err != nil {
				t.Fatal(err)
			}
			defer leak.Close()
			x := scanner(t, s)
			done, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				for round := 0; ; round++ {
					select {
					case <-done:
						return
					case <-time.After(3 * time.Millisecond):
						change(s, round)
					}
				}
			}()
			for range 100 {
				seen := make(map[uint64]int)
				for _, k := range scan(t, x, closeWait)[s.Inode()] {
					seen[k.ID.Cookie]++
				}
				for cookie, n := range seen {
					if n > 1 {
						t.Errorf("socket %d was shown %d times", cookie, n)
					}
				}
				if len(seen) != leaked {
					t.Errorf("%d sockets, want %d", len(seen), leaked)
				}
				if t.Failed() {
					break
				}
			}
			close(done)
			<-ended
		})
	}
}

// A scan waits for the table no longer than its patience where it does not come to follow a
// namespace, whatever the maintenance has to do meanwhile.
func TestScanAwaitsNoHungNamespace(t *testing.T) {
	need(t)
	p := newPlace(t)
	p.leak(1)
	s, _ := open(t, node.Config{Kind: node.Events, All: true})
	s.Hang(p.Inode)
	s.Want(closeWait)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(300 * time.Millisecond):
				s.Want(closeWait)
			}
		}
	}()
	began := time.Now()
	if n := len(scan(t, scanner(t, s), closeWait)[p.Inode]); n != 1 {
		t.Errorf("%d sockets, want 1", n)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the scan took %v", took)
	}
	close(done)
	<-ended
}

// Namespaces that end while their sockets are scanned, asked for and destroyed fail nothing.
func TestNamespacesEndMeanwhile(t *testing.T) {
	for _, kind := range []node.Kind{node.SockDiag, node.Events} {
		t.Run(string(kind), func(t *testing.T) {
			if kind == node.Events {
				need(t)
			}
			s, _ := open(t, node.Config{Kind: kind, All: true})
			s.Want(closeWait)
			x := scanner(t, s)
			ids := make(chan []sock.ID, 1)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				l, err := s.OpenLookup()
				if err != nil {
					t.Error(err)
					return
				}
				defer l.Close()
				for some := range ids {
					answers, err := l.Lookup(some, nil)
					if err != nil {
						t.Error("asked: ", err)
					}
					for i := range answers {
						if answers[i].Err != nil {
							t.Error("asked: ", answers[i].Err)
						}
					}
					for _, id := range some {
						if err := l.Destroy(id); err != nil && err != sock.ErrGone {
							t.Error("destroyed: ", err)
						}
					}
				}
			}()
			for range 2 {
				p := newPlace(t)
				leak := p.leak(2)
				var seen []sock.ID
				s.Discover()
				await(t, "the new namespace is scanned", func() bool {
					for _, k := range scan(t, x, closeWait)[p.Inode] {
						seen = append(seen, k.ID)
					}
					return len(seen) > 0
				})
				leak.Close()
				p.end()
				p.Namespace.Close()
				s.Discover()
				for range 2 {
					ids <- seen
					scan(t, x, ssfilter.AllStates)
				}
			}
			close(ids)
			<-ended
		})
	}
}

// Two hundred namespaces come and go while nobody waits for them.
func TestManyShortNamespaces(t *testing.T) {
	s, said := open(t, node.Config{Kind: node.Auto, All: true})
	s.Want(closeWait)
	x := scanner(t, s)
	scan(t, x, closeWait)
	before := openFiles(t)
	for range 20 {
		var all [10]*exec.Cmd
		for i := range all {
			all[i] = exec.Command("true")
			all[i].SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
			if err := all[i].Start(); err != nil {
				t.Fatal(err)
			}
		}
		s.Discover()
		for _, cmd := range all {
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
		}
	}
	scan(t, x, closeWait)
	await(t, "all are given up", func() bool { s.Discover(); return openFiles(t) <= before+20 })
	if n := said.count("ERROR") + said.count("WARN"); n > 0 {
		t.Errorf("it complains: %v", said.lines)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
