package templates_test

import (
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/sockdog/sockdog/rules/internal/templates"
)

type data struct {
	Name   string
	Count  int
	Share  float64
	Since  time.Time
	Lasted time.Duration
	Labels map[string]string
	All    []one
}

type one struct {
	Name   string
	Labels map[string]string
}

func some() *data {
	labels := map[string]string{"dst": "192.0.2.1", "dport": "443"}
	return &data{
		Name: "a \"name\" & more", Count: 3, Share: 93.5, Since: time.Date(2026, 3, 7, 3, 12, 44, 5, time.UTC), Lasted: 90 * time.Second,
		Labels: labels, All: []one{{"x", labels}, {"y", nil}},
	}
}

// said are templates that fail nowhere.
var said = []string{
	`{{.Name}} {{.Count}} {{.Share}} {{.Since}} {{.Lasted}} {{.Labels}} {{.All}} {{.}}`,
	`{{if and .Count (gt .Share 5.0)}}{{or "" .Name}}{{else if not .Name}}x{{else}}y{{end}}`,
	`{{with $x := .Labels}}{{.dst}}{{$x.dport}}{{$x.none}}|{{else}}no{{end}}{{with ""}}a{{else with .Count}}{{.}}{{end}}`,
	`{{range $i, $a := .All}}{{if $i}}, {{end}}{{$a.Name}}{{.Labels.dst}}{{continue}}never{{else}}none{{end}}`,
	`{{range .All}}{{.Name}}{{break}}{{end}}{{range $v := (slice .All 0 0)}}x{{else}}empty{{end}}`,
	`{{index .Labels "dst" | len | printf "%03d"}} {{index .All 1}} {{(index .All 0).Labels.dst}} {{slice .Name 2 .Count}} {{index .Name 1}}`,
	`{{eq .Count 3 4}} {{eq .Name "x" "y"}} {{ne .Count 3}} {{lt .Count 4}} {{le .Share 93.5}} {{gt "b" "a"}} {{ge .Lasted .Lasted}} {{eq .Since .Since}}`,
	`{{.Since.Format "15:04"}} {{.Since.UTC.Year}} {{.Since.Month}} {{.Since.Weekday}} {{.Since.Unix}} {{.Since.AddDate 0 1 2}} {{.Since.Add .Lasted}}`,
	`{{.Lasted.Minutes}} {{.Lasted.Round 60000000000}} {{"15" | .Since.Format}} {{(.Since.Sub .Since).Hours}} {{.Lasted.String | len}}`,
	`{{$x := 1}}{{if true}}{{$x = 2}}{{$y := $x}}{{$y}}{{end}}{{$x}}{{$.Count}}{{($).Name | html | js | urlquery}}`,
	`{{print 1 2 "a" "b" 3.0 'x' 0x1F 1e3 1_000}} {{println .Count}}{{printf "%v %q %T" .Lasted .Name .Since}} {{- /* c */ -}} end`,
}

// language is that of templates over data.
func language() *templates.Language {
	value := some()
	return &templates.Language{What: "template", Trials: []templates.Trial{{Data: value}}, Full: value, Range: value.All, Over: ".All"}
}

func TestSaid(t *testing.T) {
	for _, text := range said {
		if _, mistake := language().Parse(text); mistake != nil {
			t.Errorf("%s: %s", text, mistake.Text)
		}
	}
}

// FuzzRun holds templates to say what text/template makes of them.
func FuzzRun(f *testing.F) {
	for _, text := range append(said, `{{and 1 0 2}}{{or 0 "" 2}}{{0 | and 1}}{{5 | or 0}}{{and}}`, `{{.Count.X}}`, `{{.Name 1}}`, `{{len 3}}`, `{{slice 3}}`, `{{3 | 4}}`, `{{nil}}`, `{{$0 = 1}}`, `{{.Labels | index}}{{index}}`, `{{0i}}`) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ours, mistake := language().Parse(text)
		if mistake != nil {
			return // it may fail in a branch that is not taken
		}
		theirs, err := template.New("").Option("missingkey=zero").Parse(text)
		if err != nil {
			t.Fatalf("%q is accepted, by text/template not: %v", text, err)
		}
		var want strings.Builder
		err = theirs.Execute(&want, *some())
		got, ourErr := ours.Execute(some(), templates.MaxBytes)
		if (err != nil) != (ourErr != nil) && want.Len() < templates.MaxBytes || err == nil && got != want.String() && len(got) < templates.MaxBytes {
			t.Errorf("%q says %q, %v; by text/template %q, %v", text, got, ourErr, want.String(), err)
		}
	})
}
