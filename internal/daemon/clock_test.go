package daemon_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whoever sets the wall clock moves no deadline: it is read for the dates of
// records, of alerts and of what is shown, and every other time comes from
// sock.Clock. (The reading in that is for its monotonic part.)
func TestWallClock(t *testing.T) {
	want := map[string]int{
		"internal/daemon/groupacts.go: time.Now":  1,
		"internal/daemon/daemon.go: time.Now":     2,
		"internal/daemon/log.go: time.Now":        1,
		"internal/daemon/pause.go: time.Now":      1, // a pause ends on a date, also after a restart
		"internal/daemon/pause.go: time.Until":    1,
		"internal/daemon/recorder.go: time.Now":   1,
		"internal/daemon/statecount.go: time.Now": 1,
		"internal/daemon/status.go: time.Now":     3,
		"internal/seen/store.go: time.Now":        1, // a stopped rule is so over boots
		"internal/sock/clock.go: time.Now":        1,
		"internal/source/*/load.go: time.Now":     1, // and what is left of a timeout: by its monotonic part
		"internal/source/*/load.go: time.Until":   1,
	}
	banned := map[string]bool{"time.Now": true, "time.Until": true, "time.Unix": true, "unix.CLOCK_REALTIME": true, "unix.Gettimeofday": true, "unix.Time": true}
	got := make(map[string]int)
	for _, dir := range []string{"action", "counters", "daemon", "engine", "engine/*", "holders", "journal", "seen", "sock", "source/*"} {
		files := must(filepath.Glob("../" + dir + "/*.go"))(t)
		if len(files) == 0 {
			t.Errorf("no package %s", dir)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file := must(parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution))(t)
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok && banned[x.Name+"."+s.Sel.Name] {
						got["internal/"+dir+"/"+filepath.Base(path)+": "+x.Name+"."+s.Sel.Name]++
					}
				}
				return true
			})
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("who reads the wall clock (-want +got):\n%s", diff)
	}
}
