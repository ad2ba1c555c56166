package podnames

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	uid     = "05b3ee07-a2bd-47e7-9599-7961201f20dd"
	other   = "15b3ee07-a2bd-47e7-9599-7961201f20dd"
	hash    = "6aad2f4ae9d1a0a6b86a5a7a4d3e2f10"
	id      = "fa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c"
	sandbox = "293f758723d0652a0b9fa869106e600079e56dae362aa1b5a2ab0d5e7e3a8b01"
)

// logs is a kubelet's directory.
type logs struct {
	t   *testing.T
	dir string
}

func newLogs(t *testing.T) logs { return logs{t, t.TempDir()} }

func (l logs) pod(name string) {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Join(l.dir, "pods", name), 0o755); err != nil {
		l.t.Fatal(err)
	}
}

func (l logs) container(name string) {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Join(l.dir, "containers"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", filepath.Join(l.dir, "containers", name)); err != nil {
		l.t.Fatal(err)
	}
}

func (l logs) expect(n *Names, uid, id, pod, name string) {
	l.t.Helper()
	if gotPod, gotName := n.Of(uid, id); gotPod != pod || gotName != name {
		l.t.Errorf("pod %.8s, container %.8s: %q and %q, want %q and %q", uid, id, gotPod, gotName, pod, name)
	}
}

func TestNames(t *testing.T) {
	l := newLogs(t)
	l.pod("payments_api-7756958c5b-qtkgc_" + uid)
	l.pod("kube-system_kube-apiserver-node-1.example_" + hash)
	l.container("api-7756958c5b-qtkgc_payments_java-17-" + id + ".log")
	n := New(l.dir)
	l.expect(n, uid, id, "payments/api-7756958c5b-qtkgc", "java-17")
	l.expect(n, uid, "", "payments/api-7756958c5b-qtkgc", "")
	l.expect(n, uid, sandbox, "payments/api-7756958c5b-qtkgc", "")
	l.expect(n, "", id, "payments/api-7756958c5b-qtkgc", "java-17")
	l.expect(n, hash, "", "kube-system/kube-apiserver-node-1.example", "")
	l.expect(n, other, "", "", "")
	l.expect(n, "", "", "", "")
	l.expect(New(filepath.Join(l.dir, "absent")), uid, id, "", "")
}

func TestNamesAreReadAgain(t *testing.T) {
	l := newLogs(t)
	n := New(l.dir)
	now := time.Unix(1000, 0)
	n.now = func() time.Time { return now }
	l.expect(n, uid, "", "", "")
	l.pod("payments_api_" + uid)
	now = now.Add(pause - time.Millisecond)
	l.expect(n, uid, "", "", "")
	now = now.Add(time.Millisecond)
	l.expect(n, uid, "", "payments/api", "")
	if err := os.RemoveAll(l.dir); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	l.expect(n, uid, "", "payments/api", "")
	l.expect(n, other, "", "", "")
}

// A disk that does not answer keeps nobody waiting for long, and for the first time alone; the names are
// there once it has answered.
func TestLogsHang(t *testing.T) {
	l := newLogs(t)
	if err := os.Mkdir(filepath.Join(l.dir, "containers"), 0o755); err != nil {
		t.Fatal(err)
	}
	pods := filepath.Join(l.dir, "pods")
	if err := unix.Mkfifo(pods, 0o600); err != nil { // whose opening waits for somebody who writes
		t.Fatal(err)
	}
	n := New(l.dir)
	l.expect(n, uid, id, "", "")
	began := time.Now()
	l.expect(n, uid, id, "", "")
	l.expect(n, other, "", "", "")
	if took := time.Since(began); took >= patience {
		t.Errorf("it was waited for again: %v", took)
	}
	n.mu.Lock()
	reading := n.reading
	n.mu.Unlock()
	l.container("api-7756958c5b-qtkgc_payments_java-17-" + id + ".log") // which is read next
	fd, err := unix.Open(pods, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	<-reading
	l.expect(n, uid, id, "payments/api-7756958c5b-qtkgc", "java-17")
}

// Whatever stands in the directories, no name comes of it that Kubernetes does not give,
// and none where it is doubtful.
func TestHostileLogs(t *testing.T) {
	l := newLogs(t)
	for _, name := range []string{
		"a\nb_c_" + uid, "a_b\x1b[2J_" + uid, "_b_" + uid, "a__" + uid, "a_b_c_" + uid, "a_b_" + uid[1:], "A_b_" + uid, "a_" + strings.Repeat("b", 200) + "@_" + uid,
		"shop_web_" + other, "shop_cart_" + other,
	} {
		l.pod(name)
	}
	if err := os.Symlink("/", filepath.Join(l.dir, "pods", "linked_pod_"+hash)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a_b_-" + id + ".log", "a_b_c\n-" + id + ".log", "a_b_c-" + id, "a_b_c" + id + ".log", "a_b_c-" + id[1:] + ".log", ".log"} {
		l.container(name)
	}
	n := New(l.dir)
	l.expect(n, uid, id, "", "")
	l.expect(n, other, "", "", "")
	l.expect(n, hash, "", "", "")

	l.container("web_shop_nginx-" + sandbox + ".log")
	l.pod("elsewhere_web_" + strings.Repeat("a", 32))
	l.expect(New(l.dir), strings.Repeat("a", 32), sandbox, "", "")

	huge := newLogs(t)
	for i := range 20 {
		huge.pod(fmt.Sprintf("a_b_%032x", i))
	}
	n = New(huge.dir)
	n.most = 10
	n.Of(uid, "")
	if len(n.pods) != n.most {
		t.Errorf("%d names of pods are kept, want %d", len(n.pods), n.most)
	}
}
