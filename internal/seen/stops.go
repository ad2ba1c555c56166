package seen

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	stopsName    = "stopped"
	stopsVersion = 1

	// mostStops bounds what is read, in bytes.
	mostStops = 4 << 20
)

// stops is the file of the rules that have stopped themselves. It is JSON, so that people
// can read it, and outlives the boot: what a rule does to a program does not end with that.
type stops struct {
	Version int    `json:"version"`
	Rules   []stop `json:"rules"`
}

type stop struct {
	Rule   string    `json:"rule"`
	Sum    string    `json:"sum"`
	Reason string    `json:"reason"`
	PID    int       `json:"pid,omitempty"`
	Comm   string    `json:"comm,omitempty"`
	Since  time.Time `json:"since"`
}

// KeepStops keeps which rules have stopped themselves, and no others.
func (s *Store) KeepStops(all []sock.RuleStop) error {
	kept := stops{Version: stopsVersion, Rules: []stop{}}
	for _, x := range all {
		kept.Rules = append(kept.Rules, stop{x.Rule, x.Sum, x.Reason, x.PID, x.Comm, s.zero.Add(time.Duration(x.Since))})
	}
	text, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		return err
	}
	gone := s.dir.Check()
	f, err := s.dir.Replace(stopsName, 0, func(f *os.File) error {
		_, err := f.Write(append(text, '\n'))
		return err
	})
	f.Close() // nil is closed, too
	return errors.Join(gone, err)
}

// loadStops reads what was kept last.
func (s *Store) loadStops() ([]sock.RuleStop, error) {
	f, err := s.dir.OpenFile(stopsName, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, mostStops+1))
	if err != nil {
		return nil, err
	}
	return s.parseStops(text)
}

func (s *Store) parseStops(text []byte) (all []sock.RuleStop, err error) {
	var kept stops
	if err := json.Unmarshal(text, &kept); err != nil {
		return nil, err
	}
	if kept.Version != stopsVersion {
		return nil, fmt.Errorf("the version is %d, not %d", kept.Version, stopsVersion)
	}
	for _, x := range kept.Rules {
		all = append(all, sock.RuleStop{Rule: x.Rule, Sum: x.Sum, Reason: x.Reason, PID: x.PID, Comm: x.Comm, Since: sock.Instant(x.Since.Sub(s.zero))})
	}
	return all, nil
}
