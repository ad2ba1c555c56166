package ssfilter

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"
)

// cgroup holds where the socket belongs to the cgroup of that path, which is not
// to say to one below it. The path is rooted at that of cgroup2, and clean.
type cgroup string

func (g cgroup) Eval(c *Conn) Tri {
	if c.Cgroup == "" {
		return Unknown
	}
	return TriOf(c.Cgroup == string(g))
}

func (g cgroup) String() string { return text(g) }

func (g cgroup) print(b *strings.Builder, _ form) { g.printOp(b, "=") }

func (g cgroup) printOp(b *strings.Builder, op string) {
	name := string(g)
	if cleanCgroup(name) != g { // it is called like a mount point
		name = "/sys/fs/cgroup" + name
	}
	fmt.Fprintf(b, "cgroup %s %s", op, name)
}

func (g cgroup) compile(prog *program, reject label) {
	id, known := prog.names.CgroupID(string(g))
	if !known {
		prog.emit(opJump, nil, reject)
		return
	}
	prog.emit(opCgroup, binary.NativeEndian.AppendUint64(nil, id), reject)
}

// cleanCgroup makes of what people write the path below the cgroup2 root, which
// is mounted at either of two places.
func cleanCgroup(text string) cgroup {
	clean := path.Clean("/" + text)
	for _, mount := range []string{"/sys/fs/cgroup", "/unified"} {
		below, ok := strings.CutPrefix(clean, mount)
		if !ok || below != "" && below[0] != '/' {
			break
		}
		clean = "/" + strings.TrimPrefix(below, "/")
	}
	return cgroup(clean)
}
