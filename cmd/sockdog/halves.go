package main

import (
	"errors"
	"runtime"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// halves splits what may be most of the sockets in two that take about as long to
// dump; false: it is not worth it, for each half walks the whole table. Each socket
// is in one half, as long as it keeps its ports. One that is bound and not yet
// connected has but one of them: both halves could miss it, where it connects
// between their walks.
func halves(q sock.Query) (two [2]sock.Query, ok bool) {
	if q.Where != nil || !q.States.Has(ssfilter.Established) || q.States.Has(ssfilter.BoundInactive) {
		return two, false
	}
	// A server has one port and its peers many, a client the other way round: only
	// both ends together tell half of the sockets from the other half for either.
	const width = 1 << 13 // every ephemeral range in use has several
	var odd []ssfilter.PortRange
	for first := width; first < 1<<16; first += 2 * width {
		odd = append(odd, ssfilter.PortRange{First: uint16(first), Last: uint16(first + width - 1)})
	}
	src, dst := ssfilter.Ports(ssfilter.Src, odd...), ssfilter.Ports(ssfilter.Dst, odd...)
	alike := ssfilter.Or(ssfilter.And(src, dst), ssfilter.And(ssfilter.Not(src), ssfilter.Not(dst)))
	return [2]sock.Query{{States: q.States, Where: alike}, {States: q.States, Where: ssfilter.Not(alike)}}, true
}

// looker fills a crowd, and hands over its pages as they are full.
type scanner func(kernel daemon.Kernel, q sock.Query, c *crowd, full func(page []row)) error

// scanInHalves looks at each half on a thread and a netlink socket of its own: most
// of the time that a scan takes is the kernel's, within our calls. What is found is
// prepared, and not kept.
func (l *listing) scanInHalves(two [2]sock.Query, scan scanner) error {
	// A thread gives up its turn while the kernel walks, and takes it up again at once
	// if there is one to spare.
	turns := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(turns)
	runtime.GOMAXPROCS(turns + len(two))
	var crowds [2]crowd
	half := func(kernel daemon.Kernel, i int) error {
		c := &crowds[i]
		c.clear()
		err := scan(kernel, two[i], c, func(page []row) {
			l.prepare(c, page)
			c.recycle(page)
		})
		for _, page := range c.pages {
			l.prepare(c, page)
		}
		return err
	}
	other := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the capability ends with the thread
		kernel, err := l.host.openKernel()
		if err == nil {
			err = errors.Join(half(kernel, 1), kernel.Close())
		}
		other <- err
	}()
	err, also := half(l.kernel, 0), <-other
	l.crowd.size = crowds[0].size + crowds[1].size
	l.crowd.states = crowds[0].states | crowds[1].states
	l.crowd.remarks = crowds[0].remarks || crowds[1].remarks
	if err != nil {
		return err
	}
	return also
}
