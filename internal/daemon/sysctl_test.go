package daemon_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sysctl"
	"github.com/sockdog/sockdog/rules"
)

// inside runs in the namespace of the test.
type inside struct{ w *world }

func (i inside) In(_ uint32, do func(cookie uint64) error) error {
	if err := i.w.enter(); err != nil {
		return err
	}
	return do(0)
}

// sysctl reads a setting in the namespace of the test, whose thread this is.
func (w *world) sysctl(name string) string {
	w.Helper()
	text := must(os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/")))(w)
	return strings.Join(strings.Fields(string(text)), " ")
}

// A setting stands while its group fires, and is put back when that ends, when the rule goes
// and when sockdog does.
func TestSysctl(t *testing.T) {
	const name, mine = "net.ipv4.tcp_fin_timeout", "17"
	for _, test := range []struct {
		name string
		end  func(w *world, s stuck, stop func() time.Duration)
	}{
		{"its group ends", func(w *world, s stuck, _ func() time.Duration) { check(w, s.Close()) }},
		{"its rule goes", func(w *world, _ stuck, _ func() time.Duration) {
			w.rules <- daemon.Reload{Rules: w.parse(often + "rules: []\n")}
		}},
		{"sockdog ends", func(w *world, _ stuck, stop func() time.Duration) {
			if took := stop(); took > time.Second {
				w.Errorf("it took %v to stop", took)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dir := t.TempDir()
			w.openState(dir)
			w.options.Sysctls = sysctl.New(inside{w}, "/proc/sys", "boot", nil)
			before := w.sysctl(name)
			s := w.leak(w.listen(nstest.V4, 5432))
			stop := w.watch(often + fmt.Sprintf("rules: [{name: leak, match: {state: close-wait}, when: count > 0, cooldown: 1ms, then: [{sysctl: {set: {%s: %s}}}]}]\n", name, mine))
			set := w.await("the setting", func(l line) bool { return l.Msg == "sysctl done" })
			if got := w.sysctl(name); got != mine || !strings.Contains(set.Reason, name+" is 17, and was "+before) {
				t.Errorf("%s is %s, reason %q", name, got, set.Reason)
			}
			test.end(w, s, stop)
			w.await("that it is put back", func(l line) bool {
				return l.Msg == "sysctl done" && strings.Contains(l.Reason, "put back "+name+" to "+before)
			})
			if got := w.sysctl(name); got != before {
				t.Errorf("%s is %s afterwards, want %s", name, got, before)
			}
			stop()
			w.pairs(dir, "sysctl", 2)
		})
	}
}

// All settings that rules may have are there in a network namespace of its own.
func TestSysctlsExist(t *testing.T) {
	w := newWorld(t)
	for _, name := range rules.SysctlNames() {
		if w.sysctl(name) == "" {
			t.Errorf("%s is empty", name)
		}
	}
}
