package templates_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/sockdog/sockdog/rules/internal/templates"
)

type child struct {
	Name   string
	Labels map[string]string
	At     time.Time
}

type sample struct {
	Text  string
	Empty string
	Group map[string]string
	None  map[string]string
	Count int
	Zero  int
	Share float64
	Since time.Time
	For   time.Duration
	Items []child
}

func values() []*sample {
	at := time.Date(2026, 3, 7, 3, 12, 44, 5, time.FixedZone("X", 3600))
	full := sample{
		Text: "some <text> & 'more'", Group: map[string]string{"a": "1", "b": "two"}, Count: 3, Share: 93.25, Since: at, For: 90 * time.Second,
		Items: []child{{"one", map[string]string{"x": "y"}, at}, {"two", nil, at.Add(time.Hour)}},
	}
	return []*sample{&full, {Group: map[string]string{}, Items: []child{{Name: "only"}}}}
}

var languages = map[string]*templates.Language{}

func init() {
	full := values()[0]
	languages[".Group"] = &templates.Language{What: "template", Full: full, Range: full.Group, Over: ".Group"}
	languages[".Items"] = &templates.Language{What: "template", Full: full, Range: full.Items, Over: ".Items"}
}

// bounded are the functions that are not those of package text/template.
var bounded = template.FuncMap{"println": fmt.Sprintln, "print": fmt.Sprint, "printf": fmt.Sprintf}

// compare holds what a template that is taken makes to what package text/template makes
// of it.
func compare(t *testing.T, text string) (taken bool) {
	t.Helper()
	for _, l := range languages {
		m, mistake := l.Parse(text)
		if mistake != nil {
			continue
		}
		reference, err := template.New("").Option("missingkey=zero").Funcs(bounded).Parse(text)
		if err != nil {
			t.Fatalf("%q is taken, and is no template: %v", text, err)
		}
		for i, v := range values() {
			var want strings.Builder
			wantErr := reference.Execute(&want, v)
			got, err := m.Execute(v, 1<<20)
			if (err == nil) != (wantErr == nil) && !known(err, wantErr) {
				t.Errorf("%q on value %d fails with %v, want %v", text, i, err, wantErr)
			}
			if err == nil && wantErr == nil && got != want.String() {
				t.Errorf("%q on value %d says %q, want %q", text, i, got, want.String())
			}
			taken = true
		}
	}
	return taken
}

