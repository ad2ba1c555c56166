package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/source/events"
)

// Once the eBPF programs are loaded, the child that did it has ended, and no thread can have again
// what it took; and events go on.
func TestPrivilegesOfEventsAreDropped(t *testing.T) {
	needEvents(t)
	p := newPlace(t)
	w := watch(t, allLeaks)
	w.says("sockets come from events")
	dropped := uint64(1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON)
	programs := must(events.Load(1))(t)
	if programs.NeedsCapBPF() {
		dropped = 1 << unix.CAP_PERFMON
	}
	programs.Close()
	threads := must(filepath.Glob(fmt.Sprintf("/proc/%d/task/*", w.cmd.Process.Pid)))(t)
	seen := 0
	for _, thread := range threads {
		status, err := os.ReadFile(filepath.Join(thread, "status"))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(status)) {
			set, bits, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			if !strings.HasPrefix(set, "Cap") {
				continue
			}
			seen++
			if has := must(strconv.ParseUint(bits, 16, 64))(t); has&dropped != 0 {
				t.Errorf("%s: %s is %x, want none of %x", thread, set, has, dropped)
			}
		}
		if children, err := os.ReadFile(filepath.Join(thread, "children")); err == nil && len(children) > 0 {
			t.Errorf("%s has children: %s", thread, children)
		}
	}
	if seen == 0 {
		t.Error("no thread tells its capabilities")
	}
	if late := p.dies(p.do("plain"), bound); late > tooLate {
		t.Errorf("killed %v late", late)
	}
}
