package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Where memory is short, commands end first, and the daemon is none of them, wherever its flags
// stand.
func TestWhoIsExpendable(t *testing.T) {
	own, err := os.ReadFile("/proc/self/oom_score_adj") // as whoever runs the test has it
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		line, score string
	}{
		{"run --listen off --control-socket off", string(own)},
		{"--listen off run --control-socket off", string(own)},
		{"list --watch", "1000\n"},
		{"list --watch --process run", "1000\n"},
	} {
		cmd := sockdogCommand(t, strings.Fields(test.line)...)
		out, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = in, in
		late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in.Close()
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Errorf("%s: it says nothing: %v", test.line, err)
		}
		score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid))
		if err != nil || string(score) != test.score {
			t.Errorf("%s: oom_score_adj is %q, %v, want %q", test.line, score, err, test.score)
		}
		cmd.Process.Signal(syscall.SIGTERM)
		out.Close()
		cmd.Wait()
		late.Stop()
	}
}
