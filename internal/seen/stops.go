package seen

import (
	"encoding/json"
	"fmt"
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
	return replace(s.dir, stopsName, append(text, '\n'))
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
