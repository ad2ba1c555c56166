package ssfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// device holds where the socket is bound to one device, by SO_BINDTODEVICE or by
// the scope of a link-local address; device{} where it is bound to none.
type device struct {
	name  string // "": the device of that index
	index uint32
}

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

func (d device) String() string { return text(d) }

func (d device) print(b *strings.Builder, _ form) { d.printOp(b, "=") }

func (d device) printOp(b *strings.Builder, op string) {
	name := d.name
	if name == "" {
		name = strconv.FormatUint(uint64(d.index), 10)
	}
	fmt.Fprintf(b, "dev %s %s", op, name)
}

func (d device) compile(prog *program, reject label) {
	index, known := d.index, true
	if d.name != "" {
		index, known = prog.names.DeviceIndex(d.name)
	}
	if !known {
		prog.emit(opJump, nil, reject)
		return
	}
	prog.emit(opDevice, binary.NativeEndian.AppendUint32(nil, index), reject)
}

// parseDevice reads the name of a device or, where it is a number, its index.
func parseDevice(text string) (device, error) {
	if isNumber(text) {
		n, err := strconv.ParseUint(text, 0, 31)
		if err == nil {
			return device{index: uint32(n)}, nil
		}
		if isDecimal(text) || errors.Is(err, strconv.ErrRange) {
			return device{}, fmt.Errorf("%s is not the index of a device: write a number up to %d, or its name", quote(text), 1<<31-1)
		}
		// Names may begin with a digit, as 6in4-wan does.
	}
	// As dev_valid_name of the kernel does; 16 is IFNAMSIZ.
	if text == "" || len(text) >= 16 || text == "." || text == ".." || strings.ContainsAny(text, "/:") {
		return device{}, fmt.Errorf("%s is not the name of a device: it has up to 15 characters, and neither : nor /", quote(text))
	}
	if text == "*" {
		return device{}, fmt.Errorf("* is not the name of a device: for sockets that are bound to any, write dev != 0")
	}
	return device{name: text}, nil
}
