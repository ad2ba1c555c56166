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
	// 0: the own one. It hands over the cookie of it, 0 where there is none. The error is
	// os.ErrNotExist where the namespace is gone.
	In(netns uint32, do func(cookie uint64) error) error
}

// Settings are those that are set, and how they were before. They are for concurrent use.
type Settings struct {
	namespaces Namespaces
	root       string // where /proc/sys is
	bootID     string

	mu   sync.Mutex
	dir  *statedir.Dir // nil: there is none
	sets []*Changed
}

const fileName = "sysctls"

// New returns Settings that remember in dir what was changed; nil: in memory only.
func New(namespaces Namespaces, root, bootID string, dir *statedir.Dir) *Settings {
	return &Settings{namespaces: namespaces, root: root, bootID: bootID, dir: dir}
}

// Set gives a setting a value for as long as somebody wants that, and says what it was.
func (s *Settings) Set(netns uint32, name, value, rule, by string) (old string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.find(netns, name); c != nil {
		if c.New != value {
			return "", fmt.Errorf("%s: the rule %q has set it to %s, and it is one setting", name, c.Rule, c.New)
		}
		c.wanted = append(c.wanted, by)
		return c.Old, nil
	}
	err = s.namespaces.In(netns, func(cookie uint64) error {
		if old, err = s.read(name); err != nil || old == value {
			return err
		}
		c := &Changed{BootID: s.bootID, Netns: netns, NetnsCookie: cookie, Name: name, Old: old, New: value, Rule: rule, wanted: []string{by}}
		s.sets = append(s.sets, c)
		if err := s.save(); err != nil {
			s.forget(c)
			return fmt.Errorf("what it was is not in the state directory, so that a crash would leave it changed: %w", err)
		}
		if err := s.write(name, value); err != nil {
			s.forget(c)
			return errors.Join(err, s.save())
		}
		return nil
	})
	return old, err
}

// PutBack gives a setting its old value once nobody wants the new one any more, and says
// what became of it.
func (s *Settings) PutBack(netns uint32, name, by string) (found string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.find(netns, name)
	if c == nil {
		return name + " was so before", nil
	}
	if i := slices.Index(c.wanted, by); i >= 0 {
		c.wanted = slices.Delete(c.wanted, i, i+1)
	}
	if len(c.wanted) > 0 {
		return fmt.Sprintf("%s stays %s: another group wants it, too", name, c.New), nil
	}
	return s.putBack(c)
}

// putBack gives a setting its old value, if the present one is still the one that was set.
func (s *Settings) putBack(c *Changed) (found string, err error) {
	err = s.namespaces.In(c.Netns, func(cookie uint64) error {
		if c.NetnsCookie != 0 && cookie != c.NetnsCookie {
			return os.ErrNotExist
		}
		now, err := s.read(c.Name)
		switch {
		case err != nil:
			return err
		case now != c.New:
			found = fmt.Sprintf("%s is %s by now, which is not ours, and stays so", c.Name, now)
			return nil
		}
		found = fmt.Sprintf("put back %s to %s", c.Name, c.Old)
		return s.write(c.Name, c.Old)
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		found = c.Name + " is gone with its network namespace"
	case err != nil:
		return "", err // it stays in the file: the next start tries again
	}
	s.forget(c)
	return found, s.save()
}

// Left returns the settings that an earlier run of this boot has left changed. It is called
// before any is set.
func (s *Settings) Left() (all []Changed, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.load()
	for _, c := range s.sets {
		all = append(all, *c)
	}
	return all, err
}

// PutBackLeft puts back one of those.
func (s *Settings) PutBackLeft(left *Changed) (found string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.find(left.Netns, left.Name); c != nil {
		return s.putBack(c)
	}
	return "", nil
}

func (s *Settings) find(netns uint32, name string) *Changed {
	for _, c := range s.sets {
		if c.Netns == netns && c.Name == name {
			return c
		}
	}
	return nil
}

func (s *Settings) forget(c *Changed) {
	s.sets = slices.DeleteFunc(s.sets, func(other *Changed) bool { return other == c })
}

// save writes what is changed, a line of JSON each, and has it outlast a power cut.
func (s *Settings) save() error {
	if s.dir == nil {
		return nil
	}
	var text []byte
	for _, c := range s.sets {
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	f, err := s.dir.Replace(fileName, 0, func(f *os.File) error {
		_, err := f.Write(text)
		return errors.Join(err, f.Sync())
	})
	f.Close() // nil is closed, too
	return err
}

// load reads what an earlier run of this boot has left. What cannot be read is lost.
func (s *Settings) load() error {
	if s.dir == nil {
		return nil
	}
	f, err := s.dir.OpenFile(fileName, os.O_RDONLY)
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
		if json.Unmarshal(line, c) == nil && c.BootID == s.bootID && proper(c.Name) {
			s.sets = append(s.sets, c)
		}
	}
	return nil
}

// proper reports whether a name can only mean a setting of a network namespace.
func proper(name string) bool {
	return strings.HasPrefix(name, "net.") && !strings.ContainsAny(name, "/\x00") && !strings.Contains(name, "..")
}

func (s *Settings) path(name string) string { return s.root + "/" + strings.ReplaceAll(name, ".", "/") }

// read reads a setting as sysctl(8) shows it, with one space between numbers.
func (s *Settings) read(name string) (string, error) {
	text, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s does not exist here: this kernel, or this network namespace, has no such setting", name)
	}
	return strings.Join(strings.Fields(string(text)), " "), err
}

// write sets a setting.
func (s *Settings) write(name, value string) error {
	f, err := os.OpenFile(s.path(name), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value + "\n")
		err = errors.Join(err, f.Close())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%s cannot be set: %s is mounted read-only; in a unit write ProtectKernelTunables=no, in a pod securityContext: {privileged: true}", name, s.root)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s cannot be set: %w; it takes root, or CAP_NET_ADMIN over the network namespace", name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s cannot be set: the kernel does not take %q", name, value)
	}
	return fmt.Errorf("set %s: %w", name, err)
}
