package main

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/source/events"
)

// TestMain runs the tests, and every command that a script runs, in private
// namespaces: testscript.Main within nstest.Main, or each command would have a
// namespace of its own.
func TestMain(m *testing.M) {
	events.BecomeLoader() // as main does, which scripts run in this program
	host.BecomeTrial()
	nstest.Main(scripts{m})
}

type scripts struct{ m *testing.M }

func (s scripts) Run() int {
	testscript.Main(s.m, map[string]func(){
		"sockdog":   main,
		"leak":      leak,
		"closes":    closes,
		"bounded":   bounded,
		"nested":    nested,
		"contained": contained,
		"echo":      echo,
		"elsewhere": elsewhere,
		"forbidden": forbidden,
		"logsto":    logsTo,
	})
	panic("unreachable")
}

// TestCommand runs what needs no sockets.
func TestCommand(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/command", Setup: inherit, Cmds: verbs})
}

// TestNetwork runs what does, each script in a network namespace of its own.
func TestNetwork(t *testing.T) {
	nstest.Need(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/network",
		Setup: func(env *testscript.Env) error {
			nstest.Isolate(scriptT{env.T()})
			env.Values[running] = map[string]*exec.Cmd{}
			return inherit(env)
		},
		Cmds: verbs,
	})
}

type scriptT struct{ testscript.T }

func (scriptT) Helper() {}

// inherit lets the commands know that they are in private namespaces already, and has
// them make and look for sockets in the directory of the script.
func inherit(env *testscript.Env) error {
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "SOCKDOG_") {
			env.Vars = append(env.Vars, v)
		}
	}
	env.Setenv("RUNTIME_DIRECTORY", env.WorkDir)
	env.Values[environment] = env.Vars
	return nil
}

type key int

const (
	running     key = iota // the programs of start, by name
	environment            // of those programs
)

// patience bounds every wait. Nothing here takes as long on a machine that works.
const patience = time.Minute

// verbs are what the scripts can do beside what testscript can.
var verbs = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"address":      address,
	"await":        await,
	"capabilities": capabilities,
	"end":          end,
	"exits":        exits,
	"signal":       send,
	"sockets":      sockets,
	"start":        start,
	"sysctl":       sysctl,
	"until":        until,
}

// "address ADDRESS" gives the loopback interface an IPv4 address more.
func address(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: address ADDRESS")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	ts.Check(err)
	defer unix.Close(fd)
	alias, err := unix.NewIfreq("lo:1")
	ts.Check(err)
	ts.Check(alias.SetInet4Addr(netip.MustParseAddr(args[0]).AsSlice()))
	ts.Check(unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias))
}

// "sysctl NAME VALUE..." sets a sysctl of the script's network namespace.
func sysctl(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: sysctl NAME VALUE...")
	}
	ts.Check(nstest.Sysctl(args[0], strings.Join(args[1:], " ")))
}

// "exits STATUS PROGRAM ARGS..." runs a program that must end with that status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM ARGS...")
	}
	status := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		status = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if args[0] != strconv.Itoa(status) {
		ts.Fatalf("exit status %d, want %s", status, args[0])
	}
}

// "start [NAME=]PROGRAM ARGS..." runs a program in the background. What it prints is in
// the file NAME.log, or PROGRAM.log.
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: start [NAME=]PROGRAM ARGS...")
	}
	name, program, named := strings.Cut(args[0], "=")
	if !named {
		program = name
	}
	log, err := os.Create(ts.MkAbs(name + ".log"))
	ts.Check(err)
	defer log.Close()
	cmd := exec.Command(program, args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), log, log
	cmd.Env = ts.Value(environment).([]string)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	ts.Check(cmd.Start())
	programs := ts.Value(running).(map[string]*exec.Cmd)
	programs[name] = cmd
	ts.Defer(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
}

// "signal NAME PROGRAM" sends a signal to a program that was started.
func send(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || unix.SignalNum("SIG"+args[0]) == 0 {
		ts.Fatalf("usage: signal NAME PROGRAM")
	}
	ts.Check(started(ts, args[1]).Process.Signal(unix.SignalNum("SIG" + args[0])))
}

func started(ts *testscript.TestScript, program string) *exec.Cmd {
	cmd := ts.Value(running).(map[string]*exec.Cmd)[program]
	if cmd == nil {
		ts.Fatalf("%s was not started", program)
	}
	return cmd
}

// "end PROGRAM [STATUS]" waits until a program ends, as it must, with that exit
// status, or 0.
func end(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 1 {
		args = append(args, "0")
	}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: end PROGRAM [STATUS]")
	}
	cmd := started(ts, args[0])
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); strconv.Itoa(got) != args[1] {
		ts.Fatalf("%s: %v, want exit status %s\n%s", args[0], err, args[1], ts.ReadFile(args[0]+".log"))
	}
}

// "await FILE [COUNT] PATTERN" waits until a file matches so many times.
func await(ts *testscript.TestScript, neg bool, args []string) {
	count := 1
	if len(args) == 3 {
		var err error
		count, err = strconv.Atoi(args[1])
		ts.Check(err)
		args = slices.Delete(args, 1, 2)
	}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE [COUNT] PATTERN")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	waitFor(ts, func() (bool, string) {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if !errors.Is(err, os.ErrNotExist) { // a program has yet to make it
			ts.Check(err)
		}
		return len(pattern.FindAll(text, -1)) >= count, string(text)
	})
}

// "until PATTERN PROGRAM ARGS..." runs a program again and again until what it prints matches:
// what sockdog shows may be a second old.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN PROGRAM ARGS...")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	waitFor(ts, func() (bool, string) {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir, cmd.Env = ts.MkAbs("."), ts.Value(environment).([]string)
		text, err := cmd.CombinedOutput()
		if _, ended := errors.AsType[*exec.ExitError](err); !ended {
			ts.Check(err)
		}
		return pattern.Match(text), string(text)
	})
}

// waitFor waits until ok; seen is what there is instead.
func waitFor(ts *testscript.TestScript, condition func() (ok bool, seen string)) {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		ok, seen := condition()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not in %v; there is:\n%s", patience, seen)
		}
	}
}

// "sockets PORT [STATE=COUNT...]" checks how many sockets there are towards a
// port, by state, in the kernel's own list: those and no others.
func sockets(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: sockets PORT [STATE=COUNT...]")
	}
	port, err := strconv.ParseUint(args[0], 10, 16)
	ts.Check(err)
	got := map[string]int{}
	for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		text, err := os.ReadFile(file)
		ts.Check(err)
		for _, line := range strings.Split(string(text), "\n")[1:] {
			// "sl local_address rem_address st ...", all in hexadecimal.
			fields := strings.Fields(line)
			if len(fields) < 4 || !strings.HasSuffix(fields[2], ":"+strings.ToUpper(strconv.FormatUint(0x10000+port, 16))[1:]) {
				continue
			}
			name, ok := map[string]string{"01": "established", "08": "close-wait"}[fields[3]]
			if !ok {
				name = "state-" + fields[3]
			}
			got[name]++
		}
	}
	var list []string
	for name, n := range got {
		list = append(list, name+"="+strconv.Itoa(n))
	}
	slices.Sort(list)
	want := slices.Clone(args[1:])
	slices.Sort(want)
	if !slices.Equal(list, want) {
		ts.Fatalf("sockets towards port %d: %v, want %v", port, list, want)
	}
}
