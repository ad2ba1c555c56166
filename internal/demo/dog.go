package demo

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ruleFile is what sockdog is run with.
var ruleFile = fmt.Sprintf(`settings: {cpu_budget: 10%%}
rules:
  - name: forgotten-connections
    match: {state: close-wait, dport: %d, in_state_for: %v}
    then: [{kill: {canary: off}}] # the demo is to be over soon
`, address.Port(), bound)

// watching is what sockdog says once it has scanned the socket table.
const watching = "watching"

// elsewhere is what sockdog says since it may not read the processes outside of the
// demo's user namespace. It is told nobody here: the one that leaks it may read.
const elsewhere = "who holds sockets cannot be told for all processes"

// line is one of sockdog's log.
type line struct {
	Level, Error           string
	Message                string `json:"msg"`
	Action, Result, Reason string
	Src                    netip.AddrPort
	Comm                   string
	PID                    int
}

// dog is `sockdog run` as a process of its own.
type dog struct {
	cmd  *exec.Cmd
	dir  string    // of the rules
	said chan line // closed when it ends
}

func startDog() (*dog, error) {
	dir, err := os.MkdirTemp("", "sockdog-demo-")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "rules.yaml")
	d := &dog{dir: dir, said: make(chan line), cmd: again("run", "--rules", file, "--state-dir", "", "--listen", "off", "--log-format", "json")}
	log, err := d.cmd.StderrPipe()
	if err == nil {
		err = os.WriteFile(file, []byte(ruleFile), 0o600)
	}
	if err == nil {
		err = d.cmd.Start()
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	go func() {
		defer close(d.said)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			l := line{Level: "RAW", Message: lines.Text()} // where it is no JSON
			json.Unmarshal(lines.Bytes(), &l)
			d.said <- l
		}
	}()
	return d, nil
}

// wait returns how it ended; it has to have closed its log.
func (d *dog) wait() error {
	return cmp.Or(d.cmd.Wait(), errors.New("exit status 0"))
}

// stop tells it to end, and returns an error unless it does that well.
func (d *dog) stop() error {
	d.cmd.Process.Signal(unix.SIGTERM) // an error means that it has ended: so will said
	last := time.AfterFunc(stopWithin, func() { d.cmd.Process.Kill() })
	defer last.Stop()
	for range d.said {
	}
	return d.cmd.Wait()
}

// stopWithin is how long sockdog may take to end: a second, and what a busy
// machine adds to it.
const stopWithin = 10 * time.Second

// close ends it, where it has not ended, and removes its rules.
func (d *dog) close() {
	d.stop()
	os.RemoveAll(d.dir)
}
