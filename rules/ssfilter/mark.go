package ssfilter

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// mark holds where the bits of SO_MARK that mask has are those of value.
type mark struct{ value, mask uint32 }

func (m mark) Eval(c *Conn) Tri {
	if !c.HasMark {
		return Unknown
	}
	return TriOf(c.Mark&m.mask == m.value)
}

func (m mark) String() string { return text(m) }

func (m mark) print(b *strings.Builder, _ form) { m.printOp(b, "=") }

func (m mark) printOp(b *strings.Builder, op string) {
	fmt.Fprintf(b, "fwmark %s 0x%x", op, m.value)
	if m.mask != math.MaxUint32 {
		fmt.Fprintf(b, "/0x%x", m.mask)
	}
}

// compile appends a struct inet_diag_markcond.
func (m mark) compile(prog *program, reject label) {
	operand := binary.NativeEndian.AppendUint32(nil, m.value)
	prog.emit(opMark, binary.NativeEndian.AppendUint32(operand, m.mask), reject)
}

// parseMark reads a mark, which may have a mask after a slash, in C's numbers.
func parseMark(text string) (mark, error) {
	value, mask, masked := strings.Cut(text, "/")
	m := mark{mask: math.MaxUint32}
	var err error
	if m.value, err = parseBits(value); err == nil && masked {
		m.mask, err = parseBits(mask)
	}
	return m, err
}

func parseBits(text string) (uint32, error) {
	if isNumber(text) {
		if n, err := strconv.ParseUint(text, 0, 32); err == nil {
			return uint32(n), nil
		}
	}
	return 0, fmt.Errorf("%s is not a mark: write a number from 0 to 0xffffffff, and a mask after a slash if need be", quote(text))
}
