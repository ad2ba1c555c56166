package ssfilter

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
)

// ErrTooLarge is returned for an expression whose program would cost the kernel
// more than it saves: dump without one and match with Eval.
var ErrTooLarge = errors.New("filter too large for the kernel: match in user space")

// Names knows the numbers by which the kernel knows devices and cgroups. Where it
// does not know one, there is none of that name, and no socket is bound to it.
type Names interface {
	DeviceIndex(name string) (index uint32, ok bool)
	CgroupID(path string) (id uint64, ok bool)
}

// maxProgram is the longest program that Compile makes. A netlink attribute
// carries four times that, but inet_diag_bc_audit walks the program anew for
// each of its jumps and at every dump: 16 KiB take it 4 ms, 64 KiB 78 ms.
const maxProgram = 16 << 10

// Compile turns e into a program for the attribute INET_DIAG_REQ_BYTECODE, in
// the machine's byte order. With it the kernel selects the sockets for which Eval
// is True, dual-stack ones included. For the kernel nothing is Unknown: it knows
// the marks of all and who chose their ports, and to it a minisocket belongs to no
// cgroup. The one error is ErrTooLarge.
//
// Ports and addresses are known to every kernel with inet_diag, dev from 4.8 on,
// fwmark from 4.9 on and only with CAP_NET_ADMIN, cgroup from 5.8 on. Any other
// kernel refuses the program with EINVAL, without that capability with EPERM.
//
// e must not be nil: every socket needs no program. Names may be nil where e names
// neither a device nor a cgroup.
func Compile(e Expr, names Names) ([]byte, error) {
	p := program{names: names}
	reject := p.newLabel()
	e.compile(&p, reject)
	if len(p.code) == 0 {
		p.emit(opNop, nil, reject) // inet_diag_bc_audit refuses an empty program
	}
	if len(p.code) > maxProgram {
		return nil, ErrTooLarge
	}
	p.labels[reject] = len(p.code) + opSize // one past the end is inet_diag_bc_run's no
	for _, j := range p.jumps {
		binary.NativeEndian.PutUint16(p.code[j.from+2:], uint16(p.labels[j.to]-j.from))
	}
	return p.code, nil
}

// Operations of struct inet_diag_bc_op, include/uapi/linux/inet_diag.h.
// INET_DIAG_BC_S_EQ and D_EQ are left out: they came with 4.16.
const (
	opNop    = 0
	opJump   = 1
	opSGE    = 2
	opSLE    = 3
	opDGE    = 4
	opDLE    = 5
	opAuto   = 6
	opSCond  = 7
	opDCond  = 8
	opDevice = 9
	opMark   = 10
	opCgroup = 13
)

// opSize is the size of struct inet_diag_bc_op: code u8, yes u8, no u16.
const opSize = 4

// Address families of struct inet_diag_hostcond.
const (
	afUnspec = 0
	afInet   = 2
	afInet6  = 10
)

// program is bytecode in the making. An operation that holds goes on to the
// next one; one that does not jumps forward to a label.
type program struct {
	names  Names
	code   []byte
	jumps  []jump
	labels []int // where in code each stands
}

type (
	label int
	jump  struct {
		from int // where in code its operation stands
		to   label
	}
)

func (p *program) newLabel() label {
	p.labels = append(p.labels, 0)
	return label(len(p.labels) - 1)
}

// place puts l where the next operation will stand.
func (p *program) place(l label) { p.labels[l] = len(p.code) }

// emit appends an operation with its operand.
func (p *program) emit(code uint8, operand []byte, no label) {
	p.jumps = append(p.jumps, jump{len(p.code), no})
	p.code = append(p.code, code, uint8(opSize+len(operand)), 0, 0)
	p.code = append(p.code, operand...)
}

// compare appends a comparison; its port stands in the no of a second operation.
func (p *program) compare(code uint8, port uint16, no label) {
	p.emit(code, binary.NativeEndian.AppendUint16([]byte{0, 0}, port), no)
}

// cond appends a struct inet_diag_hostcond for any port (-1) or any address.
func (p *program) cond(side Side, family, bits uint8, port int32, addr []byte, no label) {
	code := uint8(opSCond)
	if side == Dst {
		code = opDCond
	}
	operand := binary.NativeEndian.AppendUint32([]byte{family, bits, 0, 0}, uint32(port))
	p.emit(code, append(operand, addr...), no)
}

