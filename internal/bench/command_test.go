package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkVersion is what every command costs before it does anything, beside a program
// that does nothing.
func BenchmarkVersion(b *testing.B) {
	sockdog(b)
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty+".go", []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := build("empty", empty+".go"); err != nil {
		b.Fatal(err)
	}
	compare(b, 0, 0, "version", empty)
}

func BenchmarkList(b *testing.B) {
	b.Run("none", func(b *testing.B) { compare(b, 0, 0, "list state close-wait", "ss -Htni state close-wait") })
	b.Run("1000", func(b *testing.B) { compare(b, 1000, 0, "list state close-wait", "ss -tn state close-wait") })
	b.Run("1000info", func(b *testing.B) { compare(b, 1000, 0, "list state close-wait", "ss -Htni state close-wait") })
	b.Run("1000json", func(b *testing.B) {
		compare(b, 1000, 0, "list -o json --fields src,dst,state,in_state_for,idle_for state close-wait", "ss -Htni state close-wait")
	})
	b.Run("1200held", func(b *testing.B) { compare(b, 1200, 0, "list -o json state close-wait", "ss -Htnp state close-wait") })
	b.Run("all", func(b *testing.B) { compare(b, 1000, 0, "list --all", "ss -tan") })
}

// killed is how many sockets are killed at once.
const killed = 9_000

// BenchmarkKillCommand holds sockdog to tell of every socket, each of which it rechecks
// and confirms; ss, which kills while it reads the table, sometimes passes one over.
func BenchmarkKillCommand(b *testing.B) {
	compare(b, killed, killed+2, "kill --yes state close-wait", "ss -KHtn state close-wait") // a header, and the sum
}

// compare times a command of sockdog and another, whole, in turns, each into a pipe
// that is read, with so many sockets in CLOSE_WAIT before each. Lines is how many
// sockdog must print, unless it is 0.
func compare(b *testing.B, leaked, lines int, ours, theirs string) {
	commands := []string{sockdog(b) + " " + ours, theirs}
	leak := leaking(b, leaked)
	defer leak.end()
	var took [2][]float64
	for b.Loop() {
		for i, command := range commands {
			if err := leak.fill(leaked); err != nil {
				b.Fatal(err)
			}
			var printed newlines
			argv := strings.Fields(command)
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Stdout, cmd.Stderr = &printed, os.Stderr
			began := time.Now()
			if err := cmd.Run(); err != nil {
				b.Fatalf("%s: %v", command, err)
			}
			took[i] = append(took[i], ms(time.Since(began)))
			if i == 0 && lines != 0 && int(printed) != lines {
				b.Fatalf("%s printed %d lines, want %d", command, printed, lines)
			}
		}
	}
	b.ReportMetric(report(b, "sockdog-ms", took[0])/report(b, "other-ms", took[1]), "ratio")
}

// newlines counts them.
type newlines int

func (n *newlines) Write(text []byte) (int, error) {
	*n += newlines(bytes.Count(text, []byte("\n")))
	return len(text), nil
}

// BenchmarkHundredTests is `sockdog test` of a file with a hundred tests that play an hour
// each, in which two rules look for sockets every few seconds.
func BenchmarkHundredTests(b *testing.B) {
	file := filepath.Join(b.TempDir(), "hundred_test.yaml")
	var text strings.Builder
	text.WriteString(`receivers: {oncall: {alertmanager: {urls: ["http://127.0.0.1:9093"]}}}
rules:
  - {name: leak, match: {state: close-wait, dport: 80, in_state_for: 5m}, then: [{kill: {limit: 100/1m, canary: off}}]}
  - {name: flood, match: {state: close-wait, dport: 82}, group_by: [dst], when: count > 3, for: 1m, then: [alert: {to: oncall}]}
tests:
`)
	for i := range 100 {
		fmt.Fprintf(&text, `  - name: test %d
    sockets:
      - {name: leak, state: close-wait, dport: 80, count: 20}
      - {name: used, state: close-wait, dport: 80}
      - {name: flood, state: close-wait, dst: 10.0.0.7, dport: 82, count: 5}
    changes: [{at: 1m, every: 1m, socket: used, sent: 10}]
    until: 1h
    expect: [{at: 1m, rule: flood}, {at: 5m, rule: leak, socket: leak}]
`, i)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	sockdog := sockdogAlone(b)
	var took []float64
	for b.Loop() {
		began := time.Now()
		if out, err := exec.Command(sockdog, "test", file).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		took = append(took, ms(time.Since(began)))
	}
	report(b, "ms", took)
}
