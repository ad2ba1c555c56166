// Package notifytest runs a real Alertmanager, for the tests of what tells one.
package notifytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Alertmanager is a running one.
type Alertmanager struct {
	URL    string
	client *http.Client
}

// Alert is one as Alertmanager shows it.
type Alert struct {
	Labels       map[string]string
	Annotations  map[string]string
	StartsAt     time.Time
	Fingerprint  string
	GeneratorURL string
}

// patience is how long it may take to start.
const patience = 30 * time.Second

// Start runs an Alertmanager on loopback until the test ends. What it is told it
// tells the webhook at hook.
func Start(t testing.TB, hook string) *Alertmanager {
	t.Helper()
	var program string
	for _, name := range []string{"prometheus-alertmanager", "alertmanager"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("the program prometheus-alertmanager is missing")
		}
		t.Skip("needs the program prometheus-alertmanager, from the package of that name")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(`
route: {receiver: hook, group_by: [alertname], group_wait: 10ms, group_interval: 100ms}
receivers: [{name: hook, webhook_configs: [{url: %q}]}]
`, hook)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var address string
	var output bytes.Buffer
	var cmd *exec.Cmd
	started := make(chan error)
	// On a thread of the process's own network namespace, which the one of the test
	// may have left.
	go func() {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			started <- err
			return
		}
		address = listener.Addr().String()
		listener.Close()
		cmd = exec.Command(program, "--config.file", config, "--storage.path", filepath.Join(dir, "data"),
			"--web.listen-address", address, "--cluster.listen-address=")
		cmd.Stdout, cmd.Stderr = &output, &output
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	am := &Alertmanager{URL: "http://" + address, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("Alertmanager said:\n%s", output.Bytes())
		}
	})
	for deadline := time.Now().Add(patience); !am.ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Alertmanager is not ready after %v", patience)
		}
	}
	return am
}

func (am *Alertmanager) ready() bool {
	answer, err := am.client.Get(am.URL + "/-/ready")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// Active returns the alerts that Alertmanager shows as firing.
func (am *Alertmanager) Active(t testing.TB) []Alert {
	t.Helper()
	answer, err := am.client.Get(am.URL + "/api/v2/alerts?active=true")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var alerts []Alert
	if err := json.NewDecoder(answer.Body).Decode(&alerts); err != nil {
		t.Fatal(err)
	}
	return alerts
}
