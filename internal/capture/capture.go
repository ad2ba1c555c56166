// Package capture records scans of the socket table into a file, for a time.
package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Source is what is recorded.
type Source struct {
	Now  func() sock.Instant
	Scan func(q sock.Query, each func(s *sock.Socket, got sock.Instant)) error
	// Ports and Pressure are what namespaces have and are short of. What cannot be read is not
	// known.
	Ports    func() (map[uint32]sock.Ports, error)
	Pressure func() (sock.Pressure, error)
	// Holders finds who holds inodes, and how many descriptors those use; nil: it is not asked
	// for.
	Holders func(inodes map[uint32]struct{}) (holders.Found, map[recording.Process]float64, error)
	Means   func(s *sock.Socket) bool // of those that the query means
}

// Plan is what is asked for.
type Plan struct {
	Query      sock.Query
	For, Every time.Duration
	MaxSize    int64 // bytes
}

// Progress is how far a recording has come.
type Progress struct {
	Scans, Failed, Sockets int
	Size                   int64
	Took                   time.Duration
}

// errFull says that a recording has ended before its time.
type errFull struct{ of int64 }

func (e errFull) Error() string {
	return fmt.Sprintf("the recording ended early: one scan more would exceed --max-size (%s); add --max-size, a filter or a longer --every", Bytes(e.of))
}

// Bytes is a size as people write it.
func Bytes(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

// Record writes scans to the file until the time is over, ctx is, or the file is full, and
// keeps it then. Each scan is told to tell. The error of a scan ends it only before the first
// one; the file is whole whatever has ended it, as far as it can still be written to.
func Record(ctx context.Context, f *File, h recording.Header, mask *recording.Mask, from Source, p Plan, tell func(Progress, error)) (Progress, error) {
	w, err := recording.NewWriter(f, h, mask)
	if err != nil {
		f.Drop()
		return Progress{}, err
	}
	r := recorder{Source: from, plan: p, writer: w}
	err = r.run(ctx, tell)
	if r.progress.Scans == 0 { // there is nothing to keep
		f.Drop()
		return r.progress, err
	}
	// What was written of the last scan would be read as damage.
	err = errors.Join(err, f.Cut(w.Size()))
	if ending := w.Close(r.progress.Failed); ending != nil && err == nil {
		err = ending
	}
	r.progress.Size = w.Size()
	return r.progress, errors.Join(err, f.Keep())
}

// recorder is a recording under way.
type recorder struct {
	Source
	plan     Plan
	writer   *recording.Writer
	progress Progress
}

func (r *recorder) run(ctx context.Context, tell func(Progress, error)) error {
	began := r.Now()
	end := began.Add(r.plan.For)
	for next := began; ; {
		before := r.writer.Size()
		failed, err := r.scan()
		if err != nil {
			return err
		}
		now := r.Now()
		r.progress.Size, r.progress.Took = r.writer.Size(), now.Sub(began)
		if tell(r.progress, failed); failed != nil && r.progress.Scans == 0 {
			return failed
		}
		if r.writer.Size()+(r.writer.Size()-before) > r.plan.MaxSize {
			return errFull{r.plan.MaxSize}
		}
		// A scan that takes longer than the time between two is followed by the next at once.
		if next = max(next.Add(r.plan.Every), now); next > end {
			next = end
		}
		if now >= end {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next.Sub(now)):
		}
	}
}

// scan makes a scan and writes it. That a scan failed does not end a recording.
func (r *recorder) scan() (failed, err error) {
	var s recording.Scan
	s.Ports, _ = r.Ports() // else they are not known
	if pressure, err := r.Pressure(); err == nil {
		s.Pressure = &pressure
	}
	inodes := make(map[uint32]struct{})
	r.writer.Begin()
	s.Sent = r.Now()
	failed = r.Scan(r.query(), func(one *sock.Socket, got sock.Instant) {
		if !r.Means(one) {
			return
		}
		r.writer.Take(one, got)
		if r.Holders != nil && one.Inode != 0 {
			inodes[one.Inode] = struct{}{}
		}
	})
	s.Got, s.Wall = r.Now(), time.Now()
	if failed == nil && r.Holders != nil {
		var found holders.Found
		found, s.FDUsage, failed = r.Holders(inodes)
		s.Holders, s.Complete, s.Settled = found.Holders, found.Complete, found.Settled
	}
	if failed != nil {
		r.progress.Failed++
		return failed, nil
	}
	if err := r.writer.End(s); err != nil {
		return nil, err
	}
	r.progress.Scans, r.progress.Sockets = r.writer.Scans(), r.writer.Sockets()
	return nil, nil
}

// query is what is asked for, and asks besides whether the kernel chose each port, which it
// tells in no other way. That holds of every socket.
func (r *recorder) query() sock.Query {
	q := r.plan.Query
	every := ssfilter.Ports(ssfilter.Src, ssfilter.PortRange{First: 0, Last: 65535})
	q.Where = ssfilter.And(q.Where, ssfilter.Or(every, ssfilter.Autobound()))
	return q
}
