package web

import (
	"os"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/metrics"
	"github.com/sockdog/sockdog/internal/realtest"
)

// pace is how often a real Prometheus must scrape without an error, and how far
// apart: that is also how long a scrape may take on a busy machine.
func pace() (scrapes int, apart time.Duration) {
	if os.Getenv("CI") == "true" {
		return 20, 3 * time.Second // a minute
	}
	return 10, time.Second
}

func TestPrometheus(t *testing.T) {
	scrapes, apart := pace()
	store := looped(t)
	target, stop := serve(t, Handler(store, metrics.Text, noAges))
	t.Cleanup(func() { stop() }) // after Prometheus
	prometheus := realtest.StartPrometheus(t, target, apart)
	prometheus.Await(t, `count_over_time(up[10m])`, float64(scrapes), time.Duration(scrapes)*apart+time.Minute)
	for expression, want := range map[string]float64{
		`min_over_time(up[10m])`:                                        1,
		`sockdog_rule_candidates{rule="postgres-close-wait"}`:           46,
		`min_over_time(sockdog_sockets{state="last-ack"}[10m])`:         0,
		`sockdog_rule_firing{rule="time-wait-flood"}`:                   1,
		`sockdog_action_lateness_seconds_count`:                         4,
		`increase(sockdog_actions_total{result="interrupted"}[1m]) > 0`: none,
	} {
		if got, ok := prometheus.Query(expression); !ok && want != none || ok && got != want {
			t.Errorf("%s is %v, want %v", expression, got, want)
		}
	}
	var targets struct {
		Data struct {
			ActiveTargets []struct{ Health, LastError string }
		}
	}
	if err := prometheus.Get("/api/v1/targets", &targets); err != nil {
		t.Fatal(err)
	}
	if all := targets.Data.ActiveTargets; len(all) != 1 || all[0].Health != "up" || all[0].LastError != "" {
		t.Errorf("targets %+v", all)
	}
}

// none stands for no value at all.
const none = -1
