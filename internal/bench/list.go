package main

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// list times the listing of 1,000 sockets among all, and of all, whole command
// against whole command, turn by turn, each into a pipe that is read.
func (b *bench) list() error {
	leak, err := gather(listLeak, 0)
	if err != nil {
		return err
	}
	defer leak.end()
	if err := leak.tell("leak 1000"); err != nil {
		return err
	}
	for _, c := range []struct {
		what         string
		ours, theirs []string
	}{
		{"`list state close-wait`, 1,000 of them", []string{"list", "state", "close-wait"}, []string{"-tn", "state", "close-wait"}},
		{"`list --all`", []string{"list", "--all"}, []string{"-tan"}},
	} {
		var took [2][]time.Duration
		for range b.rounds {
			for i, argv := range [][]string{append([]string{b.sockdog}, c.ours...), append([]string{"ss"}, c.theirs...)} {
				d, err := readAll(argv)
				if err != nil {
					return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
				}
				took[i] = append(took[i], d)
			}
		}
		row(c.what, median(took[0]), median(took[1]))
	}
	return nil
}

// readAll runs a command and reads what it prints.
func readAll(argv []string) (time.Duration, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	return time.Since(began), err
}
