package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/status"
)

// askEnv is set in a process that is to ask on a path, and to print what comes of it.
const askEnv = "SOCKDOG_TEST_ASK"

func TestMain(m *testing.M) {
	if path := os.Getenv(askEnv); path != "" {
		_, err := Ask(context.Background(), []string{path}, Request{Command: CommandPause, Reason: "by another user"})
		fmt.Println(err)
		return
	}
	goleak.VerifyTestMain(m)
}

// asUser asks on a path in a process of that user, and returns what it prints.
func asUser(t *testing.T, uid uint32, path string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{askEnv + "=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestOtherUsers: another user may not connect, and one that the mode lets is not heard,
// but for the one that the daemon runs as.
func TestOtherUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		nstest.SkipWithout(t, "root", errors.New("this test runs as another user"))
	}
	h := &handler{}
	path := serve(t, h)
	for dir := filepath.Dir(path); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got := asUser(t, 65534, path); !strings.Contains(got, "may not be used: only root and the user that sockdog runs as") {
		t.Errorf("with the mode of the socket: %s", got)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := asUser(t, 65534, path); !strings.Contains(got, "user 65534 may not tell sockdog what to do: only root and user 0 may") {
		t.Errorf("where the mode lets all: %s", got)
	}
	if len(h.pauses()) > 0 {
		t.Errorf("paused %+v", h.pauses())
	}
	if got := asUser(t, 0, path); got != "<nil>" || len(h.pauses()) != 1 {
		t.Errorf("root: %s, paused %v", got, h.pauses())
	}
}

// handler does what it is told to, and remembers it.
type handler struct {
	mu     sync.Mutex
	paused []status.Pause
	unkept error
	hangs  bool
	ready  bool
}

func (h *handler) Ready() (ready bool, instead string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready, "the built-in rules: bad"
}

// pauses are those that it was told of.
func (h *handler) pauses() []status.Pause {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.paused)
}

func (h *handler) Pause(ctx context.Context, p status.Pause) (error, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hangs {
		<-ctx.Done()
		return nil, errors.New("busy")
	}
	h.paused = append(h.paused, p)
	return h.unkept, nil
}

func (h *handler) Resume(context.Context) (*status.Pause, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.paused) == 0 {
		return nil, nil
	}
	last := h.paused[len(h.paused)-1]
	h.paused = nil
	return &last, nil
}

func (h *handler) Reset(_ context.Context, rule, by string) (bool, error) {
	if rule == "leak" {
		return true, nil
	}
	return false, &UnknownRule{rule, []string{"leak", "flood"}}
}

// listenOn listens on one of the paths.
func listenOn(paths ...string) (*net.UnixListener, error) {
	listeners, refused := Listen(paths)
	if len(listeners) != 1 {
		return nil, fmt.Errorf("%d listeners: %w", len(listeners), refused)
	}
	return listeners[0], nil
}

// serve hears clients on a socket of the test, and returns its path.
func serve(t *testing.T, h Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenOn(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- Serve(ctx, l, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is left")
		}
	})
	return path
}

