package action

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/rules"
)

// execute runs a program. The kernel hands it nothing of sockdog's but the user, the
// capabilities that sockdog has kept, and the event.
var execute = &Kind{Kind: rules.Exec, Once: runProgram}

const (
	// mostOutput is how much is kept of what a program says: the end, where errors stand.
	mostOutput = 2048
	// endsWithin is how long what was killed may take to end, before nobody waits for it.
	endsWithin = 5 * time.Second
	// readWithin is how long its output may take to be read once it has ended: a process that
	// it left behind may hold the pipe.
	readWithin = 100 * time.Millisecond
	// programPath is the search path of a program: that of sockdog may be anything.
	programPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

func runProgram(ctx context.Context, x *Runner, a *engine.GroupAction) (found string, err error) {
	options := a.Action.Exec
	text, environment := x.Event(a)
	stdin, err := eventFile(text)
	if err != nil {
		return "", fmt.Errorf("hand over the event: %w", err)
	}
	defer stdin.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, options.Timeout, fmt.Errorf("killed after the timeout of %v", options.Timeout))
	defer cancel()
	p := &program{output: &tail{}, ended: make(chan error, 1)}
	err = p.run(ctx, options.Command, append(environment, programPath), stdin)
	if text := p.output.String(); text != "" && err != nil {
		err = fmt.Errorf("%w; its output ends: %s", err, text)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", options.Command[0], err)
	}
	return options.Command[0] + " ended well", nil
}

// eventFile is a file in memory to be read from its start: a pipe may have less room than
// the event takes, and nobody may ever read it.
func eventFile(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("event", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "event")
	if _, err = f.Write(text); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// program is one that runs.
type program struct {
	output *tail
	ended  chan error // why it ended otherwise than well

	mu  sync.Mutex // held while its number is used
	pid int        // of it and its process group; 0: it was reaped, or never started
}

// kill kills the process group.
func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid != 0 {
		unix.Kill(-p.pid, unix.SIGKILL)
	}
}

// reap waits for a program that has ended. What it leaves behind in its group goes with it:
// until it is reaped, no other can have its number.
func (p *program) reap(cmd *exec.Cmd) error {
	awaitExit(p.pid)
	p.kill()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = 0
	return cmd.Wait()
}

// run runs a program until it ends, or ctx does: then all of its process group is killed.
func (p *program) run(ctx context.Context, command, environment []string, stdin *os.File) error {
	// What whoever started sockdog left open is not the program's. Go's own descriptors are
	// closed at exec anyway; before Linux 5.11 these are not.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	reads, writes, err := os.Pipe()
	if err != nil {
		return err
	}
	started := make(chan struct{})
	go func() {
		// The kernel kills the program when the thread ends that has started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := &exec.Cmd{
			Path: command[0], Args: command, Env: environment, Dir: "/", Stdin: stdin, Stdout: writes, Stderr: writes,
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
		}
		err := cmd.Start()
		writes.Close()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		close(started)
		if err == nil {
			err = p.reap(cmd)
		}
		p.ended <- err
	}()
	drained := make(chan struct{})
	go func() { io.Copy(p.output, reads); close(drained) }()
	<-started
	err = p.await(ctx)
	select {
	case <-drained:
	case <-time.After(readWithin):
	}
	reads.Close() // who still writes gets EPIPE
	<-drained
	return err
}

// await waits for the end of a program, and brings it about once ctx is done.
func (p *program) await(ctx context.Context) error {
	select {
	case err := <-p.ended:
		return err
	case <-ctx.Done():
	}
	p.kill()
	why := context.Cause(ctx)
	if errors.Is(why, context.Canceled) {
		why = errors.New("killed: sockdog was told to stop")
	}
	select {
	case <-p.ended:
		return why
	case <-time.After(endsWithin):
		return fmt.Errorf("%w, and has not ended since", why)
	}
}

// awaitExit waits until a child has ended, and leaves it to be reaped.
func awaitExit(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
	cut  bool
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b[max(0, len(b)-mostOutput):]...)
	if over := len(t.text) - mostOutput; over > 0 {
		t.text, t.cut = append(t.text[:0], t.text[over:]...), true
	}
	t.cut = t.cut || len(b) > mostOutput
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.text), "�"))
	if t.cut {
		return "…" + text
	}
	return text
}
