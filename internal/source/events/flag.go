package events

import (
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
	p.pass.Lock()
	defer p.pass.Unlock()
	type sums struct {
		flagged, refused uint64
		why              int64
	}
	var before, after sums
	err = p.use(func(fds *descriptors) error {
		var first uint32
		if err := lookup(fds.flags, &first, &before); err != nil {
			return err
		}
		if err := readIter(fds.flagOlder, make([]byte, 1), func([]byte) {}); err != nil {
			return err
		}
		return lookup(fds.flags, &first, &after)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("flag older connections: %w", err)
	}
	flagged, refused = int(after.flagged-before.flagged), int(after.refused-before.refused)
	if refused == 0 {
		return flagged, 0, nil
	}
	why := unix.Errno(-after.why)
	err = fmt.Errorf("flag older connections: the kernel refuses %d: %w", refused, why)
	if errors.Is(why, unix.EINVAL) {
		err = fmt.Errorf("flag older connections: %w (Linux can since 6.12)", why)
		p.why.Lock()
		p.whyFlag = err
		p.why.Unlock()
	}
	return flagged, refused, err
}
