package daemon

import (
	"github.com/sockdog/sockdog/internal/engine/spin"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/sock"
)

// FDUsage reads how many of the descriptors that they may have the holders use, in percent.
func FDUsage(found map[uint32][]sock.Holder, read func(h sock.Holder) (holders.Descriptors, error)) map[spin.Process]float64 {
	usage := make(map[spin.Process]float64)
	tried := make(map[spin.Process]bool)
	for _, held := range found {
		for i := range held {
			p := spin.Process{PID: held[i].PID, Start: held[i].Start}
			if tried[p] {
				continue
			}
			tried[p] = true
			switch fds, err := read(held[i]); {
			case err != nil: // it has ended, or is not to be read
			case fds.Limit == 0: // none
				usage[p] = 0
			default:
				usage[p] = 100 * float64(fds.Used) / float64(fds.Limit)
			}
		}
	}
	return usage
}
