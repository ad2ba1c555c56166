package daemon

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
)

// Actions that do not end are told of once, and so is their end; several plans that
// end one after the other are no such actions.
func TestActionsThatDoNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		now := func() sock.Instant { return sock.Instant(1 + time.Since(began)) }
		log := &logged{since: began}
		d := &watch{Options: Options{Now: now}, log: newLogQueue(slog.New(log), now)}
		until := func(seconds int) {
			time.Sleep(time.Duration(seconds)*time.Second - time.Since(began))
			synctest.Wait()
		}
		said := func(want ...string) {
			t.Helper()
			log.mu.Lock()
			defer log.mu.Unlock()
			if diff := cmp.Diff(want, log.lines); diff != "" {
				t.Fatalf("log (-want +got):\n%s", diff)
			}
		}
		const stuck, ended = "1m50s ERROR action does not end; no other is done", "10m0s WARN action ended; others are done again"
		until(1)
		d.acting()
		until(2)
		d.acting()
		until(50)
		d.acted()
		until(109) // the second plan began when the first ended
		said()
		until(110)
		said(stuck)
		until(600)
		said(stuck)
		d.acted()
		until(700)
		d.acting()
		until(701)
		d.acted()
		until(1000)
		d.log.close(logEnd)
		said(stuck, ended)
	})
}
