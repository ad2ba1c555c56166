package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// stormed is how many sockets are due at once, and stormKilled how many of them the limit
	// of all rules lets go in the first minute.
	stormed     = 50_000
	stormKilled = 5_000
	// stormHolders hold them: together, as a process may have 20,000 descriptors.
	stormHolders = 4
)

// BenchmarkStorm is what memory sockdog has resident at most while 50,000 sockets that a rule
// kills fall due at once, with the first 5,000 killed and the others waiting for the limit.
// It finds them when it starts, or sees them appear and fall due.
func BenchmarkStorm(b *testing.B) {
	for _, found := range []bool{true, false} {
		b.Run(fmt.Sprint("found=", found), func(b *testing.B) {
			all := variants(b)
			peak := make([][]float64, len(all))
			for b.Loop() {
				for i, v := range all {
					peak[i] = append(peak[i], storm(b, v, found)/1e6)
				}
			}
			for i, v := range all {
				report(b, v.name+"MB-at-most", peak[i])
			}
		})
	}
}

// storm returns the most bytes that one of them had resident; found: the sockets are there
// when it starts.
func storm(b *testing.B, v variant, found bool) float64 {
	var holders []*holding
	defer func() {
		for _, h := range holders {
			h.end()
		}
	}()
	stuck := func(what string) (sum int) {
		for _, h := range holders {
			n, err := h.order(what)
			if err != nil {
				b.Fatal(err)
			}
			sum += n
		}
		return sum
	}
	for range stormHolders {
		h, err := startHolder(0, stormed/stormHolders, nil)
		if err != nil {
			b.Fatal(err)
		}
		holders = append(holders, h)
	}
	if found {
		stuck(orderLeak)
	}
	s := start(b, v.build, "", "state: close-wait, in_state_for: 1s", append(v.flags, "--listen", "off", "--state-dir", b.TempDir())...)
	drained := make(chan struct{})
	go func() { s.drain(); close(drained) }()
	defer func() { s.end(); <-drained }()
	if !found {
		stuck(orderLeak)
	}
	for deadline := time.Now().Add(2 * time.Minute); stuck(orderCount) > stormed-stormKilled; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			b.Fatal("it does not kill what it may")
		}
	}
	time.Sleep(5 * time.Second) // a summary of those that wait
	most, err := s.mostResident()
	if err != nil {
		b.Fatal(err)
	}
	return most
}

// mostResident is VmHWM in bytes.
func (s *started) mostResident() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	_, rest, found := strings.Cut(string(text), "VmHWM:")
	if err != nil || !found {
		return 0, errors.Join(err, errors.New("no VmHWM"))
	}
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	return kb * 1024, err
}
