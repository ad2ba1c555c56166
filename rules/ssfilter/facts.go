package ssfilter

import (
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
)

// Conditions on what a socket has beside addresses and ports.
type (
	// device holds where the socket is bound to one device, by SO_BINDTODEVICE or by
	// the scope of a link-local address; device{} where it is bound to none.
	device struct {
		name  string // "": the device of that index
		index uint32
	}

	// mark holds where the bits of SO_MARK that mask has are those of value.
	mark struct{ value, mask uint32 }

	// cgroup holds where the socket belongs to the cgroup of that path, which is not
	// to say to one below it. The path is rooted at that of cgroup2, and clean.
	cgroup string

	// autobound holds where the kernel chose the local port.
	autobound struct{}
)

// Autobound holds where no bind(2) of this very socket named the local port, that
// is where SOCK_BINDPORT_LOCK is not among its sk_userlocks. Accepted sockets are
// therefore autobound (sk_clone drops that lock), and so are minisockets, which
// have no locks.
func Autobound() Expr { return autobound{} }

func (d device) Eval(c *Conn) Tri {
	switch {
	case d.name == "":
		return TriOf(c.Iface == d.index)
	case c.Iface == 0:
		return False
	case c.Device == "":
		return Unknown
	case c.Device == d.name:
		return True
	case c.AltNames == UnknownNames:
		return Unknown
	}
	return TriOf(c.AltNames != "" && strings.Contains(c.AltNames, " "+d.name+" "))
}

func (m mark) Eval(c *Conn) Tri {
	if !c.HasMark {
		return Unknown
	}
	return TriOf(c.Mark&m.mask == m.value)
}

func (g cgroup) Eval(c *Conn) Tri {
	if c.Cgroup == "" {
		return Unknown
	}
	return TriOf(c.Cgroup == string(g))
}

func (autobound) Eval(c *Conn) Tri { return c.Autobound }

func (d device) words() []string {
	name := d.name
	if name == "" {
		name = strconv.FormatUint(uint64(d.index), 10)
	}
	return []string{"dev", "=", name}
}

func (m mark) words() []string {
	value := fmt.Sprintf("0x%x", m.value)
	if m.mask != math.MaxUint32 {
		value += fmt.Sprintf("/0x%x", m.mask)
	}
	return []string{"fwmark", "=", value}
}

func (g cgroup) words() []string {
	name := string(g)
	if cleanCgroup(name) != g { // it is called like a mount point
		name = "/sys/fs/cgroup" + name
	}
	return []string{"cgroup", "=", name}
}

func (autobound) words() []string { return []string{"autobound"} }

// parseDevice reads the name of a device or, where it is a number, its index.
func parseDevice(text string) (Expr, error) {
	n, err := number(text, 31)
	switch {
	case err == nil:
		return device{index: uint32(n)}, nil
	case isDecimal(text), errors.Is(err, strconv.ErrRange):
		return nil, fmt.Errorf("%s is not the index of a device: write a number up to %d, or its name", quote(text), 1<<31-1)
	// As dev_valid_name of the kernel does; 16 is IFNAMSIZ. Names may begin with a
	// digit, as 6in4-wan does.
	case text == "", len(text) >= 16, text == ".", text == "..", strings.ContainsAny(text, "/:"):
		return nil, fmt.Errorf("%s is not the name of a device: it has up to 15 characters, and neither : nor /", quote(text))
	case text == "*":
		return nil, fmt.Errorf("* is not the name of a device: for sockets that are bound to any, write dev != 0")
	}
	return device{name: text}, nil
}

// parseMark reads a mark, which may have a mask after a slash, in C's numbers.
func parseMark(text string) (Expr, error) {
	numbers := [...]uint32{0, math.MaxUint32}
	for i, part := range strings.SplitN(text, "/", len(numbers)) {
		n, err := number(part, 32)
		if err != nil {
			return nil, fmt.Errorf("%s is not a mark: write a number from 0 to 0xffffffff, and a mask after a slash if need be", quote(part))
		}
		numbers[i] = uint32(n)
	}
	return mark{numbers[0], numbers[1]}, nil
}

// CgroupPath makes of what people write the path of a cgroup as Conn has it.
func CgroupPath(text string) string { return string(cleanCgroup(text)) }

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
