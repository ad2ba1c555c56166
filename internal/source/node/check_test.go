package node_test

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/sockdog/sockdog/internal/source/node"
)

// takeFlags attaches a program that takes its callbacks from every connection, as one does
// that knows of itself alone.
func takeFlags(t *testing.T) (detach func()) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SockOps, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, 0),
			asm.FnSockOpsCbFlagsSet.Call(),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: string(own), Attach: ebpf.AttachCGroupSockOps, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() }) // again, where the test has closed it
	return func() { l.Close() }
}

// What the table lacks, because another program took the callbacks, a check finds; that is
// said once, and counted, and scans find it from then on.
func TestCheck(t *testing.T) {
	p := newPlace(t)
	s, said := openEvents(t, p, node.Config{All: true})
	x := scanner(t, s)
	p.leak(2)
	if missed, err := s.Check(p.Inode); missed != 0 || err != nil {
		t.Errorf("%d sockets are missed before (%v)", missed, err)
	}
	detach := takeFlags(t)
	p.leak(3)
	detach()
	if n := len(scan(t, x, closeWait)[p.Inode]); n != 2 {
		t.Errorf("%d sockets, of which the table should tell two", n)
	}
	for range 2 {
		missed, err := s.Check(p.Inode)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the check finds %d", missed)
		awaitFollowed(t, s, p)
	}
	if missed := s.State().Missed; missed != 3 {
		t.Errorf("%d sockets are counted as missed, want 3", missed)
	}
	found := scan(t, x, closeWait)[p.Inode]
	exact := 0
	for _, k := range found {
		if k.Entered != 0 {
			exact++
		}
	}
	if len(found) != 5 || exact != 2 {
		t.Errorf("%d sockets, %d of them exact, want 5 and 2", len(found), exact)
	}
	if n := said.count("events have missed sockets"); n != 1 || said.count(fmt.Sprintf("anew [netns=%d sockets=", p.Inode)) != 1 {
		t.Errorf("it was said %d times: %v", n, said.lines)
	}
}
