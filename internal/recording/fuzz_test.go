package recording_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"

	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// A file may hold anything, and what is read of it is sockets, and an end that says why.
func FuzzReader(f *testing.F) {
	f.Add(damaged())
	f.Add([]byte("sockdog recording 1\n"))
	f.Fuzz(func(t *testing.T, file []byte) { exhaust(t, file) })
}

// The content of a scan may be anything, under right checksums.
func FuzzScan(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte{1, 1, 2, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2}, []byte{0})
	for _, content := range contents(f, damaged()) {
		f.Add(content, content)
	}
	head := damaged()
	head = head[:frameEnd(head, bytes.IndexByte(head, '\n')+1)]
	f.Fuzz(func(t *testing.T, first, second []byte) {
		file := bytes.Clone(head)
		for _, content := range [][]byte{first, second} {
			file = appendFrame(file, 'S', packed(content))
		}
		exhaust(t, file)
	})
}

// packed is the content of a scan as it stands in a frame.
func packed(content []byte) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	w.Write(content)
	w.Close()
	return b.Bytes()
}

func appendFrame(b []byte, kind byte, content []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	at := len(b)
	b = binary.LittleEndian.AppendUint32(append(b, kind), uint32(len(content)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(content, table))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], table))
	return append(b, content...)
}

// frameEnd is where the frame ends that begins there.
func frameEnd(file []byte, at int) int { return at + 13 + int(binary.LittleEndian.Uint32(file[at+1:])) }

// contents are those of the scans of a recording.
func contents(f *testing.F, file []byte) (all [][]byte) {
	for at := bytes.IndexByte(file, '\n') + 1; at < len(file); at = frameEnd(file, at) {
		if file[at] != 'S' {
			continue
		}
		content, err := io.ReadAll(flate.NewReader(bytes.NewReader(file[at+13 : frameEnd(file, at)])))
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, content)
	}
	return all
}

// exhaust reads all that there is, and holds it to what a Reader promises.
func exhaust(t *testing.T, file []byte) {
	r, err := recording.NewReader(bytes.NewReader(file))
	if err != nil {
		return
	}
	var last sock.Instant
	for scans := 0; ; scans++ {
		scan, err := r.Next()
		var damage *recording.Damage
		if err != nil {
			if err != io.EOF && !errors.As(err, &damage) {
				t.Fatalf("%v, which is no Damage", err)
			}
			if _, again := r.Next(); again != err || r.Scans() != scans || r.Len() != 0 {
				t.Fatalf("%v after %v, %d scans, %d sockets", again, err, r.Scans(), r.Len())
			}
			return
		}
		if scan.Sent < last || scan.Got < scan.Sent {
			t.Fatalf("a scan from %d to %d after one at %d", scan.Sent, scan.Got, last)
		}
		last = scan.Got
		n := 0
		for s := range r.Sockets(^ssfilter.StateSet(0), scan.Got) {
			n++
			if same, shown := r.Socket(s.ID.Key(), scan.Got); !shown || same != *s {
				t.Fatalf("%+v by its key is %+v", *s, same)
			}
			if s.Info.LastAckRecv < 0 || s.Info.LastDataRecv < 0 || s.Info.LastDataSent < 0 || s.Expires < 0 {
				t.Fatalf("a negative time: %+v", *s)
			}
			r.HoldersOf(s.Inode)
		}
		if n != r.Len() {
			t.Fatalf("%d of %d sockets", n, r.Len())
		}
	}
}
