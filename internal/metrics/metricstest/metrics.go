// Package metricstest holds what names metrics to those that there are.
package metricstest

import (
	"regexp"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/metrics"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/status/statustest"
)

// Check finds the names of metrics in a text, and fails where there is no such
// metric.
func Check(t *testing.T, text string) {
	t.Helper()
	all := statustest.Lively(time.Now())
	all.Paused = &status.Pause{}
	there := make(map[string]bool)
	for _, line := range regexp.MustCompile(`(?m)^(\w+)[ {]`).FindAllStringSubmatch(string(metrics.Text(all)), -1) {
		there[line[1]] = true
	}
	found := regexp.MustCompile(`\b(?:sockdog|process|go)_\w+`).FindAllString(text, -1)
	if len(found) == 0 {
		t.Error("the text names no metrics")
	}
	for _, name := range found {
		if !there[name] {
			t.Errorf("there is no metric %s", name)
		}
	}
}