// known reports whether what fails does so by what this package adds.
func known(err, _ error) bool {
	if err == nil {
		return false
	}
	for _, text := range []string{"8 KiB", "it prints", "a width or precision", "range is allowed"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return errors.Is(err, templates.ErrLong)
}

// word is a random piece of the grammar.
func word(r *rand.Rand, depth int) string {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	sub := func() string { return word(r, depth-1) }
	if depth <= 0 {
		return pick(".", "$", ".Text", ".Empty", ".Group", ".Group.a", ".Group.zz", ".None", ".None.x", ".Count", ".Zero", ".Share", ".Since", ".For", ".Items",
			"$.Count", "$.Text", "$x", "$y", ".Name", ".Labels", ".Labels.x", ".At", "1", "0", "-3", "2.5", "1e3", "0x10", "0x1p4", "'a'", "1i", `"a"`, `"text"`, "`b`", "true", "false", "nil",
			".Since.Year", ".Since.Month", ".Since.Month.String", ".Since.Location", ".Since.Location.String", ".For.Minutes", ".For.String", ".Since.UTC.Hour", ".Since.Weekday",
			"$x.Year", "$.Since.Unix", ".Since.IsZero", ".Since.ISOWeek", ".Nope", "print", "len", "not")
	}
	switch r.IntN(12) {
	case 0:
		return "(" + sub() + ")"
	case 1:
		return "(" + command(r, depth-1) + ")"
	case 2:
		return "(" + command(r, depth-1) + ")" + pick(".a", ".Name", ".Labels", ".Year", ".Minutes", ".String", ".Labels.x", ".At.Year")
	default:
		return word(r, 0)
	}
}

func command(r *rand.Rand, depth int) string {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	w := func() string { return word(r, depth) }
	switch r.IntN(14) {
	case 0, 1:
		return w()
	case 2:
		return pick("eq", "ne", "lt", "le", "gt", "ge") + " " + w() + " " + w()
	case 3:
		return "eq " + w() + " " + w() + " " + w()
	case 4:
		return pick("and", "or") + " " + w() + " " + w() + pick("", " "+w())
	case 5:
		return pick("not", "len", "print", "println", "html", "js", "urlquery") + " " + w()
	case 6:
		return "index " + pick(".Group", ".Items", ".Text", w()) + " " + w() + pick("", " "+w())
	case 7:
		return "slice " + pick(".Text", ".Items", w()) + pick("", " 0", " 1", " "+w()) + pick("", " 1", " 2 2", " "+w())
	case 8:
		return "printf " + pick(`"%v"`, `"%d"`, `"%s-%v"`, `"%.1f"`, `"%q"`, w()) + " " + w() + pick("", " "+w())
	case 9:
		return pick(".Since.Format", "$.Since.Format", ".For.Round", ".For.Truncate", ".Since.Add", ".Since.AddDate", ".Since.In", ".Since.After", ".Since.Sub", ".Since.Equal") + " " + w() + pick("", " "+w()+" "+w())
	case 10:
		return w() + " | " + command(r, depth-1)
	case 11:
		return command(r, depth-1) + " | " + pick("print", "len", "not", "html", "printf \"%v\"", "eq 1", "and 1", "or 0", "index .Group", ".Since.Format", ".For.Round")
	case 12:
		return w() + " " + w()
	default:
		return "call " + w()
	}
}

func body(r *rand.Rand, depth int) string {
	pick := func(all ...string) string { return all[r.IntN(len(all))] }
	var b strings.Builder
	for range 1 + r.IntN(3) {
		switch n := r.IntN(9); {
		case n == 0 || depth <= 0:
			b.WriteString(pick("text", " ", "\n", "{{- /* c */ -}}"))
		case n < 4:
			b.WriteString("{{" + command(r, 2) + "}}")
		case n == 4:
			b.WriteString("{{" + pick("$x := ", "$y := ", "$x = ") + command(r, 1) + "}}")
		case n == 5:
			b.WriteString("{{if " + pick("", "$x := ") + command(r, 1) + "}}" + body(r, depth-1) + pick("", "{{else}}"+body(r, depth-1), "{{else if "+command(r, 1)+"}}"+body(r, depth-1)) + "{{end}}")
		case n == 6:
			b.WriteString("{{with " + pick("", "$y := ") + command(r, 1) + "}}" + body(r, depth-1) + pick("", "{{else}}"+body(r, depth-1)) + "{{end}}")
		case n == 7:
			b.WriteString("{{range " + pick("", "$x := ", "$x, $y := ", "$x = ", "$x, $y = ") + pick(".Group", ".Items", "$.Group", ".None", command(r, 0)) + "}}" +
				body(r, depth-1) + pick("", "{{if "+command(r, 0)+"}}"+pick("{{break}}", "{{continue}}")+"{{end}}"+body(r, depth-1)) + pick("", "{{else}}"+body(r, depth-1)) + "{{end}}")
		default:
			b.WriteString("{{" + word(r, 1) + "}}")
		}
	}
	return b.String()
}

func TestAsTextTemplate(t *testing.T) {
	taken := 0
	for seed := range uint64(20_000) {
		r := rand.New(rand.NewPCG(seed, 1))
		text := `{{$x := .Count}}{{$y := .Text}}` + body(r, 2)
		if compare(t, text) {
			taken++
		}
	}
	t.Log(taken, "were taken")
	if taken < 2000 {
		t.Error("too few were taken")
	}
}

func FuzzAsTextTemplate(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(body(rand.New(rand.NewPCG(seed, 2)), 2))
	}
	f.Fuzz(func(t *testing.T, text string) { compare(t, text) })
}

// What Go adds to the methods of a time is there, unless it is of no use in a text.
func TestMethods(t *testing.T) {
	useless := map[string]bool{"AppendBinary": true, "AppendFormat": true, "AppendText": true, "GobEncode": true, "MarshalBinary": true}
	for name, of := range map[string]reflect.Type{".Since": reflect.TypeFor[time.Time](), ".For": reflect.TypeFor[time.Duration](), ".Since.Month": reflect.TypeFor[time.Month](), ".Since.Location": reflect.TypeFor[*time.Location]()} {
		for m := range of.Methods() {
			_, mistake := languages[".Group"].Parse("{{" + name + "." + m.Name + "}}")
			if mistake != nil && strings.Contains(mistake.Text, "has no .") != useless[m.Name] {
				t.Errorf("%s.%s: %v", of, m.Name, mistake.Text)
			}
		}
	}
}
