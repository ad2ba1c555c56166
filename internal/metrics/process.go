package metrics

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

// started is when the process began, to within a few milliseconds.
var started = time.Now()

// process is what is read of sockdog's own process for a scrape.
type process struct {
	runtime.MemStats
	syscall.Rusage
	virtual, resident, open, limit float64 // NaN: could not be read
}

// processFamilies are the metrics of the process and of Go's runtime, named as the
// Prometheus client for Go names them.
var processFamilies = []family[process]{
	{"go_info", gauge, "The version of Go; always 1.", []string{"version"}, func(_ *process, out *exposition) { out.sample(1, runtime.Version()) }},
	{"go_gc_duration_seconds", summary, "How long garbage collections stopped the program.", []string{"quantile"}, writePauses},
	single("go_goroutines", gauge, "Goroutines that exist.", func(*process) float64 { return float64(runtime.NumGoroutine()) }),
	single("go_gc_gomemlimit_bytes", gauge, "The memory limit of Go's runtime (GOMEMLIMIT).", func(*process) float64 { return float64(debug.SetMemoryLimit(-1)) }),
	single("go_memstats_alloc_bytes", gauge, "Heap in use, and not yet freed.", func(p *process) float64 { return float64(p.Alloc) }),
	single("go_memstats_alloc_bytes_total", counter, "Heap that was ever allocated.", func(p *process) float64 { return float64(p.TotalAlloc) }),
	single("go_memstats_frees_total", counter, "Heap objects that were ever freed.", func(p *process) float64 { return float64(p.Frees) }),
	single("go_memstats_heap_alloc_bytes", gauge, "Heap in use, and not yet freed.", func(p *process) float64 { return float64(p.HeapAlloc) }),
	single("go_memstats_heap_idle_bytes", gauge, "Heap that waits to be used.", func(p *process) float64 { return float64(p.HeapIdle) }),
	single("go_memstats_heap_inuse_bytes", gauge, "Heap in spans that are in use.", func(p *process) float64 { return float64(p.HeapInuse) }),
	single("go_memstats_heap_objects", gauge, "Heap objects.", func(p *process) float64 { return float64(p.HeapObjects) }),
	single("go_memstats_heap_released_bytes", gauge, "Heap that was given back to the system.", func(p *process) float64 { return float64(p.HeapReleased) }),
	single("go_memstats_heap_sys_bytes", gauge, "Heap that was obtained from the system.", func(p *process) float64 { return float64(p.HeapSys) }),
	single("go_memstats_last_gc_time_seconds", gauge, "When the last garbage collection ended.", func(p *process) float64 { return float64(p.LastGC) / 1e9 }),
	single("go_memstats_mallocs_total", counter, "Heap objects that were ever allocated.", func(p *process) float64 { return float64(p.Mallocs) }),
	single("go_memstats_next_gc_bytes", gauge, "Heap size at which the next garbage collection begins.", func(p *process) float64 { return float64(p.NextGC) }),
	single("go_memstats_stack_inuse_bytes", gauge, "Stacks of goroutines.", func(p *process) float64 { return float64(p.StackInuse) }),
	single("go_memstats_sys_bytes", gauge, "Memory that was obtained from the system.", func(p *process) float64 { return float64(p.Sys) }),
	single("go_sched_gomaxprocs_threads", gauge, "Threads that may run Go at once (GOMAXPROCS).", func(*process) float64 { return float64(runtime.GOMAXPROCS(0)) }),
	single("process_cpu_seconds_total", counter, "User and system CPU time.", func(p *process) float64 { return float64(p.Utime.Nano()+p.Stime.Nano()) / 1e9 }),
	single("process_max_fds", gauge, "File descriptors that may be open.", func(p *process) float64 { return p.limit }),
	single("process_open_fds", gauge, "File descriptors that are open.", func(p *process) float64 { return p.open }),
	single("process_resident_memory_bytes", gauge, "Resident memory.", func(p *process) float64 { return p.resident }),
	single("process_start_time_seconds", gauge, "When the process started.", func(*process) float64 { return seconds(started) }),
	single("process_virtual_memory_bytes", gauge, "Virtual memory.", func(p *process) float64 { return p.virtual }),
}

func writePauses(_ *process, out *exposition) {
	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	for i, pause := range gc.PauseQuantiles {
		out.sample(pause.Seconds(), format(float64(i)/4))
	}
	out.line("_sum", nil, nil, gc.PauseTotal.Seconds())
	out.line("_count", nil, nil, float64(gc.NumGC))
}

func readProcess() *process {
	p := &process{virtual: math.NaN(), resident: math.NaN(), open: math.NaN(), limit: math.NaN()}
	runtime.ReadMemStats(&p.MemStats)
	syscall.Getrusage(syscall.RUSAGE_SELF, &p.Rusage) // fails for wrong arguments only
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		var virtual, resident float64 // in pages
		if _, err := fmt.Sscan(string(text), &virtual, &resident); err == nil {
			size := float64(os.Getpagesize())
			p.virtual, p.resident = virtual*size, resident*size
		}
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.open = float64(len(fds))
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		p.limit = float64(limit.Cur)
	}
	return p
}
