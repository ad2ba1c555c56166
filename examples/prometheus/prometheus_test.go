package prometheus

import (
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/sockdog/sockdog/internal/metrics/metricstest"
	"github.com/sockdog/sockdog/internal/realtest"
)

const rules = "sockdog.rules.yml"

func TestPromtool(t *testing.T) {
	promtool := realtest.Need(t, "promtool")
	for _, args := range [][]string{{"check", "rules", rules}, {"test", "rules", "sockdog.rules.test.yml"}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// Every alert is on metrics that there are, and promtool's tests have it fire.
func TestRules(t *testing.T) {
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	metricstest.Check(t, string(text))
	tests, err := os.ReadFile("sockdog.rules.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, alert := range regexp.MustCompile(`- alert: (\w+)`).FindAllSubmatch(text, -1) {
		if !regexp.MustCompile(`alertname: ` + string(alert[1]) + `\n +exp_alerts:`).Match(tests) {
			t.Errorf("nothing tests that %s fires", alert[1])
		}
	}
}
