package recording_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

const precision = 14 * time.Millisecond

// shot is a scan, and what it shows.
type shot struct {
	recording.Scan
	sockets []sock.Socket
}

var began = time.Date(2026, 3, 29, 0, 59, 0, 0, time.UTC)

// at is an instant of a scan.
func at(seconds float64) sock.Instant {
	return sock.Instant(1000 * time.Second).Add(time.Duration(seconds * float64(time.Second)))
}

func shotAt(seconds float64, sockets ...sock.Socket) shot {
	return shot{recording.Scan{Sent: at(seconds), Got: at(seconds + 0.01), Wall: began.Add(time.Duration(seconds * float64(time.Second)))}, sockets}
}

// established returns a socket that has done something, and nothing for ten seconds.
func established(n uint64) sock.Socket {
	s := sock.Socket{
		ID:   sock.ID{Family: 2, Src: [16]byte{10, 0, 0, 1}, Dst: [16]byte{10, 0, 0, 2}, Netns: 4026531840, Cookie: n},
		Conn: ssfilter.Conn{State: ssfilter.Established}, UID: 1000, Inode: uint32(5000 + n),
		Info: sock.Info{
			Has: 1<<8 - 1, SegsIn: 12, LastDataSent: 10 * time.Second, LastDataRecv: 11 * time.Second, LastAckRecv: 10 * time.Second,
			BytesAcked: 100, BytesReceived: 200,
		},
	}
	binary.BigEndian.PutUint16(s.ID.SPort[:], uint16(30000+n))
	binary.BigEndian.PutUint16(s.ID.DPort[:], 5432)
	s.Src, s.Dst = s.ID.Local(), s.ID.Peer()
	return s
}

func write(t testing.TB, mask *recording.Mask, shots ...shot) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := recording.NewWriter(&file, recording.Header{Sockdog: "test", Kernel: "6.12.1", Precision: precision, Began: began, States: "all"}, mask)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shots {
		w.Begin()
		for i := range s.sockets {
			w.Take(&s.sockets[i], s.Got)
		}
		if err := w.End(s.Scan); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(3); err != nil {
		t.Fatal(err)
	}
	if w.Size() != int64(file.Len()) {
		t.Errorf("the writer says that it wrote %d bytes, of %d", w.Size(), file.Len())
	}
	return file.Bytes()
}

// read returns the scans of a recording, and the error that ended it.
func read(file []byte) (shots []shot, r *recording.Reader, err error) {
	r, err = recording.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, nil, err
	}
	for {
		ahead, _ := r.Ahead()
		scan, err := r.Next()
		if err != nil {
			return shots, r, err
		}
		if scan.Got != ahead {
			return shots, r, fmt.Errorf("a scan at %d, where one at %d was ahead", scan.Got, ahead)
		}
		s := shot{Scan: *scan}
		for one := range r.Sockets(^ssfilter.StateSet(0), scan.Got) {
			s.sockets = append(s.sockets, *one)
		}
		slices.SortFunc(s.sockets, func(a, b sock.Socket) int { return int(a.ID.Cookie) - int(b.ID.Cookie) })
		shots = append(shots, s)
	}
}

var cmpEndpoints = cmp.Comparer(func(a, b ssfilter.Endpoint) bool { return a == b })

// Of a socket everything is recorded but what only events tell.
func TestEveryFieldIsRecorded(t *testing.T) {
	s := established(7)
	fillFields(reflect.ValueOf(&s).Elem(), 3)
	s.State, s.Timer, s.Autobound = ssfilter.CloseWait, sock.TimerKeepalive, ssfilter.True
	s.ID.Family, s.Expires = 10, 30*time.Second
	s.Info.Has = 1<<8 - 1
	s.Info.LastDataRecv, s.Info.LastDataSent, s.Info.LastAckRecv = 3*time.Second, 4*time.Second, 5*time.Second
	s.Entered, s.Unmoved = 0, false
	s.Iface = s.ID.Iface
	s.Src, s.Dst = s.ID.Local(), s.ID.Peer()
	shots, _, err := read(write(t, nil, shotAt(0, s)))
	if err != io.EOF || len(shots) != 1 {
		t.Fatalf("%d scans, %v", len(shots), err)
	}
	if diff := cmp.Diff([]sock.Socket{s}, shots[0].sockets, cmpEndpoints); diff != "" {
		t.Error(diff)
	}
}

// fillFields gives every field a value that is not its zero.
func fillFields(v reflect.Value, n int64) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[ssfilter.Endpoint]() {
			return
		}
		for i := range v.NumField() {
			fillFields(v.Field(i), n+int64(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fillFields(v.Index(i), n+int64(i))
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("/text-%d/", n))
	case reflect.Bool:
		v.SetBool(true)
	default:
		if v.CanUint() {
			v.SetUint(uint64(n))
		} else {
			v.SetInt(n)
		}
	}
}

