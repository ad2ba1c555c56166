package daemon_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/nstest"
)

// postedAlert is what an Alertmanager gets.
type postedAlert struct {
	Labels, Annotations map[string]string
	StartsAt, EndsAt    time.Time
}

// alertmanager takes alerts as an Alertmanager does, the first of which the function waits for.
func (w *world) alertmanager() (url string, next func() postedAlert) {
	posted := make(chan postedAlert, 100)
	url = w.serve(func(_ http.ResponseWriter, r *http.Request) {
		var alerts []postedAlert
		if err := json.NewDecoder(r.Body).Decode(&alerts); err != nil || r.URL.Path != "/api/v2/alerts" {
			w.Errorf("posted to %s: %v", r.URL.Path, err)
		}
		for _, a := range alerts {
			posted <- a
		}
	})
	return url, func() postedAlert {
		w.Helper()
		select {
		case a := <-posted:
			return a
		case <-time.After(patience):
			w.Fatalf("nothing was posted within %v; the log:\n%s", patience, w.log.String())
			return postedAlert{}
		}
	}
}

// A log that hangs just when a receiver is lost keeps nobody from being told.
func TestLogHangsWhileReceiverIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var hangs atomic.Bool
	proceed := make(chan struct{})
	w.Cleanup(func() { close(proceed) })
	w.options.Log = slog.New(slog.NewJSONHandler(pipe(func(p []byte) (int, error) {
		if hangs.Load() {
			<-proceed
		}
		return w.log.Write(p)
	}), nil))
	var posts atomic.Int32
	url := w.serve(func(rw http.ResponseWriter, _ *http.Request) {
		hangs.Store(true)
		if posts.Add(1) == 1 {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	w.leak(w.listen(nstest.V4, 5432))
	w.watch(often + fmt.Sprintf(`
receivers: {chat: {webhook: {url: %q}}}
rules: [{name: leak, match: {state: close-wait}, when: count > 0, then: alert}]
`, url))
	w.until("second try", func() bool { return posts.Load() > 1 })
}
