package control

import (
	"bytes"
	"context"
	"testing"
)

// FuzzRequest: whatever a client says, what is done is what a valid request means.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"command":"pause","reason":"x","for_seconds":60}` + "\n"))
	f.Add([]byte(`{"version":1,"command":"reset","rule":"leak"}` + "\n{}"))
	f.Add([]byte("null\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := read(bytes.NewReader(line))
		if err != nil {
			return
		}
		h := &handler{}
		var reply Reply
		err = do(context.Background(), h, &r, 7, &reply)
		for _, p := range h.pauses() {
			if err != nil || r.Command != CommandPause || p.By != "uid 7" || !p.Until.IsZero() && !p.Until.After(p.Since) {
				t.Errorf("%q pauses %+v, %v", line, p, err)
			}
		}
	})
}
