package pidfd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/pidfd"
)

// Yama forbids what the kernel alone would allow; with CAP_SYS_PTRACE it does so at its
// strictest only.
func TestProbe(t *testing.T) {
	nstest.Need(t)
	for _, test := range []struct {
		scope                string // empty: there is no Yama
		plain, withSysPtrace string // what the probe says; empty: it is possible
	}{
		{"", "", ""},
		{"0", "", ""},
		{"1", "CAP_SYS_PTRACE", ""},
		{"2", "CAP_SYS_PTRACE", ""},
		{"3", "lets nobody", "lets nobody"},
	} {
		t.Run("scope "+test.scope, func(t *testing.T) {
			o := &pidfd.Opener{Root: t.TempDir()}
			if dir := filepath.Join(o.Root, "sys/kernel/yama"); test.scope != "" {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "ptrace_scope"), []byte(test.scope+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			check := func(want string) {
				t.Helper()
				err := o.Probe()
				if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("the probe says %v, not %q", err, want)
				}
			}
			check(test.withSysPtrace)
			nstest.WithoutCapabilities(t, func() { check(test.plain) })
		})
	}
}
