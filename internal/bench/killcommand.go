package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// killCommand times sockdog kill on as many sockets in CLOSE_WAIT against ss -K,
// whole command against whole command, in turn. What they print is written to a
// file. Ours must tell of every socket; ss, which kills while it reads the table,
// sometimes passes one over.
func (b *bench) killCommand() error {
	leak, err := gather(commandLeak, 0)
	if err != nil {
		return err
	}
	defer leak.end()
	commands := [][]string{
		{b.sockdog, "kill", "--yes", "state", "close-wait"},
		{"ss", "-KHtn", "state", "close-wait"},
	}
	var took [2][]time.Duration
	for range b.rounds {
		for i, argv := range commands {
			if err := leak.tell(fmt.Sprint("leak ", killed)); err != nil {
				return err
			}
			lines, d, err := linesOf(argv)
			if err != nil {
				return err
			}
			if i == 0 && lines != killed+2 { // a header, and the sum
				return fmt.Errorf("%s printed %d lines for %d sockets", argv[0], lines, killed)
			}
			took[i] = append(took[i], d)
		}
	}
	row(fmt.Sprintf("`sockdog kill` of %d in CLOSE_WAIT, each rechecked and confirmed, whole command", killed), median(took[0]), median(took[1]))
	return nil
}

// linesOf runs a command and counts the lines that it prints into a file.
func linesOf(argv []string) (lines int, took time.Duration, err error) {
	out, err := os.CreateTemp("", "sockdog-bench-")
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", argv[0], err)
	}
	took = time.Since(began)
	text, err := os.ReadFile(out.Name())
	return bytes.Count(text, []byte("\n")), took, err
}
