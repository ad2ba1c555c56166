package daemon

import (
	"time"

	"github.com/sockdog/sockdog/internal/sock"
)

// Ages is where it is shown what observation knows of the ages of sockets, which
// other commands would otherwise know less of.
type Ages interface {
	// Show puts up what is known, which is not changed after, of how many sockets
	// more something is known, and for how long nothing newer is made. It must not
	// wait.
	Show(memories []sock.Memory, left int, lasts time.Duration)
	// Asked is ready when somebody asks, and nothing lasts that was shown.
	Asked() <-chan struct{}
}

// mostAges bounds what is shown: it is copied in the loop, and 80 bytes each.
const mostAges = 1 << 14

// showAges shows what is known of ages, to who has asked.
func (d *watch) showAges() {
	began := d.Now()
	memories, left := d.engine.Ages(mostAges, d.Stuck)
	d.Ages.Show(memories, left, showGap(d.Now().Sub(began)))
}
