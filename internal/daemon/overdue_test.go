package daemon

import (
	"log/slog"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
)

// Kills that do not end are told of once, and so is their end; several plans that
// end one after the other are no such kills.
func TestKillsThatDoNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logged{since: time.Now()}
		d := &watch{log: newLogQueue(slog.New(log), func() sock.Instant { return 0 })}
		n := newNamespace(Namespace{})
		at := func(seconds int) sock.Instant { return sock.Instant(time.Duration(seconds) * time.Second) }
		n.acting(at(1))
		n.acting(at(2))
		if next := d.sayStalled(n, at(3)); next != at(61) {
			t.Errorf("to be seen again at %v, want %v", next, at(61))
		}
		d.acted(n, at(50))
		if next := d.sayStalled(n, at(100)); next != at(110) {
			t.Errorf("then at %v, want %v: the second plan began when the first ended", next, at(110))
		}
		for _, second := range []int{110, 111, 500} {
			if next := d.sayStalled(n, at(second)); next != math.MaxInt64 {
				t.Errorf("said, and to be seen again at %v", next)
			}
		}
		d.acted(n, at(600))
		n.acting(at(700))
		d.acted(n, at(701))
		d.sayStalled(n, at(1000))
		d.log.close(logEnd)
		want := []string{"0s ERROR kill does not end; no other kill is made", "0s WARN kill ended; others are made again"}
		if diff := cmp.Diff(want, log.lines); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}
