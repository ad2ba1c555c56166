// Package journal records every action as a line of JSON in a state directory:
// the intent before the act, the outcome after, so that a crash between them
// shows. It rotates its files itself, and never holds half a line.
package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	fileName = "sockdog.jsonl"

	maxSize = 16 << 20 // a file that has grown to this is rotated away
	keep    = 5        // how many such files are kept: fileName.1, the newest, to .5

	// chunk bounds the memory of a write; a batch of kills fits in one.
	chunk = 256 << 10
	// syncDelay is how long lines may gather for one fsync.
	syncDelay = 500 * time.Millisecond
)

// Journal is an open journal, safe for concurrent use.
type Journal struct {
	dir string

	mu      sync.Mutex
	file    *os.File
	size    int64
	maxSize int64
	torn    bool                // the file ends in half a line that could not be cut off
	seq     uint64              // the last one given away
	open    map[uint64]struct{} // intents in the file that have no outcome there
	owed    []Record            // outcomes of such intents that could not be written
	buf     []byte
	closed  bool
	unsynced

	dirty   chan struct{} // holds one word for the syncer: there is something to do
	done    chan struct{}
	stopped chan struct{}
}

// unsynced is what the syncer has still to do, or to tell.
type unsynced struct {
	retired []*os.File // rotated away, to be synced and closed
	written bool       // to the file in use
	named   bool       // the directory has a new name in it
	err     error      // of an fsync, until an Append returns it
}

