package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A leak of any of the places of the tests has a setting of its network namespace changed.
const finTimeout = `
settings: {namespaces: all, interval: 20ms, cpu_budget: 100%}
rules:
  - name: leak
    match: {state: close-wait, sport: 7001}
    group_by: [netns]
    when: count > 0
    cooldown: 1ms
    then: [{sysctl: {set: {net.ipv4.tcp_fin_timeout: 17}}}]
`

// finTimeoutOf reads that setting in the network namespace of a process.
func finTimeoutOf(t *testing.T, pid int) string {
	t.Helper()
	var text []byte
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the other namespace
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			text, err = os.ReadFile("/proc/sys/net/ipv4/tcp_fin_timeout")
		}
		done <- err
	}()
	check(t, <-done)
	return strings.TrimSpace(string(text))
}

// sysctls waits for a record about settings in that namespace, whose reason has the text.
func (w *watchdog) sysctls(in uint32, result, text string) {
	w.Helper()
	w.await(fmt.Sprintf("sysctl %s in %d with %q", result, in, text), func(l line) bool {
		return l.Action == "sysctl" && l.Result == result && l.Netns == fmt.Sprint(in) && strings.Contains(l.Reason, text)
	})
}

// A setting is changed in the network namespace of the group, and in no other, and put back there
// when the group ends.
func TestSysctlsOfOthers(t *testing.T) {
	need(t)
	leaking, quiet := newPlace(t), newPlace(t)
	before := finTimeoutOf(t, leaking.cmd.Process.Pid)
	dir := t.TempDir()
	w := watch(t, finTimeout, by("--allow", "log,kill,sysctl", "--source", "sock_diag", "--state-dir", dir))
	leaking.do("forgotten")
	w.sysctls(leaking.netns, "done", "net.ipv4.tcp_fin_timeout is 17, and was "+before)
	if now := finTimeoutOf(t, quiet.cmd.Process.Pid); now != before {
		t.Errorf("in another namespace it is %s, want %s", now, before)
	}
	if now := finTimeoutOf(t, leaking.cmd.Process.Pid); now != "17" {
		t.Errorf("it is %s, want 17", now)
	}
	leaking.do("end")
	w.sysctls(leaking.netns, "done", "put back net.ipv4.tcp_fin_timeout to "+before)
	if now := finTimeoutOf(t, leaking.cmd.Process.Pid); now != before {
		t.Errorf("it is %s afterwards, want %s", now, before)
	}

}

// What sockdog has changed in other network namespaces until it was killed, its next start puts
// back there; what is gone with its namespace is forgotten, and what this start does not watch
// is left to a later one.
func TestSysctlsOfOthersAfterCrash(t *testing.T) {
	need(t)
	staying, ending := newPlace(t), newPlace(t)
	before := finTimeoutOf(t, staying.cmd.Process.Pid)
	dir := t.TempDir()
	how := by("--allow", "log,kill,sysctl", "--source", "sock_diag", "--state-dir", dir)
	w := watch(t, finTimeout, how)
	for _, p := range []*place{staying, ending} {
		p.do("forgotten")
		w.sysctls(p.netns, "done", "net.ipv4.tcp_fin_timeout is 17")
	}
	w.kill()
	ending.end()

	w = watch(t, "rules: []", how)
	for _, p := range []*place{staying, ending} {
		w.sysctls(p.netns, "failed", "an earlier sockdog left it set: the network namespace is not watched: that takes namespaces: all")
	}
	w.stop()
	if now := finTimeoutOf(t, staying.cmd.Process.Pid); now != "17" {
		t.Errorf("it is %s, and nothing could put it back", now)
	}

	w = watch(t, "settings: {namespaces: all}\nrules: []", how)
	w.sysctls(staying.netns, "done", "an earlier sockdog left it set: put back net.ipv4.tcp_fin_timeout to "+before)
	w.sysctls(ending.netns, "done", "an earlier sockdog left it set: net.ipv4.tcp_fin_timeout is gone with its network namespace")
	if now := finTimeoutOf(t, staying.cmd.Process.Pid); now != before {
		t.Errorf("it is %s afterwards, want %s", now, before)
	}
	if left := must(os.ReadFile(dir + "/sysctls"))(t); len(left) > 0 {
		t.Errorf("the state directory remembers %s", left)
	}
}

// Where /proc/sys is read-only, as in a container, a rule that would change a setting says so once,
// with the cure, and other rules go on.
func TestSysctlsReadOnly(t *testing.T) {
	need(t)
	p := newPlace(t)
	before := finTimeoutOf(t, p.cmd.Process.Pid)
	w := watch(t, finTimeout+`
  - name: kills
    match: {state: close-wait, netns: `+fmt.Sprint(p.netns)+`, in_state_for: 1s}
    then: [kill]
`, by("--allow", "log,kill,sysctl", "--source", "sock_diag"), after("mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys"),
		func(c *exec.Cmd) { c.SysProcAttr.Cloneflags |= unix.CLONE_NEWNS })
	s := p.do("plain")
	w.sysctls(p.netns, "failed", "/proc/sys is mounted read-only; in a unit write ProtectKernelTunables=no")
	p.until("death of the socket", func() bool { return p.died(s) != 0 })
	if now := finTimeoutOf(t, p.cmd.Process.Pid); now != before {
		t.Errorf("it is %s, want %s", now, before)
	}
	if all := w.find(func(l line) bool { return l.Action == "sysctl" && l.Result == "failed" }); len(all) != 1 {
		t.Errorf("it is said %d times: %+v", len(all), all)
	}
}
