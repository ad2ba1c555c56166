package recording

import (
	"encoding/binary"
	"math"
)

// parser takes values off the content of a frame. After the first that makes no sense, all are
// 0.
type parser struct {
	b   []byte
	err error
}

func (p *parser) fail() {
	if p.err == nil {
		p.err = errContent
	}
	p.b = nil
}

// number takes an unsigned number, which is not above most.
func (p *parser) number(most uint64) uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 || v > most {
		p.fail()
		return 0
	}
	p.b = p.b[n:]
	return v
}

// signed takes a number with a sign.
func (p *parser) signed() int64 {
	v, n := binary.Varint(p.b)
	if n <= 0 {
		p.fail()
		return 0
	}
	p.b = p.b[n:]
	return v
}

// count takes how many of something follow, each of a byte at least.
func (p *parser) count(most int) int {
	n := p.number(uint64(max(0, most)))
	if n > uint64(len(p.b)) {
		p.fail()
		return 0
	}
	return int(n)
}

// flags takes a byte of which some bits may be set.
func (p *parser) flags(may byte) byte {
	if len(p.b) == 0 || p.b[0]&^may != 0 {
		p.fail()
		return 0
	}
	v := p.b[0]
	p.b = p.b[1:]
	return v
}

// percent takes a floating-point number that is not negative.
func (p *parser) percent() float64 {
	if len(p.b) < 8 {
		p.fail()
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(p.b))
	if p.b = p.b[8:]; !(v >= 0) || math.IsInf(v, 1) {
		p.fail()
		return 0
	}
	return v
}

// text takes a text.
func (p *parser) text() string {
	n := p.count(maxText)
	s := string(p.b[:n])
	p.b = p.b[n:]
	return s
}

// done returns what was wrong, something left over included.
func (p *parser) done() error {
	if len(p.b) > 0 {
		p.fail()
	}
	return p.err
}
