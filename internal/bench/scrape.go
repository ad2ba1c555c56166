package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// perSecond is how many scrapes there are beside the kills.
const perSecond = 500

// scrape measures how late sockets die with nobody scraping and with many, and what
// that costs, with this build of sockdog and with another turn by turn.
func (b *bench) scrape() error {
	builds := []string{b.sockdog}
	fmt.Printf("\n| 1,000 falling due, the median of %d runs: lateness of 50, 99 and all of 100 at most, CPU | this build |", b.rounds)
	if b.against != "" {
		builds = append(builds, b.against)
		fmt.Printf(" %s |", filepath.Base(b.against))
	}
	fmt.Println("\n|---" + strings.Repeat("|---", len(builds)) + "|")
	took := make(map[string][]lateness)
	var scrapes []int64
	for range b.rounds {
		for _, scraped := range []bool{false, true} {
			for _, build := range builds {
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
				key := fmt.Sprint(build, scraped)
				took[key] = append(took[key], l)
				if scraped {
					scrapes = append(scrapes, int64(float64(n.Load())/time.Since(began).Seconds()))
				}
			}
		}
	}
	for _, scraped := range []bool{false, true} {
		what := "nobody scrapes"
		if scraped {
			what = fmt.Sprint(median(scrapes), " scrapes a second")
		}
		fmt.Print("| ", what)
		for _, build := range builds {
			fmt.Print(" | ", medians(took[fmt.Sprint(build, scraped)]))
		}
		fmt.Println(" |")
	}
	return nil
}

func medians(all []lateness) string {
	of := func(value func(lateness) float64) float64 {
		values := make([]float64, len(all))
		for i, l := range all {
			values[i] = value(l)
		}
		return median(values)
	}
	return fmt.Sprintf("%.1f ms, %.1f ms, %.1f ms, %.1f %% of a core",
		of(func(l lateness) float64 { return ms(l.half) }), of(func(l lateness) float64 { return ms(l.most) }),
		of(func(l lateness) float64 { return ms(l.all) }), 100*of(func(l lateness) float64 { return l.cores }))
}

// scrapeUntil scrapes perSecond times a second as Prometheus does, and counts the
// answers. Who scrapes waits for one before the next.
func scrapeUntil(ctx context.Context, n *atomic.Int64) {
	const scrapers = 50
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: scrapers, DisableCompression: true}}
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	defer all.Wait()
	for range scrapers {
		all.Go(func() {
			tick := time.NewTicker(scrapers * time.Second / perSecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9797/metrics", nil)
				if err != nil {
					return
				}
				request.Header.Set("Accept-Encoding", "gzip")
				answer, err := client.Do(request)
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
