package holders

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sockdog/sockdog/internal/sock"
)

// refused takes in a process whose descriptors cannot be read, unless it has none.
func (w *walk) refused(pid int) {
	path := strconv.Itoa(pid)
	switch s, err := readStat(w.root, path+"/stat"); {
	case err != nil && unlessGone(err) == nil, err == nil && s.holdsNothing():
		return
	}
	w.mayHold(w.owners.of(w.root, path, w.rooted), func() sock.Holder { return describe(w.root, path, pid) })
}

// mayHold takes in a process that may hold any socket, and where it belongs.
func (w *walk) mayHold(o *sock.Owner, described func() sock.Holder) {
	if a := &w.found.Access; a.Refused == 0 {
		a.First = described()
	}
	w.found.Access.Refused++
	if !slices.Contains(w.unread, o) {
		w.unread = append(w.unread, o)
	}
}

// holdsNothing reports whether a process has no descriptors: a thread of the kernel, or one
// that has ended and whose parent has not waited for it.
func (s stat) holdsNothing() bool {
	if len(s) < 18 {
		return false
	}
	flags, err := s.number(9)
	threads, _ := s.number(20) // which live on where the first has ended
	ended := s[0][0] == 'Z' || s[0][0] == 'X'
	return err == nil && flags&pfKthread != 0 || ended && threads == 1
}

// settle finds out for which holders it is settled that no process holds a socket with them
// that could not be read. A descriptor comes to another process by fork(2), or because a
// program passes it on (SCM_RIGHTS, pidfd_getfd(2)).
//
// By fork it comes to none that is not shown: see kinShown. Nor does it to a process of
// another container, or of another service of systemd: runtimes and systemd start those, and
// pass on what they are told to. A scope takes in processes that somebody else has forked,
// such as the sessions of sshd, and tells nothing. That programs of different containers or
// services pass connections to each other on purpose, nobody could see, and it is taken for
// not so: docs/rules.md says that.
func (w *walk) settle() {
	if !w.found.Access.kinShown() {
		return
	}
	w.found.Settled = make(map[*sock.Owner]bool)
	for _, held := range w.found.Holders {
		for i := range held {
			o := held[i].Owner
			if _, done := w.found.Settled[o]; !done {
				w.found.Settled[o] = !slices.ContainsFunc(w.unread, func(u *sock.Owner) bool { return !apart(u, o) })
			}
		}
	}
}

// apart reports whether two processes are of different containers or services, for certain.
func apart(a, b *sock.Owner) bool {
	if a == nil || b == nil {
		return false
	}
	isService := func(unit sock.Fact) bool { return strings.HasSuffix(unit.Text, ".service") }
	return a.ContainerID.Known && b.ContainerID.Known && a.ContainerID.Text != b.ContainerID.Text ||
		isService(a.Unit) && isService(b.Unit) && a.Unit.Text != b.Unit.Text
}
