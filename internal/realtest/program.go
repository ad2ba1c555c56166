// Package realtest has what stands around sockdog, for the tests of what works with it: a real
// Prometheus, a real Alertmanager, a browser, and peers that speak no HTTP.
package realtest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Need finds a program by any of its names, and skips the test where it is missing.
// With CI=true it fails instead: there, a test that did not run is a defect.
func Need(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs a program: ", names)
	}
	t.Skip("needs a program: ", names)
	return ""
}

// client leaves no connection behind.
var client = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}

// patience bounds every wait: only a test that fails takes as long.
const patience = 2 * time.Minute

// server is a program that was started.
type server struct{ URL string }

// serve runs a program on loopback until the test ends, and returns when it is ready.
func serve(t testing.TB, program, config string, args ...string) server {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var address string
	var output bytes.Buffer
	var cmd *exec.Cmd
	started := make(chan error)
	// On a thread of the process's own network namespace, which the one of the test
	// may have left.
	go func() {
		var err error
		if address, err = unused(); err != nil {
			started <- err
			return
		}
		cmd = exec.Command(program, append(args, "--config.file=config.yml", "--web.listen-address="+address)...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &output, &output
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", program, &output)
		}
	})
	s := server{"http://" + address}
	for deadline := time.Now().Add(patience); !s.ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready after %v", program, patience)
		}
	}
	return s
}

func (s server) ready() bool {
	answer, err := client.Get(s.URL + "/-/ready")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// Get asks the API.
func (s server) Get(path string, into any) error {
	answer, err := client.Get(s.URL + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return json.NewDecoder(answer.Body).Decode(into)
}
