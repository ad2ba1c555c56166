package host

import (
	"os"

	"golang.org/x/sys/unix"
)

// BeExpendable has the kernel end this process first if memory runs short in its cgroup or
// on the host: a command that somebody runs in the container of a daemon must not end that.
// Where this cannot be, nothing is said: it is a courtesy.
func BeExpendable() {
	const most = "1000" // OOM_SCORE_ADJ_MAX: raising it takes no privilege
	if setOOMScore(most) == nil {
		return
	}
	// A program whose file has capabilities may not write to what is its own in /proc.
	if unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) == nil {
		_ = setOOMScore(most)
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
}

func setOOMScore(text string) error {
	return os.WriteFile("/proc/self/oom_score_adj", []byte(text), 0)
}
