package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"runtime"

	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/internal/source/sockdiag"
	"github.com/sockdog/sockdog/internal/status"
)

// raiseForMarks has the kernel tell the marks of sockets, and says where it does not, and a selection
// asks for them. The capability is this thread's, which the goroutine keeps.
func raiseForMarks(s *selection.Selection, stderr io.Writer) {
	runtime.LockOSThread()
	if err := s.Markless(sockdiag.RaiseNetAdmin()); err != nil {
		fmt.Fprintln(stderr, "sockdog:", err)
	}
}

// openSource opens this network namespace, or all of the host, to scan.
func openSource(h *host.Host, all bool, stderr io.Writer) (*node.Source, error) {
	return node.Open(node.Config{
		Now: h.Now, All: all, Kind: node.SockDiag, ProcRoot: host.ProcRoot, OpenConn: h.OpenIn,
		Say: func(_ slog.Level, text string, attrs ...slog.Attr) { fmt.Fprintln(stderr, "sockdog:", text, attrs) },
	})
}

// watchesAll reports whether a running sockdog watches all network namespaces.
func watchesAll(running *status.Status) bool { return running != nil && running.Netns == "" }

// openNamespaces opens the network namespaces of the host, or those alone that the owners name,
// which must be there, and returns the inodes of these.
func openNamespaces(h *host.Host, owners *selection.Owners, stderr io.Writer) (all *node.Source, named []uint32, err error) {
	if all, err = openSource(h, true, stderr); err != nil {
		return nil, nil, err
	}
	if err := all.State().LeftOut; err != nil && !owners.AskNetns() {
		fmt.Fprintln(stderr, "sockdog: not all network namespaces can be looked into:", oneLine(err))
	}
	for _, n := range owners.Netns() {
		inode, found := all.Find(n.Name, n.Inode)
		if !found {
			all.Close()
			return nil, nil, fmt.Errorf("there is no network namespace %s that can be looked into: ip netns and lsns -t net show which there are", cmp.Or(n.Name, sockettable.Netns(n.Inode)))
		}
		named = append(named, inode)
	}
	if len(named) > 0 {
		all.Only(named)
	}
	return all, named, nil
}
