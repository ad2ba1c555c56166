package testrun_test

import (
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/testrun"
)

// hour is a test that plays an hour.
const hour = `tests:
  - name: an hour
    sockets:
      - {name: leak, state: close-wait, dport: 80, count: 20}
      - {name: used, state: close-wait, dport: 80}
      - {name: flood, state: close-wait, dst: 10.0.0.7, dport: 82, count: 5}
    changes:
      - {at: 1m, every: 1m, socket: used, sent: 10}
    until: 1h
    expect:
      - {at: 1m, rule: flood}
      - {at: 5m, rule: leak, socket: leak}
`

func BenchmarkHour(b *testing.B) {
	f := parse(b, strings.Split(leakRules, "tests:")[0]+hour)
	b.ReportAllocs()
	for b.Loop() {
		if r := testrun.Run(f.Rules, &f.Cases[0]); len(r.Failures) > 0 {
			b.Fatal(r.Failures)
		}
	}
}
