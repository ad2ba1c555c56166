package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// startup times what every command costs before it does anything.
func (b *bench) startup() error {
	source := filepath.Join(filepath.Dir(b.sockdog), "empty.go")
	empty := strings.TrimSuffix(source, ".go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", empty, source).CombinedOutput(); err != nil {
		return fmt.Errorf("build an empty program: %w\n%s", err, out)
	}
	if err := b.compare("`sockdog version`, beside an empty Go program", 0, 0, "version", empty); err != nil {
		return err
	}
	return b.compare("`list state close-wait`, of which there is none", 0, 0, "list state close-wait", "ss -Htni state close-wait")
}

func (b *bench) scan() error {
	return b.compare("one scan for 1,000 in CLOSE_WAIT, whole command", 1000, 0, "list state close-wait", "ss -Htni state close-wait")
}

func (b *bench) list() error {
	err := b.compare("`list state close-wait`, 1,000 of them", 1000, 0, "list state close-wait", "ss -tn state close-wait")
	if err != nil {
		return err
	}
	return b.compare("`list --all`", 1000, 0, "list --all", "ss -tan")
}

// killCommand holds sockdog to tell of every socket; ss, which kills while it reads
// the table, sometimes passes one over.
func (b *bench) killCommand() error {
	what := fmt.Sprintf("`sockdog kill` of %d in CLOSE_WAIT, each rechecked and confirmed, whole command", killed)
	return b.compare(what, killed, killed+2, "kill --yes state close-wait", "ss -KHtn state close-wait") // a header, and the sum
}

// compare times a command of sockdog and another, whole, in turn, each into a pipe
// that is read, with so many sockets in CLOSE_WAIT before each. Lines is how many
// sockdog must print, unless it is 0.
func (b *bench) compare(what string, leaked, lines int, ours, theirs string) error {
	leak, err := b.leaking(leaked)
	if err != nil {
		return err
	}
	defer leak.end()
	var took [2][]time.Duration
	for range b.rounds {
		for i, command := range []string{b.sockdog + " " + ours, theirs} {
			if err := leak.fill(leaked); err != nil {
				return err
			}
			var printed newlines
			argv := strings.Fields(command)
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Stdout, cmd.Stderr = &printed, os.Stderr
			began := time.Now()
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%s: %w", command, err)
			}
			took[i] = append(took[i], time.Since(began))
			if i == 0 && lines != 0 && int(printed) != lines {
				return fmt.Errorf("%s printed %d lines, want %d", command, printed, lines)
			}
		}
	}
	o, t := median(took[0]), median(took[1])
	fmt.Printf("| %s | %.1f ms | %.1f ms | %.2f |\n", what, ms(o), ms(t), float64(o)/float64(t))
	return nil
}

// newlines counts them.
type newlines int

func (n *newlines) Write(text []byte) (int, error) {
	*n += newlines(bytes.Count(text, []byte("\n")))
	return len(text), nil
}
