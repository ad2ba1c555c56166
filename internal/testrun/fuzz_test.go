package testrun_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/testrun"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ruletest"
)

// Whatever a file of tests says that has no mistake, it runs.
func FuzzRun(f *testing.F) {
	for _, body := range []string{`
    sockets: [{name: a, state: close-wait, dport: 80, process: x, pid: 7}, {state: listening, sport: 80, accept_queue: 3}]
    expect: [{at: 5m, rule: leak, socket: a}]`, `
    ip_local_port_range: 50000-50009
    sockets: [{name: a, state: established, dst: fd00::7, dport: 80, stalled_for: 1m, count: 3}, {name: b, state: close-wait, sport: 80, in_backlog: true}]
    changes: [{at: 1s, every: 1m, socket: a, sent: 1}, {at: 2s, socket: a, queued: 0}, {at: 3s, socket: a, state: fin-wait-1}, {at: 4s, socket: b, accepted: true}, {at: 5s, orphans: 5%}]
    until: 6m
    expect: []`, `
    sockets: [{name: a, state: fin-wait-2, dport: 82, holder: nobody}, {name: b, state: time-wait, dport: 82, in_state_for: 10s}, {name: c, state: syn-recv, sport: 1}, {name: d, state: close-wait, dport: 82, at: 1m, every: 1s, count: 5, keepalive: 10s}]
    until: 9m
    expect: [{at: 2m, rule: leak, socket: d, kept_by: no_match}, {at: 2m, rule: flood}]`} {
		f.Add([]byte(leakRules + body))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ruletest.Parse(bytes.NewReader(text), ruletest.Config{
			KeptBy: testrun.Reasons(), Load: func(string) (*rules.Set, error) { return nil, errors.New("no other file") },
		})
		if err != nil {
			return
		}
		for i := range file.Cases {
			c := &file.Cases[i]
			sockets := 0
			for _, s := range c.Sockets {
				sockets += s.Count
			}
			if c.Until <= 10*time.Minute && sockets < 100 { // the others take their time
				testrun.Run(file.Rules, c)
			}
		}
	})
}
