package journal

import (
	"bytes"
	"encoding/json"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write the golden files anew")

// equal compares records as the journal promises to keep them.
var equal = cmp.Options{
	cmpopts.EquateComparable(netip.AddrPort{}),
	cmpopts.EquateEmpty(),
}

// full is a record of which everything is known.
var full = Record{
	Time: time.Date(2026, 3, 1, 4, 5, 6, 70_000_000, time.UTC),
	Seq:  7, Rule: "postgres-close-wait", Action: "kill", Result: Done, DryRun: true,
	Reason: "in close-wait for 5m12.004s", Netns: "4026531840",
	Src: netip.MustParseAddrPort("10.0.0.1:41234"), Dst: netip.MustParseAddrPort("[2001:db8::1]:5432"),
	State: "close-wait", InStateFor: 312*time.Second + 4*time.Millisecond, IdleFor: time.Hour, SilentFor: time.Hour + time.Minute,
	Cookie: 8193, Inode: 31337, UID: 1000, PID: 4242, Comm: "app",
	Unit: "cri-containerd-fa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c.scope", Container: "app", Pod: "payments/api-1",
}

// shared is a record of a socket that several processes hold.
var shared = func() Record {
	r := full
	r.Holders = Holders{{4242, "app"}, {4243, "a\"\n\x1b[2J"}}
	return r
}()

// bare is a record of a socket that has no holder.
var bare = Record{
	Time: time.Date(2026, 3, 1, 4, 5, 6, 0, time.FixedZone("", 3600)),
	Rule: "flood", Action: "kill", Result: Would,
	Src: netip.MustParseAddrPort("127.0.0.1:80"), Dst: netip.MustParseAddrPort("[fe80::1%eth0]:9"),
	State: "time-wait", InStateFor: 999_999 * time.Nanosecond, Cookie: 1 << 63,
}

// summary is what limits held back.
var summary = Record{
	Time: time.Date(2026, 3, 1, 4, 6, 6, 0, time.UTC),
	Rule: "postgres-close-wait", Action: "kill", Result: Held, Reason: "the limits are 60/1m of the rule and 5000/1m of all rules",
	Sockets: 1500, LetGo: 20, Waiting: 1420,
}

func TestMarshal(t *testing.T) {
	root := full
	root.UID, root.DryRun, root.Comm = 0, false, "a\"b\\c\n\x00\x1f\x7f\u009b\xff<é\u2028"
	got := []byte{}
	for _, r := range []Record{full, bare, root, summary, shared} {
		got = append(r.append(got), '\n')
	}
	const golden = "testdata/records.jsonl"
	if *update {
		if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestUnmarshal(t *testing.T) {
	for name, want := range map[string]Record{"full": full, "shared": shared, "bare": bare, "summary": summary} {
		t.Run(name, func(t *testing.T) {
			var got Record
			if err := json.Unmarshal(want.append(nil), &got); err != nil {
				t.Fatal(err)
			}
			want.Time = want.Time.UTC()
			want.InStateFor = want.InStateFor.Truncate(resolution)
			if diff := cmp.Diff(want, got, equal); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNames holds the journal and the log to the same names in the same order.
func TestNames(t *testing.T) {
	for name, r := range map[string]Record{"full": full, "shared": shared, "bare": bare, "summary": summary} {
		t.Run(name, func(t *testing.T) {
			var inLog []string
			for _, attr := range r.Attrs() {
				inLog = append(inLog, attr.Key)
			}
			inJournal := slices.DeleteFunc(names(t, r.append(nil)), func(name string) bool { return name == "time" || name == "seq" })
			if diff := cmp.Diff(inJournal, inLog); diff != "" {
				t.Errorf("names (-journal +log):\n%s", diff)
			}
		})
	}
}

// names lists the keys of an object.
func names(t *testing.T, object []byte) []string {
	t.Helper()
	var names []string
	tokens := json.NewDecoder(bytes.NewReader(object))
	_, err := tokens.Token() // which begins it
	for err == nil && tokens.More() {
		var name json.Token
		if name, err = tokens.Token(); err == nil {
			names = append(names, name.(string))
			err = tokens.Decode(new(any))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestLog(t *testing.T) {
	var text, lines strings.Builder
	noTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	handlers := []slog.Handler{
		slog.NewTextHandler(&text, &slog.HandlerOptions{ReplaceAttr: noTime}),
		slog.NewJSONHandler(&lines, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			return noTime(groups, InSeconds(groups, a))
		}}),
	}
	for _, h := range handlers {
		slog.New(h).LogAttrs(t.Context(), slog.LevelInfo, "action", full.Attrs()...)
	}
	if want := `level=INFO msg=action rule=postgres-close-wait action=kill result=done dry_run=true ` +
		`reason="in close-wait for 5m12.004s" netns=4026531840 src=10.0.0.1:41234 dst=[2001:db8::1]:5432 ` +
		`state=close-wait in_state_for=5m12.004s idle_for=1h0m0s silent_for=1h1m0s cookie=8193 inode=31337 uid=1000 ` +
		`pid=4242 comm=app container=app pod=payments/api-1 unit=cri-containerd-fa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c.scope` + "\n"; text.String() != want {
		t.Errorf("text log:\n%swant:\n%s", &text, want)
	}
	if want := `{"level":"INFO","msg":"action","rule":"postgres-close-wait","action":"kill","result":"done",` +
		`"dry_run":true,"reason":"in close-wait for 5m12.004s","netns":"4026531840","src":"10.0.0.1:41234",` +
		`"dst":"[2001:db8::1]:5432","state":"close-wait","in_state_for":312.004,"idle_for":3600,"silent_for":3660,"cookie":8193,` +
		`"inode":31337,"uid":1000,"pid":4242,"comm":"app","container":"app","pod":"payments/api-1","unit":"cri-containerd-fa7f0ec4fbcbb70c69565a5b2d269926e04ec5601dff59235199d6e60198e95c.scope"}` + "\n"; lines.String() != want {
		t.Errorf("JSON log:\n%swant:\n%s", &lines, want)
	}
	text.Reset()
	lines.Reset()
	for _, h := range handlers {
		slog.New(h).LogAttrs(t.Context(), slog.LevelInfo, "action", shared.Attrs()...)
	}
	if want := ` comm=app holders="app[4242] a\"\n\x1b[2J[4243]" container=app `; !strings.Contains(text.String(), want) {
		t.Errorf("text log:\n%swant in it:\n%s", &text, want)
	}
	if want := `,"comm":"app","holders":[{"pid":4242,"comm":"app"},{"pid":4243,"comm":"a\"\u000a\u001b[2J"}],"container":"app",`; !strings.Contains(lines.String(), want) {
		t.Errorf("JSON log:\n%swant in it:\n%s", &lines, want)
	}
}

// FuzzText: whatever a command calls itself, its line is one line, is JSON, and
// says what encoding/json would.
func FuzzText(f *testing.F) {
	f.Add("app")
	f.Add("\"\\\x00\x1f\n\xff\xed\xa0\x80\u2028")
	f.Add(`","result":"intent","seq":1`)
	f.Fuzz(func(t *testing.T, comm string) {
		r := full
		r.Comm = comm
		line := r.append(nil)
		if bytes.IndexByte(line, '\n') >= 0 {
			t.Errorf("a line with a line end in it: %q", line)
		}
		var got Record
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		text, err := json.Marshal(comm)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &r.Comm); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got, equal); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
		if seq := seqOf(append(line, '\n')); seq != r.Seq || bytes.Contains(line, intentMark) {
			t.Errorf("%q passes for another line", line)
		}
	})
}

func BenchmarkMarshal(b *testing.B) {
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = full.append(buf[:0])
	}
}

// A record about a group has its properties and its size in the place of a
// socket's, in the journal and in the log.
func TestGroupRecord(t *testing.T) {
	r := Record{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Rule: "flood", Action: "group", Result: Firing, Reason: "count 3 (count > 2)", Netns: "1",
		Group: map[string]string{"dst": "10.0.0.7", "dport": "5432"}, Sockets: 3,
	}
	text, err := r.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-01-02T03:04:05.000000000Z","rule":"flood","action":"group","result":"firing","dry_run":false,` +
		`"reason":"count 3 (count > 2)","netns":"1","group":{"dport":"5432","dst":"10.0.0.7"},"sockets":3}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
	var back Record
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	r.Group = map[string]string{}
	if text, _ := r.MarshalJSON(); !strings.Contains(string(text), `"group":{},"sockets":3`) {
		t.Errorf("a rule's one group is %s", text)
	}
	attrs := slog.GroupValue(r.Attrs()...).String()
	if strings.Contains(attrs, "src") || !strings.Contains(attrs, "sockets=3") {
		t.Errorf("in the log: %s", attrs)
	}
}

// What a line of the log begins with reads as English, whatever became of it.
func TestWords(t *testing.T) {
	for result, want := range map[Result]string{
		Done: "kill done", Would: "would kill", Held: "kill held", Failed: "kill failed",
		Gone: "gone before kill", Changed: "changed before kill",
		Unconfirmed: "kill unconfirmed", Interrupted: "kill interrupted",
	} {
		r := Record{Action: "kill", Result: result}
		if got := r.Words(); got != want {
			t.Errorf("%s: %q, want %q", result, got, want)
		}
	}
}

// The zone of an address is a device's name, which may hold what JSON escapes.
func TestMarshalZone(t *testing.T) {
	r := bare
	r.Dst = netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone("a\"\n\\b"), 9)
	var got Record
	if err := json.Unmarshal(r.append(nil), &got); err != nil {
		t.Fatal(err)
	}
	if got.Dst != r.Dst {
		t.Errorf("read %v, want %v", got.Dst, r.Dst)
	}
}
