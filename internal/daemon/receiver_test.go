package daemon_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/sockdog/sockdog/internal/nstest"
)

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
