package pause_test

import (
	"os"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sockdog/sockdog/internal/pause"
	"github.com/sockdog/sockdog/internal/status"
)

// FuzzFile: whatever the file says pauses, in one printable line, and what is written of it
// reads back the same.
func FuzzFile(f *testing.F) {
	f.Add("moved\nuntil: 2100-01-02T03:04:05Z\nby: uid 7\n")
	f.Add("until: \nby: \n\x00\xff\u2028")
	f.Fuzz(func(t *testing.T, text string) {
		dir, file := openDir(t)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := pause.Read(dir)
		if err != nil || p == nil {
			t.Fatalf("read %+v, %v", p, err)
		}
		for _, words := range []string{p.Reason, p.By, p.Words()} {
			if strings.ContainsFunc(words, func(r rune) bool { return !unicode.IsPrint(r) }) || utf8.RuneCountInString(words) > 500 || words == "" {
				t.Errorf("%q is no line for people", words)
			}
		}
		if err := pause.Write(dir, p); err != nil {
			t.Fatal(err)
		}
		again, err := pause.Read(dir)
		if err != nil || !sameWords(again, p) {
			t.Errorf("read back %+v, %v, want %+v", again, err, p)
		}
	})
}

// sameWords compares what a file says; a reason that begins like a key may be taken for one.
func sameWords(a, b *status.Pause) bool {
	if strings.HasPrefix(b.Reason, "until: ") || strings.HasPrefix(b.Reason, "by: ") {
		return true
	}
	return a.Reason == b.Reason && a.By == b.By && a.Until.Sub(b.Until).Abs() < time.Second
}
