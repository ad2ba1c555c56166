package realtest

import (
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"time"
)

// Prometheus is a running one.
type Prometheus struct{ server }

// StartPrometheus runs a Prometheus on loopback until the test ends. It scrapes
// the target, an address, as the job sockdog.
func StartPrometheus(t testing.TB, target string, interval time.Duration) Prometheus {
	t.Helper()
	return Prometheus{serve(t, Need(t, "prometheus"), fmt.Sprintf(`
global: {scrape_interval: %v, scrape_timeout: %[1]v}
scrape_configs: [{job_name: sockdog, static_configs: [{targets: [%[2]q]}]}]
`, interval, target), "--storage.tsdb.path=data")}
}

// Await waits until an expression has a value of at least that.
func (p Prometheus) Await(t testing.TB, expression string, least float64, patience time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		got, ok := p.Query(expression)
		if ok && got >= least {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %v after %v, want %v", expression, got, patience, least)
		}
	}
}

// Query asks for a value; of several, it is the first.
func (p Prometheus) Query(expression string) (value float64, ok bool) {
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if p.Get("/api/v1/query?query="+url.QueryEscape(expression), &answer) != nil || len(answer.Data.Result) == 0 {
		return 0, false
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	return value, err == nil
}
