package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrNobody says that no sockdog listens on any of some paths.
var ErrNobody = errors.New("no sockdog answers")

// Ask has the sockdog that listens on the first of the paths do something.
func Ask(ctx context.Context, paths []string, r Request) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	for _, path := range paths {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			defer conn.Close()
			return ask(ctx, conn.(*net.UnixConn), path, r)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("%s may not be used: only root and the user that sockdog runs as may tell it what to do", path)
		default:
			return nil, fmt.Errorf("%s: %w", path, reason(err))
		}
	}
	return nil, fmt.Errorf("%w on %s", ErrNobody, strings.Join(paths, " or "))
}

func ask(ctx context.Context, conn *net.UnixConn, path string, r Request) (*Reply, error) {
	if err := trust(conn, path); err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	r.Version = version
	line, err := json.Marshal(&r)
	if err != nil {
		return nil, err
	}
	if len(line) >= maxRequest {
		return nil, errors.New("the reason is too long")
	}
	_, written := conn.Write(append(line, '\n')) // who is not heard has a reply all the same
	line, err = bufio.NewReader(io.LimitReader(conn, maxReply)).ReadBytes('\n')
	if err != nil && len(line) == 0 {
		return nil, fmt.Errorf("the sockdog on %s does not answer: %w", path, reason(errors.Join(written, err)))
	}
	var reply Reply
	if json.Unmarshal(line, &reply) != nil || reply.Version == 0 {
		return nil, fmt.Errorf("what listens on %s is not sockdog", path)
	}
	switch {
	case reply.Error == "":
		return &reply, nil
	case len(reply.Rules) > 0:
		return nil, &UnknownRule{r.Rule, reply.Rules}
	default:
		return nil, errors.New(reply.Error)
	}
}

// trust says whether to believe who listens on a path: a stop that somebody else says he
// has done is none. It must be root, the user who asks, or the owner of the directory.
func trust(conn *net.UnixConn, path string) error {
	uid, err := peer(conn)
	if err != nil {
		return err
	}
	if uid == 0 || int(uid) == os.Geteuid() {
		return nil
	}
	if info, err := os.Stat(filepath.Dir(path)); err == nil && info.Sys().(*syscall.Stat_t).Uid == uid {
		return nil
	}
	return fmt.Errorf("user %d runs what listens on %s, and is neither root nor you nor the owner of the directory", uid, path)
}
