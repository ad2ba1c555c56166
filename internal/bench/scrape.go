package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// scrape measures how late sockets die with nobody scraping and with many, and what
// that costs.
func (b *bench) scrape() error {
	builds := b.builds(fmt.Sprintf("1,000 falling due, the median of %d runs: lateness of 50, 99 and all of 100 at most, CPU", b.rounds))
	for _, scraped := range []bool{false, true} {
		took := make([][4][]float64, len(builds)) // the values of lateness, one for each round
		var scrapes []int64
		for range b.rounds {
			for i, build := range builds {
				var n atomic.Int64
				beside := func(context.Context) {}
				if scraped {
					beside = func(ctx context.Context) { scrapeUntil(ctx, &n) }
				}
				began := time.Now()
				l, err := b.lateness(build, 5*time.Second, beside)
				if err != nil {
					return err
				}
				for k, value := range []float64{ms(l.half), ms(l.most), ms(l.all), 100 * l.cores} {
					took[i][k] = append(took[i][k], value)
				}
				scrapes = append(scrapes, int64(float64(n.Load())/time.Since(began).Seconds()))
			}
		}
		fmt.Printf("| %d scrapes a second", median(scrapes))
		for _, of := range took {
			fmt.Printf(" | %.1f ms, %.1f ms, %.1f ms, %.1f %% of a core", median(of[0]), median(of[1]), median(of[2]), median(of[3]))
		}
		fmt.Println(" |")
	}
	return nil
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
