package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/sockdog/sockdog/internal/statedir"
)

// left is what the last writer left in a file.
type left struct {
	size    int64             // of the whole lines
	seq     uint64            // the highest
	intents map[uint64][]byte // the lines of those without an outcome
}

// scan reads a file from its start. Lines that are not a journal's are passed
// over: a person may have edited it. So is the last one where it has no end:
// nothing was done on the word of half an intent.
func scan(f *os.File) (left, error) {
	found := left{intents: make(map[uint64][]byte)}
	lines := bufio.NewReaderSize(io.NewSectionReader(f, 0, 1<<62), 64<<10)
	offset := int64(0)
	for {
		line, err := lines.ReadSlice('\n')
		offset += int64(len(line))
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue // no line of ours is that long
		case errors.Is(err, io.EOF):
			return found, nil
		case err != nil:
			return left{}, err
		}
		found.size = offset
		seq := seqOf(line)
		if seq == 0 {
			continue
		}
		found.seq = max(found.seq, seq)
		if bytes.Contains(line, intentMark) {
			found.intents[seq] = bytes.Clone(line)
		} else {
			delete(found.intents, seq)
		}
	}
}

// These cannot stand inside a JSON string, where quotes are escaped; so a few
// ten thousand lines need not be decoded.
var (
	seqMark    = []byte(`"seq":`)
	intentMark = []byte(`"result":"intent"`)
)

// seqOf is the Seq of a line, or 0.
func seqOf(line []byte) uint64 {
	_, rest, _ := bytes.Cut(line, seqMark)
	digits := rest
	if end := bytes.IndexByte(rest, ','); end >= 0 {
		digits = rest[:end]
	}
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return 0
	}
	return seq
}

// open decodes the intents that have no outcome, and counts those that a newer
// sockdog wrote, which it leaves alone.
func (l left) open() (records []Record, newer int) {
	for _, seq := range slices.Sorted(maps.Keys(l.intents)) {
		line := l.intents[seq]
		var r Record
		var written struct{ Version int }
		switch err := errors.Join(json.Unmarshal(line, &written), json.Unmarshal(line, &r)); {
		case written.Version > version:
			newer++
		case err == nil && r.Seq == seq && r.Result == Intent: // else it is no line of ours after all
			records = append(records, r)
		}
	}
	return records, newer
}

// lastSeq is the highest Seq in the file that was rotated away last, 0 where there
// is none.
func lastSeq(dir *statedir.Dir) (uint64, error) {
	f, err := dir.OpenFile(name(1), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	found, err := scan(f)
	return found.seq, err
}