// Open opens the journal in the existing directory dir. Intents that its last
// writer left without an outcome get one, Interrupted at the instant now; Open
// returns those outcomes too. The caller sees to it that only one process has
// the journal open.
func Open(dir string, now time.Time) (*Journal, []Record, error) {
	j := &Journal{
		dir:     dir,
		maxSize: maxSize,
		open:    make(map[uint64]struct{}),
		dirty:   make(chan struct{}, 1),
		done:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	interrupted, err := j.start(now)
	if err != nil {
		if j.file != nil {
			j.file.Close()
		}
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	go j.syncer()
	return j, interrupted, nil
}

func (j *Journal) start(now time.Time) ([]Record, error) {
	if err := j.create(); err != nil {
		return nil, err
	}
	left, err := scan(j.file)
	if err != nil {
		return nil, err
	}
	if err := j.file.Truncate(left.size); err != nil {
		return nil, err
	}
	j.size, j.seq = left.size, left.seq
	j.named = left.size == 0
	if j.seq == 0 {
		// A fresh file after a rotation: count on, so that numbers rarely recur.
		if j.seq, err = lastSeq(j.path(1)); err != nil {
			return nil, err
		}
	}
	interrupted, err := left.interrupted(j.file, now)
	if err != nil {
		return nil, err
	}
	for i := range interrupted {
		j.open[interrupted[i].Seq] = struct{}{}
	}
	j.owed = interrupted
	_ = j.settle() // on a full disk they stay owed, and the next Append says why
	return interrupted, nil
}

// Append writes the records, in order. It gives each Intent among them its Seq,
// for the outcome to carry. After an error the journal is whole and stays
// usable: what could be written is there, and outcomes of recorded intents are
// tried again with the next Append.
func (j *Journal) Append(records []Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return fmt.Errorf("journal: %w", os.ErrClosed)
	}
	errs := []error{j.unsynced.err}
	j.unsynced.err = nil
	for i := range records {
		if records[i].Result == Intent {
			j.seq++
			records[i].Seq = j.seq
		}
	}
	// Only the file in use is searched for open intents, so it keeps them.
	if j.size >= j.maxSize && len(j.open) == 0 {
		errs = append(errs, j.rotate())
	}
	err := j.settle()
	if err == nil {
		var n int
		n, err = j.write(records)
		records = records[n:]
	}
	for _, r := range records {
		if _, recorded := j.open[r.Seq]; recorded && r.Result != Intent {
			j.owed = append(j.owed, r)
		}
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// settle writes the outcomes that are owed.
func (j *Journal) settle() error {
	n, err := j.write(j.owed)
	j.owed = j.owed[n:]
	if len(j.owed) == 0 {
		j.owed = nil
	}
	return err
}

// write appends records and returns how many are in the file now, in whole
// lines.
func (j *Journal) write(records []Record) (int, error) {
	written := 0
	for written < len(records) {
		j.buf = j.buf[:0]
		for i := written; i < len(records) && len(j.buf) < chunk; i++ {
			j.buf = append(records[i].append(j.buf), '\n')
		}
		n, err := j.writeLines()
		for _, r := range records[written : written+n] {
			if r.Result == Intent {
				j.open[r.Seq] = struct{}{}
			} else {
				delete(j.open, r.Seq)
			}
		}
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// writeLines writes buf and returns how many of its lines are in the file. It
// cuts off what an error leaves of a line. It does not reckon with the size of
// the file, which somebody may have truncated to make room.
func (j *Journal) writeLines() (int, error) {
	if j.torn {
		if _, err := j.file.Write(newline); err != nil {
			return 0, err
		}
		j.torn = false
	}
	n, err := j.file.Write(j.buf)
	whole := n
	if err != nil {
		whole = bytes.LastIndexByte(j.buf[:n], '\n') + 1
		if cutErr := cut(j.file, n-whole); cutErr != nil {
			j.torn = true
			err = errors.Join(err, cutErr)
		}
	}
	j.size += int64(whole)
	if whole > 0 {
		j.written = true
		j.wake()
	}
	return bytes.Count(j.buf[:whole], newline), err
}

var newline = []byte{'\n'}

// cut takes the last n bytes off f.
func cut(f *os.File, n int) error {
	if n == 0 {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return f.Truncate(info.Size() - int64(n))
}

// rotate begins a new file. The rotated ones move on only as far as the first
// free name, so that attempts which fail halfway lose none of them.
func (j *Journal) rotate() error {
	free := 1
	for free < keep {
		_, err := os.Lstat(j.path(free))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		free++
	}
	for ; free > 0; free-- {
		if err := os.Rename(j.path(free-1), j.path(free)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	old := j.file
	if err := j.create(); err != nil {
		return errors.Join(err, os.Rename(j.path(1), j.path(0)))
	}
	j.size, j.torn = 0, false
	j.retired, j.written, j.named = append(j.retired, old), false, true
	j.wake()
	return nil
}

// create opens the file in use, and makes it where there is none.
func (j *Journal) create() error {
	f, err := os.OpenFile(j.path(0), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	j.file = f
	return nil
}

// path is the file that was rotated away n times.
func (j *Journal) path(n int) string {
	path := filepath.Join(j.dir, fileName)
	if n > 0 {
		path += "." + strconv.Itoa(n)
	}
	return path
}

// wake tells the syncer that there is something to do.
func (j *Journal) wake() {
	select {
	case j.dirty <- struct{}{}:
	default: // it knows
	}
}

// syncer makes what is written outlast a power cut, soon: an fsync can take
// seconds on a busy disk, and no act waits for it.
func (j *Journal) syncer() {
	defer close(j.stopped)
	for {
		select {
		case <-j.dirty:
		case <-j.done:
			j.sync()
			return
		}
		select {
		case <-time.After(syncDelay):
		case <-j.done:
		}
		j.sync()
	}
}

func (j *Journal) sync() {
	j.mu.Lock()
	work, file := j.unsynced, j.file
	j.unsynced = unsynced{err: work.err}
	j.mu.Unlock()

	var errs []error
	for _, old := range work.retired {
		errs = append(errs, old.Sync(), old.Close())
	}
	if work.written {
		errs = append(errs, file.Sync())
	}
	if work.named {
		errs = append(errs, syncDir(j.dir))
	}
	if err := errors.Join(errs...); err != nil {
		j.mu.Lock()
		j.unsynced.err = fmt.Errorf("lines may not outlast a power cut: %w", err)
		j.mu.Unlock()
	}
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Close writes what is owed, syncs and closes the journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	err := j.settle()
	j.mu.Unlock()

	close(j.done)
	<-j.stopped
	err = errors.Join(err, j.unsynced.err, j.file.Close())
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}
