package daemon

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/sockdog/sockdog/internal/engine"
)

// TestNotes: each kind of note that the engine has says something, in at most a
// dozen words.
func TestNotes(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "../engine/note.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		kind, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		kinds++
		if words := len(strings.Fields(notes[engine.NoteKind(kind)].text)); words == 0 || words > 12 {
			t.Errorf("%s says %d words", kind, words)
		}
		return true
	})
	if kinds != len(notes) {
		t.Errorf("the engine has %d kinds of notes, and %d say something", kinds, len(notes))
	}
}
