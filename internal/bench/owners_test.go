package bench

import (
	"os/exec"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/source/events"
)

// BenchmarkOwners finds who holds 1,200 stuck sockets among the descriptors of the table's
// holders, by one pass of the kernel over all descriptors, beside ss -p.
func BenchmarkOwners(b *testing.B) {
	needEvents(b)
	sockdog(b) // whose table is full
	const held = 1200
	leak := leaking(b, held)
	defer leak.end()
	var inodes []uint32
	for _, s := range leak.stuck {
		inode, err := s.Inode()
		if err != nil {
			b.Fatal(err)
		}
		inodes = append(inodes, inode)
	}
	programs, err := events.Load(1)
	if err != nil {
		b.Fatal(err)
	}
	defer programs.Close()
	var byPass, bySs []float64
	for b.Loop() {
		began := time.Now()
		owners, err := programs.Owners(inodes)
		byPass = append(byPass, ms(time.Since(began)))
		if err != nil || len(owners) != held {
			b.Fatalf("%d owners, want %d; error %v", len(owners), held, err)
		}
		began = time.Now()
		if err := exec.Command("ss", "-Htnp", "state", "close-wait").Run(); err != nil {
			b.Fatal(err)
		}
		bySs = append(bySs, ms(time.Since(began)))
	}
	b.ReportMetric(report(b, "owners-ms", byPass)/report(b, "ss-p-ms", bySs), "ratio")
}
