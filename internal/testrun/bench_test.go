package testrun_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/testrun"
)

// hundred are a hundred tests, of an hour each.
func hundred() string {
	var b strings.Builder
	b.WriteString(strings.Split(leakRules, "tests:")[0] + "tests:\n")
	for i := range 100 {
		fmt.Fprintf(&b, `
  - name: test %d
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
`, i)
	}
	return b.String()
}

func BenchmarkHundredTests(b *testing.B) {
	f := parse(b, hundred())
	b.ReportAllocs()
	for b.Loop() {
		for i := range f.Cases {
			if r := testrun.Run(f.Rules, &f.Cases[i]); len(r.Failures) > 0 {
				b.Fatal(r.Failures)
			}
		}
	}
}
