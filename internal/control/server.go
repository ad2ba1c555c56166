package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/status"
)

// Handler does what is asked for. Each method ends when its context does.
type Handler interface {
	// Pause has nothing acted on. Unkept says why a restart would end that.
	Pause(ctx context.Context, p status.Pause) (unkept, err error)
	// Resume ends a pause, and returns which it was; nil: there was none.
	Resume(ctx context.Context) (was *status.Pause, err error)
	// Reset lets a rule act again that has stopped itself, and reports whether it had. The
	// error is an UnknownRule where there is no such rule.
	Reset(ctx context.Context, rule, by string) (was bool, err error)
	// Ready reports whether rules are in force and one scan is done, and which rules are in
	// force instead of the file's; empty: those are.
	Ready() (ready bool, instead string)
}

// UnknownRule is an error: there is no rule of that name, but those.
type UnknownRule struct {
	Name  string
	Rules []string
}

func (u *UnknownRule) Error() string { return fmt.Sprintf("there is no rule %q", u.Name) }

// mostRules is how many names of rules a reply holds.
const mostRules = 1000

// Serve has clients heard until ctx is done. Each is attended to by a goroutine of its own,
// for a few seconds at most.
func Serve(ctx context.Context, l *net.UnixListener, h Handler) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var attended sync.WaitGroup
	defer attended.Wait()
	places := make(chan struct{}, maxClients)
	for {
		places <- struct{}{} // else the others wait to be accepted
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED):
			<-places
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		case err != nil:
			return err
		}
		attended.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
			defer stop()
			attend(ctx, conn, h)
		})
	}
}

// attend hears one client.
func attend(ctx context.Context, conn *net.UnixConn, h Handler) {
	conn.SetDeadline(time.Now().Add(readWithin))
	reply := Reply{Version: version, PID: os.Getpid()}
	uid, err := peer(conn)
	if err == nil && uid != 0 && int(uid) != os.Geteuid() {
		err = fmt.Errorf("user %d may not tell sockdog what to do: only root and user %d may", uid, os.Geteuid())
	}
	var r Request
	if err == nil {
		r, err = read(conn)
	}
	if err == nil {
		conn.SetDeadline(time.Now().Add(doWithin + readWithin))
		within, cancel := context.WithTimeout(ctx, doWithin)
		defer cancel()
		err = do(within, h, &r, uid, &reply)
	}
	if err != nil {
		reply.Error = err.Error()
		if unknown := (*UnknownRule)(nil); errors.As(err, &unknown) {
			reply.Rules = unknown.Rules[:min(len(unknown.Rules), mostRules)]
		}
	}
	json.NewEncoder(conn).Encode(&reply) // who does not read it has gone
}

// peer returns the user who has connected.
func peer(conn *net.UnixConn) (uid uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var who *unix.Ucred
	asked := raw.Control(func(fd uintptr) {
		who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(asked, err); err != nil {
		return 0, fmt.Errorf("who connects cannot be told: %w", err)
	}
	return who.Uid, nil
}

// read reads the line with a request.
func read(conn io.Reader) (r Request, err error) {
	line, err := bufio.NewReader(io.LimitReader(conn, maxRequest)).ReadBytes('\n')
	switch {
	case err != nil && len(line) == maxRequest:
		return r, errors.New("the request is too long")
	case err != nil:
		return r, errors.New("the request has no end")
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, errors.New("the request is no JSON object of this protocol")
	}
	if r.Version != version {
		return r, fmt.Errorf("the request is of version %d of the protocol, and this sockdog speaks version %d: use the sockdog of the same version", r.Version, version)
	}
	return r, nil
}

// do does what a request says.
func do(ctx context.Context, h Handler, r *Request, uid uint32, reply *Reply) error {
	by := fmt.Sprintf("uid %d", uid)
	switch r.Command {
	case CommandPause:
		now := time.Now()
		p := status.Pause{Reason: r.Reason, By: by, Since: now}
		if r.For < 0 || r.For > Wait(maxPause/time.Second) {
			return fmt.Errorf("a pause lasts up to %v", maxPause)
		}
		if r.For > 0 {
			p.Until = now.Add(r.For.Duration())
		}
		unkept, err := h.Pause(ctx, p)
		if unkept != nil {
			reply.Warning = "a restart of sockdog ends the pause, which is in memory alone: " + unkept.Error()
		}
		return err
	case CommandResume:
		was, err := h.Resume(ctx)
		reply.Was = was != nil
		return err
	case CommandReset:
		was, err := h.Reset(ctx, r.Rule, by)
		reply.Was = was
		return err
	case CommandReady:
		reply.Ready, reply.Instead = h.Ready()
		return nil
	default:
		return fmt.Errorf("there is no command %q", r.Command)
	}
}

// maxPause is far longer than anybody means.
const maxPause = 10 * 365 * 24 * time.Hour
