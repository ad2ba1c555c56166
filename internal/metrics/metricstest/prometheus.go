package metricstest

import (
	"bytes"
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

	"github.com/sockdog/sockdog/internal/status/statustest"
)

// Prometheus is a running one.
type Prometheus struct {
	URL   string
	ended chan error
}

// StartPrometheus runs a Prometheus on loopback until the test ends. It scrapes
// the target, an address, as the job sockdog.
func StartPrometheus(t *testing.T, target string, interval time.Duration) *Prometheus {
	t.Helper()
	program := statustest.Need(t, "prometheus")
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: %v, scrape_timeout: %v}\nscrape_configs: [{job_name: sockdog, static_configs: [{targets: [%q]}]}]\n", interval, interval, target)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	cmd := exec.Command(program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Prometheus{URL: "http://" + address, ended: make(chan error, 1)}
	waited := make(chan struct{})
	go func() {
		p.ended <- cmd.Wait()
		close(waited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-waited
		if t.Failed() {
			t.Log(&log)
		}
	})
	return p
}

// Await waits until an expression has a value of at least that.
func (p *Prometheus) Await(t *testing.T, expression string, least float64, patience time.Duration) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, ok := p.Query(expression)
		if ok && got >= least {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %v after %v, want %v", expression, got, patience, least)
		}
		select {
		case err := <-p.ended:
			t.Fatalf("prometheus ended: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Query asks for a value; of several, it is the first.
func (p *Prometheus) Query(expression string) (value float64, ok bool) {
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

// Get asks the API.
func (p *Prometheus) Get(path string, into any) error {
	answer, err := http.Get(p.URL + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return json.NewDecoder(answer.Body).Decode(into)
}
