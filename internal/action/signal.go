package action

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// signal signals a process. It is held by a pidfd from before it is looked at, so that no
// other can take its number meanwhile.
var signal = &Kind{Kind: rules.Signal, Once: sendSignal}

var signals = map[string]unix.Signal{
	"TERM": unix.SIGTERM, "INT": unix.SIGINT, "HUP": unix.SIGHUP, "QUIT": unix.SIGQUIT,
	"ABRT": unix.SIGABRT, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2, "KILL": unix.SIGKILL,
}

func sendSignal(ctx context.Context, x *Runner, a *engine.GroupAction) (found string, err error) {
	pid, number := a.Process.PID, signals[a.Action.Signal.Signal]
	pidfd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return "", sock.ErrGone
	case err != nil:
		return "", fmt.Errorf("open process %d (pidfd_open(2), Linux 5.3 or later): %w", pid, err)
	}
	defer unix.Close(pidfd)
	p, err := readProcess(x.ProcRoot, pid)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || err == nil && p.start != a.Process.Start {
		return "", sock.ErrGone // another may have its number by now
	}
	if err == nil {
		err = p.refuses(x, a.Action.Signal.AllowPID1, number)
	}
	if err != nil {
		return "", err
	}
	if why, err := x.Recheck(a); err != nil {
		return "", fmt.Errorf("look once more at the sockets of process %d: %w", pid, err)
	} else if why != "" {
		return "", changed(why)
	}
	if ctx.Err() != nil {
		return "", changed(match.Stopping)
	}
	switch err := unix.PidfdSendSignal(pidfd, number, nil, 0); {
	case errors.Is(err, unix.ESRCH):
		return "", sock.ErrGone
	case errors.Is(err, unix.EPERM):
		return "", fmt.Errorf("signal process %d (%s): %w: it is another user's, and sockdog has no CAP_KILL: sockdog doctor says how to get it", pid, p.comm, err)
	case err != nil:
		return "", fmt.Errorf("signal process %d (%s): %w", pid, p.comm, err)
	}
	return fmt.Sprintf("sent SIG%s to process %d (%s)", a.Action.Signal.Signal, pid, p.comm), nil
}

// process is what is read of a process before it is signalled.
type process struct {
	pid    int
	comm   string
	start  uint64 // in clock ticks after boot
	kernel bool   // it is a thread of the kernel
}

// pfKthread is PF_KTHREAD of the kernel's include/linux/sched.h.
const pfKthread = 0x00200000

func readProcess(root string, pid int) (p process, err error) {
	text, err := os.ReadFile(root + "/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return p, err
	}
	// The name stands in parentheses, and may hold some of its own.
	open, shut := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || shut < open {
		return p, fmt.Errorf("%s/%d/stat cannot be read", root, pid)
	}
	fields := strings.Fields(string(text[shut+1:])) // from the third one on
	if len(fields) < 20 {
		return p, fmt.Errorf("%s/%d/stat is too short", root, pid)
	}
	flags, err1 := strconv.ParseUint(fields[9-3], 10, 64)
	start, err2 := strconv.ParseUint(fields[22-3], 10, 64)
	return process{pid: pid, comm: string(text[open+1 : shut]), start: start, kernel: flags&pfKthread != 0}, errors.Join(err1, err2)
}

// refuses says why a process is not signalled, whatever a rule says.
func (p *process) refuses(x *Runner, allowPID1 bool, number unix.Signal) error {
	switch {
	case p.pid == os.Getpid():
		return errors.New("process is sockdog itself: it is never signalled")
	case p.kernel:
		return fmt.Errorf("process %d (%s) is a thread of the kernel: it is never signalled", p.pid, p.comm)
	case p.pid != 1:
		return nil
	case !x.Contained():
		return fmt.Errorf("process 1 (%s) runs this host: it is never signalled", p.comm)
	case !allowPID1:
		return fmt.Errorf("process 1 (%s) is what this container was started for, or what keeps its namespace: signal it with allow_pid_1: true, if it is the former", p.comm)
	case !p.catches(x.ProcRoot, number):
		return fmt.Errorf("process 1 (%s) has no handler for this signal, and the kernel drops such for process 1 of a container (pid_namespaces(7))", p.comm)
	}
	return nil
}

// catches reports whether the process has a handler for the signal.
func (p *process) catches(root string, number unix.Signal) bool {
	text, err := os.ReadFile(root + "/" + strconv.Itoa(p.pid) + "/status")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(text), "\nSigCgt:")
	line, _, _ := strings.Cut(after, "\n")
	mask, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return err == nil && mask&(1<<(number-1)) != 0
}
