package events

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// FlagOlder has the connections of the calling thread's network namespace followed that are
// not yet: those that began before Attach, and those that another program took the flag from.
// One that is in a wanted state already is entered in the table, with the time unknown. It
// must be called again after Want wants more, for those that are in such a state already.
//
// It says how many it flagged, and how many refused. It takes CAP_PERFMON and BTF to load,
// and Linux 6.12 to work: where the kernel refuses, the error says so, and WhyNoFlag from then
// on. It visits every socket of the namespace under its lock, so it must be rare.
func (p *Programs) FlagOlder() (flagged, refused int, err error) {
	if err := p.WhyNoFlag(); err != nil {
		return 0, 0, err
	}
	var why unix.Errno
	err = p.read(func(fds *descriptors) int { return fds.flagOlder }, 4, func(record []byte) {
		if refusal := int32(binary.NativeEndian.Uint32(record)); refusal == 0 { // it is tried
			flagged++
		} else {
			flagged, refused, why = flagged-1, refused+1, unix.Errno(-refusal)
		}
	})
	if err != nil {
		return 0, 0, fmt.Errorf("flag older connections: %w", err)
	}
	if refused == 0 {
		return flagged, 0, nil
	}
	err = fmt.Errorf("flag older connections: the kernel refuses %d: %w", refused, why)
	if errors.Is(why, unix.EINVAL) {
		err = fmt.Errorf("flag older connections: %w (Linux can since 6.12)", why)
		p.why.Lock()
		p.whyFlag = err
		p.why.Unlock()
	}
	return flagged, refused, err
}