// prefix appends the test of an address. The kernel applies an IPv4 prefix to
// dual-stack sockets with mapped addresses too.
func (p *program) prefix(side Side, prefix netip.Prefix, no label) {
	family := uint8(afInet)
	if prefix.Addr().Is6() {
		family = afInet6
	}
	p.cond(side, family, uint8(prefix.Bits()), -1, prefix.Addr().AsSlice(), no)
}

func (list and) compile(prog *program, reject label) {
	for _, x := range list {
		x.compile(prog, reject)
	}
}

func (list or) compile(prog *program, reject label) {
	accept := prog.newLabel()
	last := len(list) - 1
	for _, x := range list[:last] {
		next := prog.newLabel()
		x.compile(prog, next)
		prog.emit(opJump, nil, accept)
		prog.place(next)
	}
	list[last].compile(prog, reject)
	prog.place(accept)
}

func (n not) compile(prog *program, reject label) {
	accept := prog.newLabel()
	n.x.compile(prog, accept)
	prog.emit(opJump, nil, reject)
	prog.place(accept)
}

func (h hosts) compile(prog *program, reject label) {
	if h.all() {
		return
	}
	if alternatives, ok := h.spelled().(or); ok {
		alternatives.compile(prog, reject)
		return
	}
	prefix := h.prefixes[0]
	prog.prefix(h.side, prefix, reject)
	if prefix.Contains(mapped.Addr()) {
		// The kernel finds the mapped addresses in this prefix; to Eval they are
		// IPv4 and not in it.
		not{hosts{h.side, []netip.Prefix{anyIPv4}}}.compile(prog, reject)
	}
}

func (p ports) compile(prog *program, reject label) {
	if len(p.ranges) == 0 {
		prog.emit(opJump, nil, reject)
		return
	}
	p.search(prog, p.ranges, 0, reject)
}

// known appends an operation on something that the kernel calls by a number; where
// nothing has the name, no socket has it either.
func (p *program) known(ok bool, code uint8, operand []byte, no label) {
	if !ok {
		code, operand = opJump, nil
	}
	p.emit(code, operand, no)
}

func (d device) compile(prog *program, reject label) {
	index, known := d.index, true
	if d.name != "" {
		index, known = prog.names.DeviceIndex(d.name)
	}
	prog.known(known, opDevice, binary.NativeEndian.AppendUint32(nil, index), reject)
}

// compile appends a struct inet_diag_markcond.
func (m mark) compile(prog *program, reject label) {
	operand := binary.NativeEndian.AppendUint32(nil, m.value)
	prog.emit(opMark, binary.NativeEndian.AppendUint32(operand, m.mask), reject)
}

func (g cgroup) compile(prog *program, reject label) {
	id, known := prog.names.CgroupID(string(g))
	prog.known(known, opCgroup, binary.NativeEndian.AppendUint64(nil, id), reject)
}

func (autobound) compile(prog *program, reject label) { prog.emit(opAuto, nil, reject) }

// search appends a binary search for the port among ranges, where the port is
// known to be at least floor. The kernel runs it for each socket that it walks:
// with a list of alternatives, a thousand ports would cost a thousand steps.
func (p ports) search(prog *program, ranges []PortRange, floor uint16, reject label) {
	ge, le := uint8(opSGE), uint8(opSLE)
	if p.side == Dst {
		ge, le = opDGE, opDLE
	}
	if n := len(ranges); n > 1 {
		upper := ranges[n/2:]
		lower, accept := prog.newLabel(), prog.newLabel()
		prog.compare(ge, upper[0].First, lower)
		p.search(prog, upper, upper[0].First, reject)
		prog.emit(opJump, nil, accept)
		prog.place(lower)
		p.search(prog, ranges[:n/2], floor, reject)
		prog.place(accept)
		return
	}
	r := ranges[0]
	if r.First == r.Last && r.First > floor && r.Last < math.MaxUint16 {
		prog.cond(p.side, afUnspec, 0, int32(r.First), nil, reject) // 12 bytes, where two comparisons take 16
		return
	}
	if r.First > floor {
		prog.compare(ge, r.First, reject)
	}
	if r.Last < math.MaxUint16 {
		prog.compare(le, r.Last, reject)
	}
}
