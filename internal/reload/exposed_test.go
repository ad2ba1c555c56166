package reload

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Who can change the rules decides what is killed: the file, a directory on the way
// to it and one behind a link are all scanned.
func TestExposed(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(dir string) error
		want string // within what is said; "": nothing is
	}{
		{name: "closed"},
		{"the file", func(dir string) error { return os.Chmod(dir+"/conf.d/rules.yaml", 0o646) }, "everybody may write to DIR/conf.d/rules.yaml (-rw-r--rw-)"},
		{"its directory", func(dir string) error { return os.Chmod(dir+"/conf.d", 0o777) }, "everybody may write to DIR/conf.d (-rwxrwxrwx)"},
		{"a directory above", func(dir string) error { return os.Chmod(dir, 0o757) }, "everybody may write to DIR (-rwxr-xrwx)"},
		{"a sticky directory", func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, ""},
		{"behind a link", func(dir string) error {
			if err := os.Rename(dir+"/conf.d", dir+"/real"); err != nil {
				return err
			}
			if err := os.Symlink("../"+filepath.Base(dir)+"/real", dir+"/conf.d"); err != nil {
				return err
			}
			return os.Chmod(dir+"/real", 0o777)
		}, "everybody may write to DIR/real (-rwxrwxrwx)"},
		{"not there", func(dir string) error { return os.Remove(dir + "/conf.d/rules.yaml") }, ""},
		{"a loop", func(dir string) error {
			if err := os.Remove(dir + "/conf.d/rules.yaml"); err != nil {
				return err
			}
			return os.Symlink("rules.yaml", dir+"/conf.d/rules.yaml")
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etc")
			for _, name := range []string{dir, dir + "/conf.d"} {
				if err := os.Mkdir(name, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			path := dir + "/conf.d/rules.yaml"
			if err := os.WriteFile(path, []byte("rules: []\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if test.make != nil {
				if err := test.make(dir); err != nil {
					t.Fatal(err)
				}
			}
			got, cure := Exposed(path)
			if want := strings.ReplaceAll(test.want, "DIR", dir); got != want || (cure == "") != (want == "") {
				t.Errorf("got %q, cure %q, want %q", got, cure, want)
			}
		})
	}
}

func TestWriters(t *testing.T) {
	dir := t.TempDir()
	user, group := uint32(os.Geteuid()), uint32(os.Getegid())
	nobodys := "" // in a user namespace that does not know him
	if knowsAll() {
		nobodys = "user"
	}
	for _, test := range []struct {
		name string
		stat unix.Stat_t
		want string
	}{
		{"root's", unix.Stat_t{Mode: unix.S_IFREG | 0o644}, ""},
		{"its own", unix.Stat_t{Mode: unix.S_IFREG | 0o644, Uid: user, Gid: group}, ""},
		{"the group root's", unix.Stat_t{Mode: unix.S_IFREG | 0o664}, ""},
		{"another user's", unix.Stat_t{Mode: unix.S_IFREG | 0o600, Uid: user + 1000}, "user"},
		{"nobody's", unix.Stat_t{Mode: unix.S_IFREG | 0o644, Uid: nobody}, nobodys},
		{"another group's", unix.Stat_t{Mode: unix.S_IFREG | 0o664, Gid: group + 1000}, "group"},
		{"another group's to read", unix.Stat_t{Mode: unix.S_IFREG | 0o640, Gid: group + 1000}, ""},
		{"a sticky directory of another user", unix.Stat_t{Mode: unix.S_IFDIR | unix.S_ISVTX | 0o755, Uid: user + 1000}, "user"},
		{"a sticky directory", unix.Stat_t{Mode: unix.S_IFDIR | unix.S_ISVTX | 0o777}, ""},
	} {
		got, _ := writers(dir, &test.stat)
		if test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q in it", test.name, got, test.want)
		}
	}
}

// In a container owners may be unknown, and a read-only mount, such as that of a ConfigMap, is nobody's to write to.
func TestExposedInContainer(t *testing.T) {
	if !inside(t) {
		return
	}
	dir := t.TempDir()
	// Of whom this user namespace does not know, nothing is said.
	if got, _ := writers(dir, &unix.Stat_t{Mode: unix.S_IFREG | 0o644, Uid: nobody, Gid: nobody}); got != "" {
		t.Errorf("a file of a user who is not known: %q", got)
	}
	write(t, dir+"/rules.yaml", "rules: []")
	must(t, os.Chmod(dir, 0o777))
	if got, _ := Exposed(dir + "/rules.yaml"); got == "" {
		t.Error("a directory that everybody may write to is not said to be one")
	}
	must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	must(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	if got, _ := Exposed(dir + "/rules.yaml"); got != "" {
		t.Errorf("read-only: %q", got)
	}
}
