package web

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/status/statustest"
)

// chromium is the command of a headless browser that keeps to itself.
func chromium(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	// Not t.TempDir: the browser's helpers write for a moment longer than it lives.
	dir, err := os.MkdirTemp("", "chromium")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return exec.CommandContext(t.Context(), statustest.Need(t, "chromium"), append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--hide-scrollbars",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir=" + dir,
	}, args...)...)
}

// tab is a page in a browser, spoken to in the DevTools protocol over a pipe.
type tab struct {
	t       *testing.T
	server  *httptest.Server // of the page
	in      *os.File
	out     *bufio.Reader
	session string
	seq     int
}

// open shows the page that a handler serves.
func open(t *testing.T, h http.Handler) *tab {
	t.Helper()
	theirIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints bytes.Buffer
	browser := chromium(t, "--remote-debugging-pipe")
	browser.Stderr = &complaints
	browser.ExtraFiles = []*os.File{theirIn, theirOut} // as descriptors 3 and 4
	if err := browser.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	b := &tab{t: t, server: httptest.NewServer(h), in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		b.server.Close()
		in.Close() // at which the browser ends
		out.Close()
		browser.Wait()
		if t.Failed() {
			t.Log(&complaints)
		}
	})
	out.SetReadDeadline(time.Now().Add(time.Minute))

	var made struct{ TargetID, SessionID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &made)
	b.call("Target.attachToTarget", map[string]any{"targetId": made.TargetID, "flatten": true}, &made)
	b.session = made.SessionID
	b.call("Page.navigate", map[string]any{"url": b.server.URL + "/"}, nil)
	b.await(`location.href != "about:blank" && document.querySelector("#verdict .badge") != null`)
	return b
}

// call calls a method of the browser, and skips the events before its answer.
func (b *tab) call(method string, params any, result any) {
	b.t.Helper()
	b.seq++
	message := map[string]any{"id": b.seq, "method": method}
	if params != nil {
		message["params"] = params
	}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(text, 0)); err != nil {
		b.t.Fatal(err)
	}
	for {
		text, err := b.out.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		var answer struct {
			ID     int
			Error  *struct{ Message string }
			Result json.RawMessage
		}
		if err := json.Unmarshal(text[:len(text)-1], &answer); err != nil {
			b.t.Fatal(err)
		}
		switch {
		case answer.ID != b.seq:
			continue
		case answer.Error != nil:
			b.t.Fatalf("%s: %s", method, answer.Error.Message)
		case result != nil:
			if err := json.Unmarshal(answer.Result, result); err != nil {
				b.t.Fatal(err)
			}
		}
		return
	}
}

// eval is what an expression is in the page, as text.
func (b *tab) eval(expression string) string {
	b.t.Helper()
	var answer struct {
		Result           struct{ Value string }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": "String(" + expression + ")", "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, answer.ExceptionDetails.Exception.Description)
	}
	return answer.Result.Value
}

// await waits until an expression is true in the page.
func (b *tab) await(expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); b.eval(expression) != "true"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("never: %s\n%s", expression, b.dom())
		}
	}
}

// dom is the page as it stands.
func (b *tab) dom() string { return b.eval(`document.documentElement.outerHTML`) }

// press has a key pressed, where the focus is.
func (b *tab) press(key string) {
	b.t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key}, nil)
	}
}
