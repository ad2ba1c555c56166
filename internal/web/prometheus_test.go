package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/metrics"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/status/statustest"
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
	program := statustest.Need(t, "prometheus")
	scrapes, apart := pace()
	current := func() *status.Status { return statustest.Lively(time.Now()) }
	target, stop := serve(t, Handler(current, metrics.Handler(current)))
	defer stop()

	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: %v, scrape_timeout: %v}\nscrape_configs: [{job_name: sockdog, static_configs: [{targets: [%q]}]}]\n", apart, apart, target)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	api := freeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+api)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Log(&log)
		}
	}()

	deadline := time.Now().Add(time.Duration(scrapes)*apart + time.Minute)
	for {
		n, ok := query(api, `count_over_time(up[10m])`)
		if ok && n >= float64(scrapes) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v scrapes, want %d", n, scrapes)
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("prometheus ended: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	for expression, want := range map[string]float64{
		`min_over_time(up[10m])`:                                        1,
		`sockdog_rule_candidates{rule="postgres-close-wait"}`:           46,
		`min_over_time(sockdog_sockets{state="last-ack"}[10m])`:         0,
		`sockdog_rule_firing{rule="time-wait-flood"}`:                   1,
		`sockdog_action_lateness_seconds_count`:                         4,
		`increase(sockdog_actions_total{result="interrupted"}[1m]) > 0`: none,
	} {
		if got, ok := query(api, expression); !ok && want != none || ok && got != want {
			t.Errorf("%s is %v, want %v", expression, got, want)
		}
	}
	var targets struct {
		Data struct {
			ActiveTargets []struct{ Health, LastError string }
		}
	}
	if err := get(api, "/api/v1/targets", &targets); err != nil {
		t.Fatal(err)
	}
	if all := targets.Data.ActiveTargets; len(all) != 1 || all[0].Health != "up" || all[0].LastError != "" {
		t.Errorf("targets %+v", all)
	}
}

// none stands for no value at all.
const none = -1

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// query asks Prometheus for a value; of several, it is the first.
func query(api, expression string) (value float64, ok bool) {
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if get(api, "/api/v1/query?query="+url.QueryEscape(expression), &answer) != nil || len(answer.Data.Result) == 0 {
		return 0, false
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	return value, err == nil
}

func get(api, path string, into any) error {
	answer, err := http.Get("http://" + api + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return json.NewDecoder(answer.Body).Decode(into)
}
