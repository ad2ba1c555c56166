package holders

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/podnames"
)

// Pods are those whose processes are shown.
type Pods struct {
	Named, Unnamed int
	// Bare is how many containers there are that are not known to be in one: nothing tells their names.
	Bare int
}

// FindPods finds the pods of all processes under root, a mounted proc(5), and whether their
// names can be read.
func FindPods(root string) (Pods, error) { return findPods(root, podnames.Logs) }

func findPods(root, logs string) (Pods, error) {
	dir, err := openDir(unix.AT_FDCWD, root)
	if err != nil {
		return Pods{}, fmt.Errorf("find pods: %w", err)
	}
	defer unix.Close(dir)
	found, bare, of, from := make(map[string]bool), make(map[string]bool), newOwners(logs), rooted(dir)
	err = new(lister).eachNumber(dir, func(pid int, _ []byte) error {
		switch at := of.of(dir, strconv.Itoa(pid), from); {
		case at == nil:
		case at.PodUID.Text != "":
			found[at.PodUID.Text] = found[at.PodUID.Text] || at.Pod != ""
		case at.ContainerID.Text != "":
			bare[at.ContainerID.Text] = true
		}
		return nil
	})
	if err != nil {
		return Pods{}, fmt.Errorf("find pods in %s: %w", root, err)
	}
	p := Pods{Bare: len(bare)}
	for _, named := range found {
		if named {
			p.Named++
		} else {
			p.Unnamed++
		}
	}
	return p, nil
}
