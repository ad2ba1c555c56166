package sock

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// uptime reads the clock that Instants are readings of. It is the kernel's: no
// setting of the wall clock moves it.
func uptime(t *testing.T) Instant {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	offset, err := TimeNamespaceOffset(unix.CLOCK_MONOTONIC)
	if err != nil {
		t.Fatal(err)
	}
	return Instant(ts.Nano()).Add(-offset)
}

func TestClock(t *testing.T) {
	least := time.Duration(1<<63 - 1)
	for range 100 {
		now, err := Clock()
		if err != nil {
			t.Fatal(err)
		}
		before := uptime(t)
		got := now()
		if after := uptime(t); got > after {
			t.Fatalf("the clock says %d, %v ahead", got, got.Sub(after))
		}
		least = min(least, before.Sub(got))
	}
	// It is behind where Clock lost the processor between its two readings of the
	// time, which does not happen each time.
	if least > time.Millisecond {
		t.Errorf("the clock is %v behind", least)
	}
}

// Two runs of sockdog, in time namespaces of their own, mean the same by an Instant.
func TestClockInTimeNamespace(t *testing.T) {
	const stage = "SOCK_TEST_TIME_NAMESPACE"
	again := func(next string) ([]byte, error) {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestClockInTimeNamespace$")
		cmd.Env = append(os.Environ(), stage+"="+next)
		cmd.Stderr = os.Stderr
		return cmd.Output()
	}
	switch os.Getenv(stage) {
	case "outside":
		// The namespace is for children only, so it takes a process more. This one's
		// own clock stands, but its /proc/self/timens_offsets is the new one.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
			t.Fatal(err)
		}
		offsets := fmt.Sprintf("/proc/%d/timens_offsets", unix.Gettid())
		if err := os.WriteFile(offsets, []byte("monotonic 1000 0\n"), 0); err != nil {
			t.Fatal(err)
		}
		out, err := again("inside")
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.Write(out)
	case "inside":
		now, err := Clock()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("instant %d\n", now())
	default:
		nstest.Need(t)
		before := uptime(t)
		out, err := again("outside")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		after := uptime(t)
		var got Instant
		if _, err := fmt.Sscanf(string(out), "instant %d", &got); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		if got < before || got > after {
			t.Errorf("the clock in another time namespace says %d, want %d to %d", got, before, after)
		}
	}
}

func TestTimensOffset(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want, boot time.Duration
	}{
		{"none", "monotonic           0         0\nboottime            0         0\n", 0, 0},
		{"ahead", "monotonic        1000 500000000\nboottime            7         0\n", 1000*time.Second + 500*time.Millisecond, 7 * time.Second},
		{"behind", "monotonic          -2 500000000\nboottime            0         0\n", -1500 * time.Millisecond, 0},
		{"by number", "1 3 4\n7 5 6\n", 3*time.Second + 4, 5*time.Second + 6},
		{"empty", "", 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "offsets")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := timensOffset(path, unix.CLOCK_MONOTONIC)
			if err != nil || got != test.want {
				t.Errorf("%v, %v, want %v", got, err, test.want)
			}
			if got, err := timensOffset(path, unix.CLOCK_BOOTTIME); err != nil || got != test.boot {
				t.Errorf("since boot %v, %v, want %v", got, err, test.boot)
			}
		})
	}
	t.Run("a kernel without time namespaces", func(t *testing.T) {
		if got, err := timensOffset(filepath.Join(t.TempDir(), "none"), unix.CLOCK_MONOTONIC); got != 0 || err != nil {
			t.Errorf("%v, %v, want no offset", got, err)
		}
	})
	t.Run("unreadable", func(t *testing.T) {
		if _, err := timensOffset(t.TempDir(), unix.CLOCK_MONOTONIC); err == nil || !strings.Contains(err.Error(), "time namespace") {
			t.Errorf("error %v, want one that names the time namespace", err)
		}
	})
}

// A simulation of time governs the clock too.
func TestClockUnderSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now, err := Clock()
		if err != nil {
			t.Fatal(err)
		}
		before := now()
		time.Sleep(time.Hour)
		if got := now().Sub(before); got != time.Hour {
			t.Errorf("an hour took %v", got)
		}
	})
}
