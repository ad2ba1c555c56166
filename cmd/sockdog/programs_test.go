package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

// "leak [ADDRESS:]PORT KIND=COUNT..." holds connections to a server on that port,
// which it is itself, and says "leaking" when they all stand. The kinds are
//
//	forgotten    closed by the server, and not by the program
//	read         forgotten, after the program has read the end of the stream
//	unread       forgotten, with data that the program has not read
//	reset        reset by the server, and not closed by the program: no table has it any more
//	keepalive    forgotten, with keepalives on: the kernel cannot tell for how long
//	half-closed  closed by the server for its part; the program still sends
//	in-use       traffic both ways
//	idle         established, and silent
//	bound        bound to a port of every address, and not connected
//	unaccepted   closed by the client, and not yet accepted by the server; the last kind
func leak() {
	if err := makeLeak(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "leak:", err)
		os.Exit(1)
	}
}

func makeLeak(args []string) error {
	if len(args) == 0 {
		return errors.New("which port?")
	}
	at := args[0]
	if !strings.Contains(at, ":") {
		at = nstest.V4.String() + ":" + at
	}
	server, err := netip.ParseAddrPort(at)
	if err != nil {
		return err
	}
	listener, err := nstest.ListenAt(server, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	var both, oneWay []nstest.Pair
	for _, arg := range args[1:] {
		kind, count, _ := strings.Cut(arg, "=")
		n, err := strconv.Atoi(count)
		if err != nil {
			return err
		}
		for range n {
			if kind == "unaccepted" {
				client, err := nstest.Connect(server)
				if err := errors.Join(err, client.Close()); err != nil {
					return err
				}
				continue
			}
			if kind == "bound" {
				s, err := nstest.New(nstest.V4, unix.IPPROTO_TCP)
				if err := errors.Join(err, s.Bind(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))); err != nil {
					return err
				}
				continue
			}
			p, err := nstest.NewPair(listener)
			if err != nil {
				return err
			}
			switch kind {
			case "keepalive":
				err = errors.Join(p.Client.Keepalive(), p.Server.Close(), p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
			case "forgotten":
				err = errors.Join(p.Server.Close(), p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
			case "read":
				if err = p.Server.Close(); err == nil && !errors.Is(p.Client.Receive(1), io.EOF) {
					err = errors.New("no end of the stream came")
				}
			case "unread":
				err = errors.Join(p.Server.Send(100), p.Server.Close(), p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
			case "reset":
				err = errors.Join(p.Server.Abort(), p.Client.Await(unix.BPF_TCP_CLOSE))
			case "half-closed":
				oneWay = append(oneWay, p)
				err = errors.Join(p.Server.CloseWrite(), p.Client.Await(unix.BPF_TCP_CLOSE_WAIT))
			case "in-use":
				both = append(both, p)
			case "idle":
			default:
				err = fmt.Errorf("unknown kind %q", kind)
			}
			if err != nil {
				return err
			}
		}
	}
	for first := true; ; first = false {
		for _, p := range append(both, oneWay...) {
			if err := errors.Join(p.Client.Send(1), p.Server.Receive(1)); err != nil {
				return fmt.Errorf("a healthy connection failed: %w", err)
			}
		}
		for _, p := range both {
			if err := errors.Join(p.Server.Send(1), p.Client.Receive(1)); err != nil {
				return fmt.Errorf("a healthy connection failed: %w", err)
			}
		}
		if first {
			fmt.Println("leaking")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// "closes PORT" accepts connections on that port, and closes them at once.
func closes() {
	port, err := strconv.ParseUint(os.Args[1], 10, 16)
	if err == nil {
		var listener nstest.Socket
		listener, err = nstest.ListenAt(netip.AddrPortFrom(nstest.V4, uint16(port)), unix.IPPROTO_TCP)
		for err == nil {
			var s nstest.Socket
			if s, err = listener.Accept(); errors.Is(err, unix.EAGAIN) {
				err = nil
			} else if err == nil {
				err = s.Close()
			}
		}
	}
	fmt.Fprintln(os.Stderr, "closes:", err)
	os.Exit(1)
}

// "bounded PROGRAM ARGS..." runs a program that can never have CAP_NET_ADMIN.
func bounded() {
	runtime.LockOSThread()
	become(unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0))
}

// "contained PROGRAM ARGS..." runs a program with the capabilities that container
// runtimes leave to root, and CAP_NET_ADMIN.
func contained() {
	runtime.LockOSThread()
	const left = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_KILL |
		1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_RAW |
		1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_MKNOD | 1<<unix.CAP_AUDIT_WRITE | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_NET_ADMIN
	var err error
	for bit := 0; bit <= unix.CAP_LAST_CAP; bit++ {
		if left&(1<<bit) == 0 {
			err = errors.Join(err, unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(bit), 0, 0, 0))
		}
	}
	become(err)
}

// "nested PROGRAM ARGS..." runs a program in a further user namespace: it has all
// capabilities there, and none over the network namespace.
func nested() {
	runtime.LockOSThread()
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
}

// "elsewhere PROGRAM ARGS..." runs a program in a network namespace of its own.
func elsewhere() {
	runtime.LockOSThread()
	become(errors.Join(unix.Unshare(unix.CLONE_NEWNET), nstest.LoopbackUp()))
}

// "forbidden PROGRAM ARGS..." runs a program that may not make namespaces, and
// is not told that it is in private ones, as a container runtime does it.
func forbidden() {
	runtime.LockOSThread()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jt: 0, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}, // args[0]: the flags
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err := errors.Join(
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
		unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0),
	)
	os.Unsetenv("SOCKDOG_NSTEST_INSIDE")
	become(err)
}

// "logsto FIFO PROGRAM ARGS..." runs a program whose standard error is a named
// pipe, once somebody reads that.
func logsTo() {
	fifo, err := os.OpenFile(os.Args[1], os.O_WRONLY, 0)
	if err == nil {
		err = unix.Dup2(int(fifo.Fd()), 2)
	}
	os.Args = os.Args[1:]
	become(err)
}

// become runs the program of the arguments in place of this one.
func become(err error) {
	if err == nil {
		var path string
		if path, err = exec.LookPath(os.Args[1]); err == nil {
			err = syscall.Exec(path, os.Args[1:], os.Environ())
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(125)
}
