// Package podnames knows the names of the pods and containers of this host, by what the
// kubelet writes into the names of its log files. It opens none of them.
package podnames

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/owner"
)

// Logs is where the kubelet keeps the logs: it makes a directory
// pods/NAMESPACE_NAME_UID for each pod, and a link containers/NAME_NAMESPACE_CONTAINER-ID.log
// for each container.
const Logs = "/var/log"

const (
	// pause is how long to wait before the directories are read again for a name that was
	// not there.
	pause = 5 * time.Second
	// patience is how long to wait for the directories: they may be on a disk that is gone, and
	// who asks goes on without names then.
	patience = time.Second
	// most bounds the names that are read from a directory: a kubelet runs some hundred
	// pods, and removes the logs of those that are gone.
	most = 1 << 14
)

// Names are the names, as they were read last. They are safe for concurrent use.
type Names struct {
	dir  string
	most int // names that are read from a directory
	now  func() time.Time

	mu         sync.Mutex
	read       time.Time     // when that began
	reading    chan struct{} // closed once it has ended; nil: it is not under way
	late       bool          // somebody has waited for it in vain
	pods       map[string]string
	containers map[string]container
}

// container is one of a pod's.
type container struct{ pod, name string }

// New returns the names in a directory of logs.
func New(dir string) *Names { return &Names{dir: dir, most: most, now: time.Now} }

// Of returns the name of a pod, as namespace/name, and that of a container in it, by the
// uid of the pod and the id of the container. What is not known is empty.
func (n *Names) Of(uid, id string) (pod, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	pod, name, all := n.known(uid, id)
	if now := n.now(); !all && n.reading == nil && (n.read.IsZero() || now.Sub(n.read) >= pause) {
		n.read, n.reading, n.late = now, make(chan struct{}), false
		go n.readAll(n.reading)
	}
	if !all && n.reading != nil && !n.late {
		n.await(n.reading)
		pod, name, _ = n.known(uid, id)
	}
	return pod, name
}

// readAll reads the directories.
func (n *Names) readAll(done chan struct{}) {
	pods, containers := readPods(n.entries("pods")), readContainers(n.entries("containers"))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods, n.containers, n.reading = pods, containers, nil
	close(done)
}

// await waits for that, within reason and without the lock.
func (n *Names) await(done chan struct{}) {
	n.mu.Unlock()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
	n.mu.Lock()
	n.late = n.reading == done
}

// known is what is known; all: of each that is asked for.
func (n *Names) known(uid, id string) (pod, name string, all bool) {
	pod, c := n.pods[uid], n.containers[id]
	switch {
	case pod == "":
		pod = c.pod
	case c.pod != "" && c.pod != pod: // one of the two is wrong
		return "", "", true
	}
	return pod, c.name, (uid == "" || pod != "") && (id == "" || c.name != "")
}

// readPods reads the names of pods by their uids.
func readPods(entries []os.DirEntry) map[string]string {
	pods := make(map[string]string)
	for _, entry := range entries {
		fields := strings.Split(entry.Name(), "_")
		if !entry.IsDir() || len(fields) != 3 || !owner.IsPodUID(fields[2]) {
			continue
		}
		if pod := podName(fields[0], fields[1]); pod != "" {
			put(pods, fields[2], pod)
		}
	}
	return pods
}

// readContainers reads the names of containers by their ids.
func readContainers(entries []os.DirEntry) map[string]container {
	containers := make(map[string]container)
	for _, entry := range entries {
		name, is := strings.CutSuffix(entry.Name(), ".log")
		fields := strings.Split(name, "_")
		if !is || entry.Type()&os.ModeSymlink == 0 || len(fields) != 3 {
			continue
		}
		dash := strings.LastIndexByte(fields[2], '-')
		if dash < 0 || !owner.IsContainerID(fields[2][dash+1:]) || !isName(fields[2][:dash]) {
			continue
		}
		if pod := podName(fields[1], fields[0]); pod != "" {
			put(containers, fields[2][dash+1:], container{pod, fields[2][:dash]})
		}
	}
	return containers
}

// put notes a name. Of two for one thing none is known to be right.
func put[N comparable](names map[string]N, key string, name N) {
	if before, has := names[key]; has && before != name {
		var none N
		name = none
	}
	names[key] = name
}

// entries lists a directory; one that is not there, or cannot be read, has none.
func (n *Names) entries(dir string) []os.DirEntry {
	f, err := os.Open(filepath.Join(n.dir, dir))
	if err != nil {
		return nil
	}
	defer f.Close()
	entries, _ := f.ReadDir(n.most)
	return entries
}

// podName returns namespace/name; "": these are no names.
func podName(namespace, name string) string {
	if !isName(namespace) || !isName(name) {
		return ""
	}
	return namespace + "/" + name
}

// isName reports whether a text is a name as Kubernetes gives them (RFC 1123): small
// letters, digits, dashes, and dots.
func isName(text string) bool {
	return text != "" && len(text) <= 253 && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-.") == ""
}
