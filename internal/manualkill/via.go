package manualkill

import (
	"cmp"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// kill is what a person asks for, as a rule would say it.
func (r *Request) kill() *rules.Action {
	return &rules.Action{Kind: rules.Kill, Options: map[string]any{"via": cmp.Or(r.Via, rules.ViaAny)}}
}

// Way returns by which way sockets are destroyed here.
func (r *Request) Way() rules.Via {
	via, _ := r.Capabilities.Way(r.kill())
	return via
}

// unreachable says why a target cannot be reached through who holds it, or "" where it can, or
// nobody has looked yet.
func unreachable(t *Target) match.Reason {
	switch {
	case t.Socket.Inode == 0:
		return match.NoDescriptor
	case t.Held != nil && len(t.Held.Processes) == 0:
		return match.HoldersUnknown
	default:
		return ""
	}
}

// reach opens the way to the targets through who holds them, and returns those to which there
// may be one. That may take long, so it comes before the last question. An open descriptor keeps
// its socket alive: release closes it.
func (w *worker) reach(targets []*Target) []*Target {
	if w.Way() != rules.ViaHolder {
		return targets
	}
	for _, t := range targets {
		fd, err := w.duplicate(t)
		switch {
		case err == nil:
			w.fds[t] = fd
		case errors.Is(err, sock.ErrNotHeld): // whether it has been closed, the last question tells
		default:
			t.conclude(engine.Failed, err.Error())
		}
	}
	return Pending(targets)
}

// duplicate duplicates the descriptor of the first holder that lets it. Of errors, a refusal
// tells most.
func (w *worker) duplicate(t *Target) (fd int, err error) {
	err = sock.ErrNotHeld
	holders := t.Holders()
	for i := range holders {
		fd, failed := w.descriptors.Open(&holders[i], t.Socket.Inode, t.Socket.ID.Cookie)
		if failed == nil {
			return fd, nil
		}
		if !errors.Is(err, sock.ErrRefused) {
			err = failed
		}
	}
	return -1, err
}

// release closes the descriptors that were duplicated.
func (w *worker) release() {
	for t, fd := range w.fds {
		unix.Close(fd)
		delete(w.fds, t)
	}
}
