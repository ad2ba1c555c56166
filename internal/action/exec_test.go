package action

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// runScript has a shell run a script as an exec action does, and returns what came of it.
func runScript(t *testing.T, ctx context.Context, timeout time.Duration, script string, arguments ...string) engine.GroupActed {
	t.Helper()
	return run(ctx, timeout, append([]string{"/bin/sh", "-c", script, "sh"}, arguments...))
}

func run(ctx context.Context, timeout time.Duration, command []string) engine.GroupActed {
	x := Runner{
		Kinds: Kinds(), Now: func() sock.Instant { return 1 },
		Event: func(*engine.GroupAction) ([]byte, []string) {
			return []byte("{\"rule\":\"leak\"}\n"), []string{"SOCKDOG_RULE=leak"}
		},
	}
	return x.Run(ctx, &engine.GroupAction{Action: &rules.Action{Kind: rules.Exec, Exec: &rules.ExecOptions{Command: command, Timeout: timeout}}})
}

// long bounds what only a defect lets last.
const long = 20 * time.Second

func TestExec(t *testing.T) {
	t.Setenv("SECRET", "of sockdog")
	dir := t.TempDir()
	for _, test := range []struct {
		name, script string
		err          string // within the error; "": none
	}{
		{name: "good", script: "exit 0"},
		{"a status", "exit 3", "exit status 3"},
		{"a status, and words", "echo no luck >&2; exit 3", "exit status 3; its output ends: no luck"},
		{"killed", "kill -9 $$", "signal: killed"},
		{name: "the event", script: `test "$(cat)" = '{"rule":"leak"}' && test $SOCKDOG_RULE = leak`},
		{name: "nothing reads the event", script: "exec 0<&-; exit 0"},
		{name: "a clean environment", script: `test -z "$SECRET" && test "$(pwd)" = / && test $PATH = /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`},
		{name: "nothing of sockdog's is open", script: `for fd in /proc/$$/fd/*; do case $fd in */[012]|*/10|*/255) ;; *) ! test -e $fd || { echo $fd; exit 1; };; esac; done`},
		{name: "a process group of its own", script: `set -- $(cat /proc/$$/stat); test $5 = $$`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := runScript(t, t.Context(), long, test.script, dir)
			if text := fmt.Sprint(got.Err); got.Err == nil != (test.err == "") || !strings.Contains(text, test.err) {
				t.Errorf("error %v, want %q in it", got.Err, test.err)
			}
		})
	}
}

// TestExecMissing: what cannot be run is an error that says what.
func TestExecMissing(t *testing.T) {
	script := filepath.Join(t.TempDir(), "not-executable")
	if err := os.WriteFile(script, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/nowhere/dump": "no such file", script: "permission denied"} {
		if got := run(t.Context(), long, []string{path}); got.Err == nil || !strings.Contains(got.Err.Error(), path) || !strings.Contains(got.Err.Error(), want) {
			t.Errorf("%s: %v", path, got.Err)
		}
	}
}

// TestExecHangs: at the timeout, or when sockdog is told to stop, what a program has started
// ends with it.
func TestExecHangs(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout time.Duration
		stop    bool
		want    string
	}{
		{"timeout", 300 * time.Millisecond, false, "killed after the timeout of 300ms; its output ends: begun"},
		{"stop", long, true, "sockdog was told to stop"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pids := filepath.Join(t.TempDir(), "pids")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.stop {
				go func() {
					for text := ""; strings.Count(text, "\n") < 2; time.Sleep(time.Millisecond) {
						b, _ := os.ReadFile(pids)
						text = string(b)
					}
					cancel()
				}()
			}
			began := time.Now()
			got := runScript(t, ctx, test.timeout, `trap "" TERM; echo begun; sleep 1000 & echo $! >>$1; echo $$ >>$1; while :; do sleep 1000; done`, pids)
			if got.Err == nil || !strings.Contains(got.Err.Error(), test.want) {
				t.Errorf("error %v, want %q in it", got.Err, test.want)
			}
			if took := time.Since(began); took > long/2 {
				t.Errorf("it took %v", took)
			}
			text, err := os.ReadFile(pids)
			if err != nil || strings.Count(string(text), "\n") != 2 {
				t.Fatalf("processes %q, error %v", text, err)
			}
			for pid := range strings.Lines(string(text)) {
				awaitGone(t, strings.TrimSpace(pid))
			}
		})
	}
}

// TestExecInBackground: what a program leaves behind in its process group does not keep
// sockdog waiting, and ends with it; what leaves the group lives on.
func TestExecInBackground(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	began := time.Now()
	if got := runScript(t, t.Context(), long, `sleep 1000 & echo $! >>$1; exit 0`, pids); got.Err != nil {
		t.Error(got.Err)
	}
	if took := time.Since(began); took > long/2 {
		t.Errorf("it took %v", took)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	awaitGone(t, strings.TrimSpace(string(text)))
}

// TestExecFloods: of a flood of output the end is kept, and nobody waits for more.
func TestExecFloods(t *testing.T) {
	got := runScript(t, t.Context(), time.Second, `yes "a line that says nothing"`)
	if got.Err == nil || !strings.Contains(got.Err.Error(), "killed after the timeout") || !strings.Contains(got.Err.Error(), "…") || len(got.Err.Error()) > mostOutput+200 {
		t.Errorf("%d bytes: %v", len(fmt.Sprint(got.Err)), got.Err)
	}
	got = runScript(t, t.Context(), long, `head -c 100000000 /dev/zero | tr '\0' x; echo; echo the reason; exit 1`)
	if got.Err == nil || !strings.HasSuffix(got.Err.Error(), "x\nthe reason") || len(got.Err.Error()) > mostOutput+200 {
		t.Errorf("%d bytes", len(fmt.Sprint(got.Err)))
	}
}

// awaitGone waits until a process has ended; its parent may have yet to reap it.
func awaitGone(t *testing.T, pid string) {
	t.Helper()
	for deadline := time.Now().Add(long); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("process %s still runs: %s", pid, stat)
			return
		}
	}
}
