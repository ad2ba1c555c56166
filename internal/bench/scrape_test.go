package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkScrapes is how late sockets die with nobody scraping and with many, and what
// that costs.
func BenchmarkScrapes(b *testing.B) {
	for _, scraped := range []bool{false, true} {
		b.Run(fmt.Sprint("scraped=", scraped), func(b *testing.B) {
			builds := builds(b)
			late := make(map[string]*lateness)
			var scrapes []float64 // a second
			for b.Loop() {
				for name, build := range builds {
					var n atomic.Int64
					beside := func(context.Context) {}
					if scraped {
						beside = func(ctx context.Context) { scrapeUntil(ctx, &n) }
					}
					if late[name] == nil {
						late[name] = &lateness{}
					}
					began := time.Now()
					late[name].measure(b, variant{build: build}, false, 5*time.Second, beside)
					scrapes = append(scrapes, float64(n.Load())/time.Since(began).Seconds())
				}
			}
			report(b, "scrapes/s", scrapes)
			for name, l := range late {
				l.report(b, name)
			}
		})
	}
}

// scrapeUntil scrapes 500 times a second as Prometheus does, and counts the answers.
// Who scrapes waits for one before the next.
func scrapeUntil(ctx context.Context, n *atomic.Int64) {
	const scrapers, every = 50, 100 * time.Millisecond
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: scrapers, DisableCompression: true}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9797/metrics", nil)
	if err != nil {
		panic(err) // not with this URL
	}
	request.Header.Set("Accept-Encoding", "gzip")
	var all sync.WaitGroup
	defer all.Wait()
	for range scrapers {
		all.Go(func() {
			for tick := time.Tick(every); ctx.Err() == nil; <-tick {
				answer, err := client.Do(request.Clone(ctx))
				if err != nil {
					continue
				}
				if _, err := io.Copy(io.Discard, answer.Body); err == nil && answer.StatusCode == http.StatusOK {
					n.Add(1)
				}
				answer.Body.Close()
			}
		})
	}
}