// TestCommands: what is asked for is done, in the name of who asks.
func TestCommands(t *testing.T) {
	h := &handler{unkept: errors.New("a full disk")}
	path := serve(t, h)
	ask := func(r Request) (*Reply, error) { return Ask(t.Context(), []string{path + ".none", path}, r) }

	reply, err := ask(Request{Command: CommandPause, Reason: "deploy", For: 60})
	if err != nil || reply.PID != os.Getpid() || !strings.Contains(reply.Warning, "a full disk") {
		t.Errorf("pause: %+v, %v", reply, err)
	}
	p := h.pauses()[0]
	if p.Reason != "deploy" || p.By != fmt.Sprintf("uid %d", os.Geteuid()) || p.Until.Sub(p.Since) != time.Minute {
		t.Errorf("paused %+v", p)
	}
	if reply, err = ask(Request{Command: CommandResume}); err != nil || !reply.Was {
		t.Errorf("resume: %+v, %v", reply, err)
	}
	if reply, err = ask(Request{Command: CommandResume}); err != nil || reply.Was {
		t.Errorf("resume again: %+v, %v", reply, err)
	}
	if reply, err = ask(Request{Command: CommandReset, Rule: "leak"}); err != nil || !reply.Was {
		t.Errorf("reset: %+v, %v", reply, err)
	}
	var unknown *UnknownRule
	if _, err = ask(Request{Command: CommandReset, Rule: "lek"}); !errors.As(err, &unknown) || len(unknown.Rules) != 2 {
		t.Errorf("reset of a rule that there is not: %v", err)
	}
	for _, ready := range []bool{false, true} {
		h.mu.Lock()
		h.ready = ready
		h.mu.Unlock()
		if reply, err = ask(Request{Command: CommandReady}); err != nil || reply.Ready != ready || reply.Instead != "the built-in rules: bad" {
			t.Errorf("ready is %v, %v; want %v", reply, err, ready)
		}
	}
	for _, bad := range []Request{{Command: "kill"}, {Command: CommandPause, For: -1}, {Command: CommandPause, For: 1e300}} {
		if _, err = ask(bad); err == nil {
			t.Errorf("%+v was done", bad)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
}

// TestBadRequests: what is no request has an answer, and nothing is done.
func TestBadRequests(t *testing.T) {
	h := &handler{}
	path := serve(t, h)
	for name, test := range map[string]struct{ text, want string }{
		"no JSON":         {"pause\n", "no JSON object"},
		"too long":        {strings.Repeat("x", 2*maxRequest) + "\n", "too long"},
		"no end":          {`{"version":1,"command":"pause"}`, "no end"},
		"another version": {`{"version":2,"command":"pause"}` + "\n", "version 2"},
		"no version":      {`{"command":"pause"}` + "\n", "version 0"},
		"no command":      {`{"version":1}` + "\n", `no command ""`},
		"a wrong type":    {`{"version":1,"command":"pause","for_seconds":"1h"}` + "\n", "no JSON object"},
	} {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(test.text))
		conn.CloseWrite()
		var reply Reply
		text, _ := io.ReadAll(conn)
		if err := json.Unmarshal(text, &reply); err != nil || !strings.Contains(reply.Error, test.want) {
			t.Errorf("%s: answered %q, want an error with %q", name, text, test.want)
		}
		conn.Close()
	}
	if len(h.pauses()) > 0 {
		t.Errorf("paused %+v", h.pauses())
	}
}

// TestSlowClients: those who say nothing hold up others for no longer than they are waited
// for, and a daemon that is busy is said to be.
func TestSlowClients(t *testing.T) {
	h := &handler{}
	path := serve(t, h)
	for range 2 * maxClients {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := Ask(t.Context(), []string{path}, Request{Command: CommandPause, Reason: "stop"}); err != nil || len(h.pauses()) != 1 {
		t.Errorf("paused %v, %v", h.pauses(), err)
	}
	h.mu.Lock()
	h.hangs = true
	h.mu.Unlock()
	if _, err := Ask(t.Context(), []string{path}, Request{Command: CommandPause}); err == nil || err.Error() != "busy" {
		t.Errorf("of a daemon that hangs: %v", err)
	}
}

// TestListen: a socket that an earlier run left is replaced, and nothing else is.
func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	first, err := listenOn(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenOn(path); err == nil || !strings.Contains(err.Error(), "another sockdog listens there") {
		t.Errorf("where one listens: %v", err)
	}
	second, err := listenOn(path, path+"2")
	if err != nil || second.Addr().String() != path+"2" {
		t.Errorf("the next path is not taken: %v", err)
	}
	second.Close()
	both, err := Listen([]string{path + "2", path + "3"})
	if err != nil || len(both) != 2 {
		t.Fatalf("%d of two paths that can be had: %v", len(both), err)
	}
	for _, l := range both {
		l.Close()
	}
	first.SetUnlinkOnClose(false)
	first.Close()
	if first, err = listenOn(path); err != nil {
		t.Fatalf("a stale socket is not replaced: %v", err)
	}
	first.Close()

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenOn(path); err == nil {
		t.Error("a file was replaced")
	}
	if text, err := os.ReadFile(path); string(text) != "precious" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	os.Remove(path)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := listenOn(path); err == nil {
		t.Error("others may write to the directory, and it is used")
	}
	if _, err := listenOn(filepath.Join(dir, strings.Repeat("x", 200))); err == nil || !strings.Contains(err.Error(), "longer than 107") {
		t.Errorf("a long path: %v", err)
	}
}

// TestAskNobody says what is wrong, where nobody can be asked.
func TestAskNobody(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "s")
	l, err := listenOn(stale)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := Ask(t.Context(), []string{stale, filepath.Join(dir, "none", "s")}, Request{}); !errors.Is(err, ErrNobody) {
		t.Errorf("of nobody: %v", err)
	}
	other := filepath.Join(dir, "other")
	stranger, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	go func() {
		for {
			conn, err := stranger.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("220 smtp\n"))
			conn.Close()
		}
	}()
	if _, err := Ask(t.Context(), []string{other}, Request{Command: CommandPause}); err == nil || errors.Is(err, ErrNobody) {
		t.Errorf("of a stranger: %v", err)
	}
}
