package realtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Chromium is the command of a headless browser that keeps to itself.
func Chromium(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	// Not t.TempDir: the browser's helpers write for a moment longer than it lives.
	dir, err := os.MkdirTemp("", "chromium")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return exec.CommandContext(t.Context(), Need(t, "chromium"), append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--hide-scrollbars",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir=" + dir,
	}, args...)...)
}

// Tab is a page in a browser, spoken to in the DevTools protocol over a pipe.
type Tab struct {
	t       *testing.T
	in      *os.File
	pipe    *os.File
	out     *bufio.Reader // of the pipe
	session string
	seq     int
}

// OpenTab has a browser with a blank page, until the test ends. The arguments are
// more of chromium's.
func OpenTab(t *testing.T, args ...string) *Tab {
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
	browser := Chromium(t, append(args, "--remote-debugging-pipe")...)
	browser.Stderr = &complaints
	browser.ExtraFiles = []*os.File{theirIn, theirOut} // as descriptors 3 and 4
	if err := browser.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	b := &Tab{t: t, in: in, pipe: out, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		in.Close() // at which the browser ends
		out.Close()
		browser.Wait()
		if t.Failed() {
			t.Log(&complaints)
		}
	})

	var made struct{ TargetID, SessionID string }
	b.Call("Target.createTarget", map[string]any{"url": "about:blank"}, &made)
	b.Call("Target.attachToTarget", map[string]any{"targetId": made.TargetID, "flatten": true}, &made)
	b.session = made.SessionID
	return b
}

// Show goes to a page.
func (b *Tab) Show(url string) {
	b.t.Helper()
	b.Call("Page.navigate", map[string]any{"url": url}, nil)
	b.Await(fmt.Sprintf(`location.href == %q`, url))
}

// Call calls a method of the browser, and skips the events before its answer.
func (b *Tab) Call(method string, params any, result any) {
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
	b.pipe.SetReadDeadline(time.Now().Add(patience))
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
		case answer.Error != nil && answer.Error.Message == "Inspected target navigated or closed":
			return // without an answer: a page that loads itself anew may do that at any time
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

// Eval is what an expression is in the page, as text; empty where the page went
// meanwhile.
func (b *Tab) Eval(expression string) string {
	b.t.Helper()
	var answer struct {
		Result           struct{ Value string }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	b.Call("Runtime.evaluate", map[string]any{"expression": "String(" + expression + ")", "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, answer.ExceptionDetails.Exception.Description)
	}
	return answer.Result.Value
}

// Await waits until an expression is true in the page.
func (b *Tab) Await(expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); b.Eval(expression) != "true"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("never: %s\n%s", expression, b.DOM())
		}
	}
}

// DOM is the page as it stands.
func (b *Tab) DOM() string { return b.Eval(`document.documentElement.outerHTML`) }

// Press has a key pressed, where the focus is.
func (b *Tab) Press(key string) {
	b.t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		b.Call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key}, nil)
	}
}
