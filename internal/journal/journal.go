// Package journal records every action as a line of JSON in a state directory:
// the intent before the act, the outcome after, so that a crash between them
// shows. It rotates its files itself, and never holds half a line.
package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sockdog/sockdog/internal/statedir"
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
	dir *statedir.Dir

	mu      sync.Mutex
	file    *os.File
	size    int64
	maxSize int64
	torn    bool              // the file ends in half a line that could not be cut off
	seq     atomic.Uint64     // the last one given away
	open    map[uint64]Record // intents in the file that have no outcome there
	owed    []Record          // outcomes of such intents that could not be written
	buf     []byte
	closed  bool
	unsynced

	timer   *time.Timer // has all that synced
	syncing sync.Mutex  // held for the length of an fsync, which can take seconds on a busy disk
}

// unsynced is what does not outlast a power cut yet, or is still to be told.
type unsynced struct {
	retired []*os.File // rotated away, to be synced and closed
	named   bool       // the directory has a new name in it
	soon    bool       // something was written, and the timer is set
	err     error      // of an fsync, until an Append returns it
}

// Left is what the last writer of a journal left without an outcome.
type Left struct {
	Interrupted []Record // the outcomes that intents got now
	Newer       int      // intents of a newer sockdog, which get none
}

// Open opens the journal in dir. Intents that its last writer left without an
// outcome get one, Interrupted at the instant now.
func Open(dir *statedir.Dir, now time.Time) (*Journal, Left, error) {
	j := &Journal{
		dir:     dir,
		maxSize: maxSize,
		open:    make(map[uint64]Record),
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.timer = time.AfterFunc(syncDelay, j.sync)
	left, err := j.start(now)
	if err != nil {
		j.timer.Stop()
		j.file.Close() // nil is closed, too
		return nil, Left{}, err
	}
	return j, left, nil
}

func (j *Journal) start(now time.Time) (result Left, err error) {
	if j.file, err = j.openFile(); err != nil {
		return Left{}, err
	}
	left, err := scan(j.file)
	if err != nil {
		return Left{}, err
	}
	if err := j.file.Truncate(left.size); err != nil {
		return Left{}, err
	}
	j.size = left.size
	j.named = left.size == 0
	seq := left.seq
	if seq == 0 {
		// A fresh file after a rotation: count on, so that numbers rarely recur.
		if seq, err = lastSeq(j.dir); err != nil {
			return Left{}, err
		}
	}
	j.seq.Store(seq)
	intents, newer := left.open()
	for _, r := range intents {
		j.open[r.Seq] = r
		r.Time, r.Result, r.Reason = now, Interrupted, "sockdog ended before the outcome was known"
		j.owed = append(j.owed, r)
	}
	result = Left{Interrupted: j.owed, Newer: newer}
	_ = j.add(nil) // on a full disk they stay owed, and the next Append says why
	return result, nil
}

// NextSeq returns a Seq for an Intent that is about to be appended, and for its
// outcome to carry. It never waits: not for a disk that hangs under an Append.
func (j *Journal) NextSeq() uint64 { return j.seq.Add(1) }

// Append writes the records, in order. It gives each Intent among them a Seq, if it
// has none. After an error the journal is whole and stays
// usable: what could be written is there, and outcomes of recorded intents are
// tried again with the next Append.
func (j *Journal) Append(records []Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return fmt.Errorf("the journal is closed: %w", os.ErrClosed)
	}
	for i := range records {
		if records[i].Result == Intent && records[i].Seq == 0 {
			records[i].Seq = j.NextSeq()
		}
	}
	err := errors.Join(j.unsynced.err, j.follow())
	j.unsynced.err = nil
	return errors.Join(err, j.add(records))
}

// add writes what is owed and then the records. Of those that find no room, the
// outcomes of recorded intents are owed. Nothing is written to a file without a name,
// which nobody would read; follow has said why it is still the one in use.
func (j *Journal) add(records []Record) (err error) {
	if len(j.owed) > 0 {
		records = append(j.owed, records...)
		j.owed = nil
	}
	if !statedir.Nameless(j.file) {
		var n int
		n, err = j.write(records)
		records = records[n:]
	}
	for _, r := range records {
		if _, recorded := j.open[r.Seq]; recorded && r.Result != Intent {
			j.owed = append(j.owed, r)
		}
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
				j.open[r.Seq] = r
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
		j.syncSoon()
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

// follow begins a new file where the one in use is full, or stands under its name
// no more because somebody removed it, or its directory.
func (j *Journal) follow() error {
	there, err := j.dir.Holds(fileName, j.file)
	if err != nil || there && j.size < j.maxSize {
		return err
	}
	// The new file begins with the open intents: only the file in use is searched for
	// them after a crash.
	var text []byte
	for _, seq := range slices.Sorted(maps.Keys(j.open)) {
		r := j.open[seq]
		text = append(r.append(text), '\n')
	}
	next, err := j.dir.Replace(fileName, os.O_APPEND, func(f *os.File) error {
		_, err := f.Write(text)
		if err == nil && there {
			err = j.moveAway()
		}
		return err
	})
	if err != nil {
		return err
	}
	j.retired, j.named = append(j.retired, j.file), true
	j.file, j.size, j.torn = next, int64(len(text)), false
	j.syncSoon()
	return nil
}

// moveAway moves the file in use away. Those that were moved away before move on as far
// as the first free name, so that attempts which end halfway lose none of them.
func (j *Journal) moveAway() error {
	free := 1
	for free < keep {
		f, err := j.dir.OpenFile(name(free), os.O_RDONLY)
		f.Close() // nil is closed, too
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		free++
	}
	for n := free; n > 0; n-- {
		if err := j.dir.Rename(name(n-1), name(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// openFile opens the file in use. A crash can leave it moved away without a new one.
func (j *Journal) openFile() (*os.File, error) {
	const flag = os.O_RDWR | os.O_APPEND
	f, err := j.dir.OpenFile(fileName, flag)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := j.dir.Rename(name(1), fileName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return j.dir.OpenFile(fileName, flag|os.O_CREATE)
}

// name is that of the file that was rotated away n times.
func name(n int) string {
	if n == 0 {
		return fileName
	}
	return fileName + "." + strconv.Itoa(n)
}

// syncSoon has what was written synced before long, however much follows it.
func (j *Journal) syncSoon() {
	if !j.soon {
		j.soon = true
		j.timer.Reset(syncDelay)
	}
}

// sync makes what is written outlast a power cut. No act waits for it.
func (j *Journal) sync() {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	work, file := j.unsynced, j.file
	j.unsynced = unsynced{err: work.err}
	j.mu.Unlock()

	var errs []error
	for _, old := range work.retired {
		errs = append(errs, old.Sync(), old.Close())
	}
	if work.soon {
		errs = append(errs, file.Sync())
	}
	if work.named {
		errs = append(errs, j.dir.Sync())
	}
	if err := errors.Join(errs...); err != nil {
		j.mu.Lock()
		j.unsynced.err = fmt.Errorf("lines may not outlast a power cut: %w", err)
		j.mu.Unlock()
	}
}

// Close writes what is owed, syncs and closes the journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	err := j.add(nil)
	j.mu.Unlock()

	j.timer.Stop()
	j.sync()
	j.mu.Lock() // a timer that was due may only now come to find nothing unsynced
	defer j.mu.Unlock()
	return errors.Join(err, j.unsynced.err, j.file.Close())
}
