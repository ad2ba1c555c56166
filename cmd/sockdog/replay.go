package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/capture"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/readfile"
	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/replay"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

// replaying is what sockdog test --replay is asked for.
type replaying struct{ file, against string }

func (r *replaying) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.file, "replay", "", "say what rules would have done over this `recording`")
	cmd.Flags().StringVar(&r.against, "against", "", "compare that with these older `rules`")
	completesFile(cmd, "replay")
	_ = cmd.MarkFlagFilename("against", rulesFiles...) // there is such a flag
}

func (r *replaying) given() bool { return r.file != "" }

// check complains of what does not go with a replay.
func (r *replaying) check(cmd *cobra.Command, files []string) error {
	switch {
	case !r.given() && r.against != "":
		return errors.New("--against compares replays: add --replay FILE")
	case !r.given():
		return nil
	case len(files) != 1:
		return errors.New("--replay needs one file of rules")
	case cmd.Flags().Changed("run"), cmd.Flags().Changed("junit"):
		return errors.New("--run and --junit are for unit tests: leave them out, or --replay")
	}
	return nil
}

// run replays a recording over a rules file, or over two that it compares.
func (r *replaying) run(file, output string, out, stderr io.Writer) error {
	set, err := loadRules(stderr, file)
	if err != nil {
		return err
	}
	if r.against == "" {
		result, err := r.replay(set)
		if err != nil {
			return err
		}
		if output == "json" {
			err = result.PrintJSON(out)
		} else {
			err = result.Print(out, term.ScreenOf(out).Width)
		}
		return errors.Join(err, told(stderr, result))
	}
	older, err := loadRules(stderr, r.against)
	if err != nil {
		return err
	}
	var now, before *replay.Result
	var nowErr, beforeErr error
	var both sync.WaitGroup
	both.Go(func() { now, nowErr = r.replay(set) })
	both.Go(func() { before, beforeErr = r.replay(older) })
	both.Wait()
	if err := cmp.Or(nowErr, beforeErr); err != nil { // the recording is the same, and so is what is wrong with it
		return err
	}
	c := replay.Compare(now, before)
	if output == "json" {
		err = c.PrintJSON(out)
	} else {
		err = c.Print(out, term.ScreenOf(out).Width)
	}
	return errors.Join(err, told(stderr, now, before))
}

// replay replays the recording over one set of rules.
func (r *replaying) replay(set *rules.Set) (*replay.Result, error) {
	f, err := readfile.Open(r.file)
	if begun := r.file + capture.Partial; errors.Is(err, fs.ErrNotExist) {
		if _, missing := os.Stat(begun); missing == nil {
			err = fmt.Errorf("%w: %s is one that is not whole", err, begun)
		}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	result, err := replay.Run(bufio.NewReader(f), set, allowed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.file, err)
	}
	return result, nil
}

// allowed is what the kernel of a recording does not allow; privileges are taken for granted.
func allowed(h recording.Header) match.Capabilities {
	recorded := host.Host{Release: h.Kernel}
	if !recorded.AtLeast(6, 0) {
		recorded.Kernel.DestroyTimeWait = syscall.EOPNOTSUPP
	}
	return recorded.Capabilities()
}

// told says what the recording does not tell, which is a problem.
func told(stderr io.Writer, results ...*replay.Result) error {
	var all []string
	for _, r := range results {
		all = append(all, r.Doubts()...)
	}
	if damage := results[0].Damage; damage != nil {
		all = append(all, damage.Error()+": what follows is not replayed")
	}
	slices.Sort(all)
	for _, text := range slices.Compact(all) {
		fmt.Fprintln(stderr, "sockdog:", text)
	}
	if len(all) > 0 {
		return errPrinted
	}
	return nil
}