// Whatever comes, goes and changes is read as it was shown, with times that are not longer
// than they were, and shorter by no more than the resolution.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var shots []shot
		now := make(map[uint64]sock.Socket)
		for i := range rapid.IntRange(1, 6).Draw(t, "scans") {
			for range rapid.IntRange(0, 8).Draw(t, "events") {
				n := rapid.Uint64Range(1, 12).Draw(t, "cookie")
				s, there := now[n]
				switch {
				case !there:
					s = established(n)
				case rapid.IntRange(0, 3).Draw(t, "what") == 0:
					delete(now, n)
					continue
				}
				s.RQueue = rapid.Uint32().Draw(t, "rqueue")
				s.Info.BytesAcked = rapid.Uint64().Draw(t, "acked")
				s.Info.LastDataRecv = time.Duration(rapid.IntRange(0, 900_000).Draw(t, "ms")) * time.Millisecond
				s.State = rapid.SampledFrom(ssfilter.AllStates.States()).Draw(t, "state")
				s.Cgroup = rapid.SampledFrom([]string{"", "/", "/system.slice/a.service"}).Draw(t, "cgroup")
				now[n] = s
			}
			shot := shotAt(float64(i) * 5)
			for n := range uint64(13) {
				if s, ok := now[n]; ok {
					shot.sockets = append(shot.sockets, s)
				}
			}
			shots = append(shots, shot)
		}
		var file bytes.Buffer
		w, err := recording.NewWriter(&file, recording.Header{}, nil) // without precision: to the unit
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range shots {
			w.Begin()
			for i := range s.sockets {
				w.Take(&s.sockets[i], s.Got)
				w.Take(&s.sockets[i], s.Got.Add(time.Hour)) // shown twice
			}
			if err := w.End(s.Scan); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(0); err != nil {
			t.Fatal(err)
		}
		got, _, err := read(file.Bytes())
		if err != io.EOF {
			t.Fatal(err)
		}
		for i := range got {
			got[i].Wall = got[i].Wall.UTC()
		}
		if diff := cmp.Diff(shots, got, cmpEndpoints, cmpopts.EquateEmpty(), cmp.AllowUnexported(shot{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

// What the kernel says anew at each scan of a socket at which nothing happens is one instant,
// told with its resolution: that it is told a little differently is not recorded, and no age
// becomes longer than one that was told.
func TestIdleSocketsTakeNothing(t *testing.T) {
	var some, many []shot
	for i := range 100 {
		shot := shotAt(float64(i) * 5)
		for n := range uint64(50) {
			s := established(n + 1)
			elapsed := time.Duration(i)*5*time.Second + time.Duration(i%3)*4*time.Millisecond
			s.Info.LastAckRecv += elapsed
			s.Info.LastDataRecv += elapsed
			s.Info.LastDataSent += elapsed
			shot.sockets = append(shot.sockets, s)
		}
		if many = append(many, shot); i < 2 {
			some = append(some, shot)
		}
	}
	file := write(t, nil, many...)
	few := len(write(t, nil, some...))
	if each := (len(file) - few) / (len(many) - len(some)); each > 40 {
		t.Errorf("a scan without a change takes %d bytes", each)
	}
	shots, _, err := read(file)
	if err != io.EOF || len(shots) != len(many) {
		t.Fatalf("%d scans, %v", len(shots), err)
	}
	for i, shot := range shots {
		for j, s := range shot.sockets {
			told := many[i].sockets[j].Info.LastAckRecv
			if off := told - s.Info.LastAckRecv; off < -9*time.Millisecond || off > 9*time.Millisecond {
				t.Fatalf("scan %d: %v, where the kernel told %v", i, s.Info.LastAckRecv, told)
			}
		}
	}
}

// A keepalive that is answered within the resolution of the last one is another one.
func TestSegmentIsNoNoise(t *testing.T) {
	first, second := established(1), established(1)
	second.Info.SegsIn++
	second.Info.LastAckRecv += 5*time.Second - 6*time.Millisecond
	shots, _, err := read(write(t, nil, shotAt(0, first), shotAt(5, second)))
	if err != io.EOF {
		t.Fatal(err)
	}
	if got := shots[1].sockets[0].Info.LastAckRecv; got != second.Info.LastAckRecv {
		t.Errorf("%v since the last acknowledgement, want %v", got, second.Info.LastAckRecv)
	}
}

func TestScanIsRecorded(t *testing.T) {
	s := shotAt(0, established(1), established(2), established(3))
	s.Ports = map[uint32]sock.Ports{4026531840: {Ephemeral: ssfilter.PortRange{First: 32768, Last: 60999}, Free: []ssfilter.PortRange{{First: 32768, Last: 40000}, {First: 40002, Last: 60999}}}}
	s.Pressure = &sock.Pressure{ListenDrops: map[uint32]uint64{4026531840: 7}, HasOrphans: true, Orphans: 12.5, HasMemory: true, Memory: 3}
	owner := &sock.Owner{Unit: sock.Fact{Text: "shop.service", Known: true}, ContainerID: sock.Fact{Known: true}, Container: "api", Pod: "payments/api-1"}
	shop := sock.Holder{PID: 77, Start: 123456, Comm: "shop", Exe: "shop-server", Owner: owner}
	helper := sock.Holder{PID: 78, Start: 123457, Comm: "helper"}
	s.Holders = map[uint32][]sock.Holder{5001: {shop}, 5002: {shop, helper}}
	s.Complete = true
	s.FDUsage = map[recording.Process]float64{{PID: 77, Start: 123456}: 93.75}
	later := shotAt(5, established(1), established(2))
	later.Ports = s.Ports
	later.Holders = map[uint32][]sock.Holder{5001: {shop}, 5002: {shop}} // and somebody cannot be read
	later.Settled = map[*sock.Owner]bool{owner: true}
	r, err := recording.NewReader(bytes.NewReader(write(t, nil, s, later)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []shot{s, later} {
		got, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		held := make(map[uint32][]sock.Holder)
		for inode := range uint32(6000) {
			if h := r.HoldersOf(inode); h != nil {
				held[inode] = h
				if settled := want.Settled[owner]; got.Settled[h[0].Owner] != settled {
					t.Errorf("%s: settled is %v, want %v", h[0].Comm, !settled, settled)
				}
			}
		}
		scan := *got
		scan.Holders, scan.Wall, scan.Settled = held, scan.Wall.UTC(), want.Settled // whose keys are others
		if want.FDUsage == nil {
			want.FDUsage = map[recording.Process]float64{}
		}
		if diff := cmp.Diff(want.Scan, scan); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := r.Next(); err != io.EOF || r.Failed != 3 || r.Scans() != 2 {
		t.Errorf("%v after %d scans, and %d failed", err, r.Scans(), r.Failed)
	}
}

// A scan that failed leaves nothing.
func TestFailedScan(t *testing.T) {
	var file bytes.Buffer
	w, err := recording.NewWriter(&file, recording.Header{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	one, other := established(1), established(2)
	w.Begin()
	w.Take(&other, at(0)) // and then the dump is cut short
	w.Begin()
	w.Take(&one, at(1))
	if err := w.End(shotAt(1).Scan); err != nil {
		t.Fatal(err)
	}
	shots, _, _ := read(file.Bytes())
	if len(shots) != 1 || len(shots[0].sockets) != 1 || shots[0].sockets[0].ID.Cookie != 1 {
		t.Errorf("%+v, want the first socket alone", shots)
	}
	if w.Begin(); w.End(shotAt(0).Scan) == nil {
		t.Error("a scan that is older than the last one was written")
	}
}

func damaged() []byte {
	var shots []shot
	for i := range 4 {
		shots = append(shots, shotAt(float64(i)*5, established(uint64(i+1)), established(uint64(i+2))))
	}
	var t testing.T
	return write(&t, nil, shots...)
}

// Of a file that was cut short all whole scans are read, and it is said where it ends.
func TestCutShort(t *testing.T) {
	file := damaged()
	whole, _, err := read(file)
	if err != io.EOF || len(whole) != 4 {
		t.Fatalf("%d scans, %v", len(whole), err)
	}
	most := 0
	for n := range file {
		shots, _, err := read(file[:n])
		var damage *recording.Damage
		switch {
		case n < len("sockdog recording 1\n"):
			if !errors.Is(err, recording.ErrNone) {
				t.Fatalf("%d bytes: %v, want that it is no recording", n, err)
			}
			continue
		case !errors.As(err, &damage) || !damage.Cut || damage.Scans != len(shots):
			t.Fatalf("%d bytes: %v after %d scans", n, err, len(shots))
		case len(shots) < most:
			t.Fatalf("%d bytes hold %d scans, and fewer hold %d", n, len(shots), most)
		}
		most = len(shots)
		if diff := cmp.Diff(whole[:len(shots)], shots, cmpEndpoints, cmpopts.EquateEmpty(), cmp.AllowUnexported(shot{})); diff != "" {
			t.Fatal(diff)
		}
	}
	if most != 4 {
		t.Errorf("all but the last byte hold %d scans", most)
	}
}

// No bit of a file can change unnoticed, and what is before it is read.
func TestDamage(t *testing.T) {
	file := damaged()
	whole, _, _ := read(file)
	for n := len("sockdog recording 1\n"); n < len(file); n++ {
		for bit := n % 3; bit < 8; bit += 3 {
			broken := bytes.Clone(file)
			broken[n] ^= 1 << bit
			shots, _, err := read(broken)
			var damage *recording.Damage
			if !errors.As(err, &damage) || damage.Scans != len(shots) || damage.Offset > int64(n) {
				t.Fatalf("byte %d, bit %d: %v after %d scans", n, bit, err, len(shots))
			}
			if diff := cmp.Diff(whole[:len(shots)], shots, cmpEndpoints, cmpopts.EquateEmpty(), cmp.AllowUnexported(shot{})); diff != "" {
				t.Fatal(diff)
			}
		}
	}
	if _, _, err := read(append(bytes.Clone(file), 0)); err == nil || !strings.Contains(err.Error(), "follows its end") {
		t.Errorf("%v, where a byte follows the end", err)
	}
}

func TestNotOurs(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		want error
	}{
		"empty":            {"", recording.ErrNone},
		"rules":            {"rules:\n  - name: shop-close-wait\n", recording.ErrNone},
		"no version":       {"sockdog recording \n", recording.ErrNone},
		"no digits":        {"sockdog recording one\n", recording.ErrNone},
		"version 0":        {"sockdog recording 0\n", recording.ErrNone},
		"endless version":  {"sockdog recording " + strings.Repeat("1", 1000), recording.ErrNone},
		"a newer version":  {"sockdog recording 2\nwhatever", recording.Newer(2)},
		"far newer":        {"sockdog recording 999999999\n", recording.Newer(999999999)},
		"ends after magic": {"sockdog recording 1", recording.ErrNone},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := read([]byte(test.file)); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

// The wall clock may be set back; the instants go on.
func TestWallClockSetBack(t *testing.T) {
	first, second := shotAt(0, established(1)), shotAt(5, established(1))
	second.Wall = began.Add(-time.Hour)
	shots, _, err := read(write(t, nil, first, second))
	if err != io.EOF || !shots[0].Wall.Equal(began) || !shots[1].Wall.Equal(began.Add(-time.Hour)) || shots[1].Sent != second.Sent {
		t.Errorf("scans at %v and %v, %v", shots[0].Wall, shots[1].Wall, err)
	}
}

// A scan that claims many sockets, or becomes huge when it is unpacked, is damaged, and takes
// little more memory than there is to read.
func TestHugeScans(t *testing.T) {
	head := damaged()
	head = head[:frameEnd(head, bytes.IndexByte(head, '\n')+1)]
	for name, test := range map[string]struct {
		content []byte
		most    uint64
	}{
		// Times, no texts, processes or sets, no counters, nothing removed, and a million added.
		"claims many": {binary.AppendUvarint([]byte{1, 1, 2, 0, 0, 0, 0, 0}, 1<<20), 4 << 20},
		"a bomb":      {make([]byte, 1<<28), 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			file := appendFrame(bytes.Clone(head), 'S', packed(test.content))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := read(file)
			runtime.ReadMemStats(&after)
			if damage := (*recording.Damage)(nil); !errors.As(err, &damage) || damage.Cut {
				t.Errorf("%v, want a Damage", err)
			}
			if allocated := after.TotalAlloc - before.TotalAlloc; allocated > test.most {
				t.Errorf("a file of %d bytes allocates %d", len(file), allocated)
			}
		})
	}
}

// A frame that claims to be huge takes the memory of what is there.
func TestHugeClaims(t *testing.T) {
	file := damaged()
	head := file[:bytes.IndexByte(file, '\n')+1]
	claim := func(size uint32) []byte {
		b := append(bytes.Clone(head), 'H')
		b = binary.LittleEndian.AppendUint32(b, size)
		b = binary.LittleEndian.AppendUint32(b, 0)
		return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[len(head):], crc32.MakeTable(crc32.Castagnoli)))
	}
	for _, size := range []uint32{1 << 26, 1<<32 - 1} {
		broken := claim(size)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := read(broken)
		runtime.ReadMemStats(&after)
		if damage := (*recording.Damage)(nil); !errors.As(err, &damage) {
			t.Errorf("%v, want a Damage", err)
		}
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
			t.Errorf("a claim of %d bytes allocates %d", size, allocated)
		}
	}
}
