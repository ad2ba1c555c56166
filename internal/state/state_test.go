package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// Who may not use the directory is told whose it must be.
func TestMissingHasACure(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{&fs.PathError{Op: "open", Path: "/state", Err: fs.ErrPermission}, fmt.Sprintf("install -d -o %d -m 700 /state", os.Geteuid())},
		{errors.New("it belongs to user 7"), ""},
	} {
		var s State
		var said bytes.Buffer
		s.missing(slog.New(slog.NewTextHandler(&said, nil)), "/state", "it cannot be used", test.err)
		if !strings.Contains(s.Problem.Cure, test.want) || (s.Problem.Cure == "") != (test.want == "") {
			t.Errorf("%v: cure %q, want %q", test.err, s.Problem.Cure, test.want)
		}
		if logged := strings.Contains(said.String(), "cure="); logged != (test.want != "") {
			t.Errorf("%v: the log says %s", test.err, &said)
		}
	}
}
