// Package sysctl sets settings of network namespaces, and puts back what they were: when
// nobody wants them any more, or at the next start after a crash. What was is written to the
// state directory before anything is changed.
package sysctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/statedir"
)

// Changed is a setting that was changed, and what it was.
type Changed struct {
	BootID      string `json:"boot_id"`
	Netns       uint32 `json:"netns"`                  // inode; 0: the own one
	NetnsCookie uint64 `json:"netns_cookie,omitempty"` // that tells it from a later one with its inode; 0: not known
	Name        string `json:"name"`
	Old         string `json:"old"`
	New         string `json:"new"`
	Rule        string `json:"rule"` // that wanted it first

	wanted []string // by which groups of which rules; none after a restart
}

// Namespaces enters network namespaces.
type Namespaces interface {
	// In runs do on the calling thread, which is locked, inside of a namespace, by its inode;
	// 0: the own one. It hands over the cookie of it, 0 where there is none.
	In(netns uint32, do func(cookie uint64) error) error
}

// Keeper sets settings, and knows which are set. It is for concurrent use.
type Keeper struct {
	namespaces Namespaces
	root       string // where /proc/sys is
	bootID     string

	mu   sync.Mutex
	dir  *statedir.Dir // nil: there is none
	sets []*Changed
}

const fileName = "sysctls"

// New returns a keeper that remembers in dir what it has changed; nil: in memory only.
func New(namespaces Namespaces, root, bootID string, dir *statedir.Dir) *Keeper {
	return &Keeper{namespaces: namespaces, root: root, bootID: bootID, dir: dir}
}

// Set gives a setting a value for as long as somebody wants that, and says what it was.
func (k *Keeper) Set(netns uint32, name, value, rule, by string) (old string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.find(netns, name); c != nil {
		if c.New != value {
			return "", fmt.Errorf("%s: the rule %q has set it to %s, and it is one setting", name, c.Rule, c.New)
		}
		c.wanted = append(c.wanted, by)
		return c.Old, nil
	}
	err = k.namespaces.In(netns, func(cookie uint64) error {
		if old, err = k.read(name); err != nil || old == value {
			return err
		}
		c := &Changed{BootID: k.bootID, Netns: netns, NetnsCookie: cookie, Name: name, Old: old, New: value, Rule: rule, wanted: []string{by}}
		k.sets = append(k.sets, c)
		if err := k.save(); err != nil {
			k.forget(c)
			return fmt.Errorf("what it was is not in the state directory, so that a crash would leave it changed: %w", err)
		}
		if err := k.write(name, value); err != nil {
			k.forget(c)
			return errors.Join(err, k.save())
		}
		return nil
	})
	return old, err
}

// PutBack gives a setting its old value once nobody wants the new one any more, and says
// what became of it.
func (k *Keeper) PutBack(netns uint32, name, by string) (found string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.find(netns, name)
	if c == nil {
		return name + " was so before", nil
	}
	if i := slices.Index(c.wanted, by); i >= 0 {
		c.wanted = slices.Delete(c.wanted, i, i+1)
	}
	if len(c.wanted) > 0 {
		return fmt.Sprintf("%s stays %s: another group wants it, too", name, c.New), nil
	}
	return k.putBack(c)
}

// putBack gives a setting its old value, if the present one is still the one that was set.
func (k *Keeper) putBack(c *Changed) (found string, err error) {
	err = k.namespaces.In(c.Netns, func(cookie uint64) error {
		if c.NetnsCookie != 0 && cookie != c.NetnsCookie {
			found = c.Name + " is gone with its network namespace"
			return nil
		}
		now, err := k.read(c.Name)
		switch {
		case err != nil:
			return err
		case now != c.New:
			found = fmt.Sprintf("%s is %s by now, which is not ours, and stays so", c.Name, now)
			return nil
		}
		found = fmt.Sprintf("put back %s to %s", c.Name, c.Old)
		return k.write(c.Name, c.Old)
	})
	if err != nil {
		return "", err // it stays in the file: the next start tries again
	}
	k.forget(c)
	return found, k.save()
}

// Left returns the settings that an earlier run of this boot has left changed. It is called
// before any is set.
func (k *Keeper) Left() (all []Changed, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err = k.load()
	for _, c := range k.sets {
		all = append(all, *c)
	}
	return all, err
}

// PutBackLeft puts back one of those.
func (k *Keeper) PutBackLeft(left *Changed) (found string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.find(left.Netns, left.Name); c != nil {
		return k.putBack(c)
	}
	return "", nil
}

func (k *Keeper) find(netns uint32, name string) *Changed {
	for _, c := range k.sets {
		if c.Netns == netns && c.Name == name {
			return c
		}
	}
	return nil
}

func (k *Keeper) forget(c *Changed) {
	k.sets = slices.DeleteFunc(k.sets, func(other *Changed) bool { return other == c })
}

// save writes what is changed, a line of JSON each, and has it outlast a power cut.
func (k *Keeper) save() error {
	if k.dir == nil {
		return nil
	}
	var text []byte
	for _, c := range k.sets {
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	f, err := k.dir.Replace(fileName, 0, func(f *os.File) error {
		_, err := f.Write(text)
		return errors.Join(err, f.Sync())
	})
	f.Close() // nil is closed, too
	return err
}

// load reads what an earlier run of this boot has left. What cannot be read is lost.
func (k *Keeper) load() error {
	if k.dir == nil {
		return nil
	}
	f, err := k.dir.OpenFile(fileName, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(f); err != nil {
		return err
	}
	for line := range bytes.Lines(text.Bytes()) {
		c := &Changed{}
		if json.Unmarshal(line, c) == nil && c.BootID == k.bootID && proper(c.Name) {
			k.sets = append(k.sets, c)
		}
	}
	return nil
}

// proper reports whether a name can only mean a setting of a network namespace.
func proper(name string) bool {
	return strings.HasPrefix(name, "net.") && !strings.ContainsAny(name, "/\x00") && !strings.Contains(name, "..")
}

func (k *Keeper) path(name string) string { return k.root + "/" + strings.ReplaceAll(name, ".", "/") }

// read reads a setting as sysctl(8) shows it, with one space between numbers.
func (k *Keeper) read(name string) (string, error) {
	text, err := os.ReadFile(k.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s does not exist here: this kernel, or this network namespace, has no such setting", name)
	}
	return strings.Join(strings.Fields(string(text)), " "), err
}

// write sets a setting.
func (k *Keeper) write(name, value string) error {
	f, err := os.OpenFile(k.path(name), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value + "\n")
		err = errors.Join(err, f.Close())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%s cannot be set: %s is mounted read-only; in a unit write ProtectKernelTunables=no, in a pod securityContext: {privileged: true}", name, k.root)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s cannot be set: %w; it takes root, or CAP_NET_ADMIN over the network namespace", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s cannot be set: the kernel does not take %q", name, value)
	}
	return fmt.Errorf("set %s: %w", name, err)
}
