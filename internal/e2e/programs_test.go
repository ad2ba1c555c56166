package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/nstest"
)

// leaks is how many sockets a program leaks, if nothing else is said.
const leaks = 8

// Programs that leak as the argument says, each in its own language. All say "leaking" then.
const (
	neverReads = `
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 5432), backlog=128)
held = []
for _ in range(int(sys.argv[1])):
    held.append(socket.create_connection(("127.0.0.1", 5432)))
    listener.accept()[0].close()
listener.close()
print("leaking", flush=True)
time.sleep(600)
`
	readsAndForgets = `
use strict;
use Socket;
$| = 1;
my $at = pack_sockaddr_in(6379, INADDR_LOOPBACK);
my @held;
socket(my $listener, PF_INET, SOCK_STREAM, 0) or die;
bind($listener, $at) or die;
listen($listener, 128) or die;
for (1 .. $ARGV[0]) {
    socket(my $held, PF_INET, SOCK_STREAM, 0) or die;
    connect($held, $at) or die;
    accept(my $server, $listener) or die;
    close $server;
    die unless sysread($held, my $rest, 1) == 0;
    push @held, $held;
}
close $listener;
print "leaking\n";
sleep 600;
`
)

// stopsAccepting is the third: a server in Go whose clients have left.
func stopsAccepting() error {
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		return err
	}
	for range leaks {
		client, err := net.Dial("tcp", listener.Addr().String())
		if err == nil {
			err = client.Close()
		}
		if err != nil {
			return err
		}
	}
	fmt.Println("leaking")
	select {}
}

// inside becomes another program, once the loopback interface of the new namespace is up.
func inside() error {
	if err := nstest.LoopbackUp(); err != nil {
		return err
	}
	if len(os.Args) == 1 {
		return stopsAccepting()
	}
	return unix.Exec(os.Args[1], os.Args[1:], os.Environ())
}

// leaky is a program that leaks, in a network namespace of its own.
type leaky struct {
	pid   int
	comm  string
	netns uint32
}

// leak runs a program until the end of the test, and waits until it leaks. Without a program it
// is the one that stops accepting.
func leak(t *testing.T, program ...string) leaky {
	t.Helper()
	if len(program) > 0 {
		path, err := exec.LookPath(program[0])
		nstest.SkipWithout(t, program[0], err)
		program[0] = path
	}
	cmd := exec.Command(must(os.Executable())(t), program...)
	cmd.Env = append(os.Environ(), actEnv+"=inside")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out := must(cmd.StdoutPipe())(t)
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if said, err := bufio.NewReader(out).ReadString('\n'); said != "leaking\n" {
		t.Fatalf("%v said %q, %v", program, said, err)
	}
	l := leaky{pid: cmd.Process.Pid, comm: strings.TrimSpace(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid)))(t)))}
	link := must(os.Readlink(l.net()))(t)
	if _, err := fmt.Sscanf(link, "net:[%d]", &l.netns); err != nil || l.netns == netns.Inode() {
		t.Fatalf("the network namespace of %s is %s, %v", l.comm, link, err)
	}
	return l
}

func (l *leaky) net() string { return fmt.Sprintf("/proc/%d/ns/net", l.pid) }

// ownNames hides the names of network namespaces that the real host has.
var ownNames = sync.OnceValue(func() error {
	return errors.Join(os.MkdirAll("/run/netns", 0o755), unix.Mount("none", "/run/netns", "tmpfs", 0, "mode=755"))
})

// call gives the network namespace of the program a name, as "ip netns attach" does.
func (l *leaky) call(t *testing.T, name string) {
	t.Helper()
	path := filepath.Join("/run/netns", name)
	check(t, errors.Join(ownNames(), os.WriteFile(path, nil, 0o600)))
	check(t, unix.Mount(l.net(), path, "", unix.MS_BIND, ""))
	t.Cleanup(func() { check(t, errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path))) })
}
