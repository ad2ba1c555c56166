package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/rules/internal/templates"
)

func readBody(text string) (*Body, *templates.Mistake) {
	tries := maxBodyTries
	t, wrong := notificationLanguage().ParseJSON(text, &tries)
	if wrong != nil {
		return nil, wrong
	}
	return &Body{t}, nil
}

func readyBody(t *testing.T, text string) *Body {
	t.Helper()
	b, wrong := readBody(text)
	if wrong != nil {
		t.Fatalf("%s: %v", text, wrong)
	}
	return b
}

// What a value says is data, wherever it stands.
func TestBodies(t *testing.T) {
	const odd = "a \"quote\", a \\ and\n</script> \u2028"
	alert := NotifiedAlert{
		Status: "firing", Severity: "critical", Summary: odd, Description: "d", Labels: map[string]string{"dst": "192.0.2.1", "x\"y": "z"},
		StartsAt: time.Date(2026, 3, 7, 3, 12, 44, 0, time.UTC),
	}
	over := alert
	over.Status, over.Summary = "resolved", "over"
	n := &Notification{
		Status: "firing", Receiver: "chat", Rule: "leak", Instance: odd, Firing: 1, Resolved: 1, Title: "title", Text: odd, Alerts: []NotifiedAlert{alert, over},
	}
	quoted, _ := json.Marshal(odd)
	inner := string(quoted[1 : len(quoted)-1])
	tests := map[string]struct{ text, want string }{
		"outside quotes":       {`{"text": {{.Text}}}`, `{"text":` + string(quoted) + `}`},
		"within quotes":        {`{"text": "{{.Rule}} on {{.Instance}}!"}`, `{"text":"leak on ` + inner + `!"}`},
		"json":                 {`{"text": {{json .Text}}, "n": {{json .Firing}}}`, `{"text":` + string(quoted) + `,"n":1}`},
		"numbers and booleans": {`[{{.Firing}}, "{{.Firing}}", {{gt .Firing 0}}, {{len .Alerts}}]`, `[1,"1",true,2]`},
		"a mapping":            {`{{with index .Alerts 0}}{{.Labels}}{{end}}`, `{"dst":"192.0.2.1","x\"y":"z"}`},
		"a mapping as a text":  {`"{{json (index .Alerts 0).Labels}}"`, `"{\"dst\":\"192.0.2.1\",\"x\\\"y\":\"z\"}"`},
		"times":                {`{{with index .Alerts 0}}[{{.StartsAt}}, "{{.StartsAt}}", {{.StartsAt.Unix | printf "%d"}}]{{end}}`, `["2026-03-07T03:12:44Z","2026-03-07T03:12:44Z","1772853164"]`},
		"a list":               {`[{{range $i, $a := .Alerts}}{{if $i}},{{end}}{"s": "{{$a.Summary}}", "of": {{$.Rule}}}{{end}}]`, `[{"s":"` + inner + `","of":"leak"},{"s":"over","of":"leak"}]`},
		"a list in quotes":     {`{"text": "{{range .Alerts}}{{.Status}} {{.Labels.dst}}\n{{end}}"}`, `{"text":"firing 192.0.2.1\nresolved 192.0.2.1\n"}`},
		"all of it":            {`{"alerts": {{len .Alerts}}, "first": {{index .Alerts 0 | json}}}`, ``},
		"conditions":           {`{"color": {{if eq .Status "firing"}}"red"{{else}}"green"{{end}}, "x": "{{if .Page}}{{.Page}}{{else}}none{{end}}"}`, `{"color":"red","x":"none"}`},
		"no branch needed":     {"{\n  \"text\": {{.Title}}{{if .LeftOut}},\n  \"more\": {{.LeftOut}}{{end}}\n}\n", `{"text":"title"}`},
		"an escaped quote":     {`{"text": "\"{{.Rule}}\" \\{{.Rule}}"}`, `{"text":"\"leak\" \\leak"}`},
		"variables":            {`{{$x := .Rule}}{{range .Alerts}}{{$x = .Status}}{{end}}{"a": {{$x}}}`, `{"a":"resolved"}`},
		"one turn":             {`[{{range .Alerts}}"{{.Status}}"{{break}}{{end}}]`, `["firing"]`},
		"a slice":              {`{{$some := .Alerts}}{{if gt (len .Alerts) 1}}{{$some = slice .Alerts 0 1}}{{end}}{{len $some}}`, `1`},
		"functions":            {`{"a": {{printf "%s/%d" .Rule .Firing}}, "b": "{{html .Rule | urlquery}}"}`, `{"a":"leak/1","b":"leak"}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readyBody(t, tt.text).Render(n)
			if err != nil || !json.Valid(got) || tt.want != "" && string(got) != tt.want {
				t.Errorf("%s, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

// What is no JSON is refused where it is wrong, in each branch, too.
func TestBadBodies(t *testing.T) {
	for text, want := range map[string]string{
		`¦`:                                                              "this is empty",
		"{\"text\": ¦}":                                                  "the body is not JSON: invalid character '}' looking for beginning of value",
		"{\"text\": {{.Text}}¦":                                          "the body is not JSON: unexpected end of JSON input",
		`{"a": {{.Text}},¦}`:                                             "the body is not JSON: invalid character '}' looking for beginning of object key string",
		`{"a": {{.Text}} ¦"b": 1}`:                                       "invalid character '\"' after object key:value pair",
		`{"a": ¦'{{.Text}}'}`:                                            `invalid character '\''`,
		`{"a": ¦"{{.Text}}}`:                                             "this quote is not closed",
		`{"a": "{{¦.Txt}}"}`:                                             `unknown field "Txt" in a body: did you mean "Text"?`,
		`¦{"a": "{{.Text}"}`:                                             "this is not a template",
		`{{range .Alerts}}{{.Staus}}{{end}}`:                             `unknown field "Staus" in an alert: did you mean "Status"?`,
		`[{{range .Alerts}}"{{.Rule}}"{{end}}]`:                          "inside range and with, the dot is another value: write $.Rule",
		`[{{range .Alerts}}{{¦.Status}}{{end}}]`:                         "the body is not JSON where there are several alerts",
		`{"a": "{{if .Page}}"{{else}}{{end}}`:                            "one branch of this ends inside quotes, and the other does not",
		`["{{range .Alerts}}{{.Status}}"{{end}}]`:                        "each iteration of range must close the quotes",
		`["{{range .Alerts}}x", "{{break}}{{end}}"]`:                     "", // closes what it opens
		`[{{range .Alerts}}"{{break}}"{{end}}]`:                          "each iteration of range must close the quotes",
		`{"a": "\{{.Text}}"}`:                                            "the backslash before this would escape",
		`{"a": "{{(index .Alerts 0).Labels}}"}`:                          "quotes cannot hold a mapping or a list: write json before it",
		`{{if eq .Status "firing"}}{"a": 1}{{else}}{"a": ¦}{{end}}`:      "the body is not JSON where an alert has ended",
		`{{if eq .Rule "never"}}{"text": ¦}{{else}}{"text": "x"}{{end}}`: "the body is not JSON in this branch",
		`{"a": 1{{if eq .Rule "x"}}{{if eq .Instance "y"}}, "b"{{end}}{{end}}¦}`: "the body is not JSON in this branch: invalid character '}' after object key",
		`{{if .Rule}}{"a": 1}{{else if .Page}}{}{{else}}{"a" ¦1}{{end}}`:         "the body is not JSON",
		`{"a": {{with .Status}}{{.}}{{else}}{{end}}¦}`:                           "the body is not JSON in this branch",
		`{{range .Group}}{{end}}`:                                                `unknown field "Group" in a body`,
		`{{range .Labels}}{{end}}`:                                               `unknown field "Labels" in a body`,
		`{{range .Alerts}}{{range $.Alerts}}{{end}}{{end}}`:                      "a range is not allowed inside a range",
		`{{range (index .Alerts 0).Labels}}{{end}}`:                              "range is allowed over .Alerts alone",
		`{"a": {{index .Alerts "x"}}}`:                                           "cannot index slice/array with type string",
		`{{template "x"}}`:                                                       "",
		`{{define "x"}}{{end}}{}`:                                                "define, block and template are not allowed",
		"{\"a\": \"¦\x00\"}":                                                     "JSON holds no control characters",
		`{"a": {{index .Alerts 5}}}`:                                             "out of range",
	} {
		t.Run(text, func(t *testing.T) {
			_, wrong := readBody(strings.Replace(text, "¦", "", 1))
			switch {
			case want == "":
			case wrong == nil:
				t.Errorf("it is taken, want %q", want)
			case !strings.Contains(wrong.Text, want):
				t.Errorf("%q, want %q", wrong.Text, want)
			case strings.Contains(text, "¦") && wrong.Offset != strings.Index(text, "¦"):
				t.Errorf("%q is at %d, want %d", wrong.Text, wrong.Offset, strings.Index(text, "¦"))
			}
		})
	}
}

// The fields that a body can name are all documented.
func TestBodyFieldsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []any{Notification{}, NotifiedAlert{}} {
		text, _ := json.Marshal(of)
		var fields map[string]any
		json.Unmarshal(text, &fields)
		for name := range fields {
			if !strings.Contains(string(page), "`{{."+name+"}}`") {
				t.Errorf("docs/alerts.md says nothing of {{.%s}}", name)
			}
		}
	}
}

// A body is no longer than a message, and takes no longer than that.
func TestLongBody(t *testing.T) {
	n := *bodyTrials()[0].Data.(*Notification)
	for range 500 {
		n.Alerts = append(n.Alerts, NotifiedAlert{Description: strings.Repeat("x", 8<<10)})
	}
	for _, text := range []string{`{"a": {{json .Alerts}}}`, `[{{range $i, $a := .Alerts}}{{if $i}},{{end}}{{$a}}{{end}}]`} {
		if said, err := readyBody(t, text).Render(&n); !errors.Is(err, ErrLongBody) {
			t.Errorf("%s says %d bytes, %v", text, len(said), err)
		}
	}
}

// What is JSON only with some events is no message with the others.
func TestBodyThatFails(t *testing.T) {
	n := *bodyTrials()[0].Data.(*Notification)
	b := readyBody(t, `{"a": 1{{if eq .Firing 7}}{{if eq .Firing 8}}{{else}}, "b": {{(index .Alerts 1).Status}}{{end}}{{end}}}`)
	n.Firing = 7
	if said, err := b.Render(&n); err == nil || !strings.Contains(err.Error(), "the body fails: ") {
		t.Errorf("%s, %v", said, err)
	}
}

// The conditions of a body are few, and what all bodies of a file cost to check is
// bounded: here are as many as there can be of what is the hardest.
func TestManyConditions(t *testing.T) {
	body := func(n int) string {
		var b strings.Builder
		b.WriteString(`{"a": 1`)
		for i := range n {
			fmt.Fprintf(&b, `{{if eq .Rule "%d"}}{{if .Page}}}{{else}}}{{end}}{{else}}{{end}}`, i)
		}
		return b.String() + "}"
	}
	var file strings.Builder
	file.WriteString("receivers:\n")
	for i := range maxReceivers + 1 {
		fmt.Fprintf(&file, "  r%d: {webhook: {url_env: A, body: '%s'}}\n", i, body(16))
	}
	file.WriteString("rules: []\n")
	start := time.Now()
	_, err := Parse(strings.NewReader(file.String()))
	if took := time.Since(start); took > 5*time.Second { // a tenth of a second on an idle machine
		t.Errorf("it took %v", took)
	}
	if err == nil || !strings.Contains(err.Error(), "a file has at most 64 receivers") {
		t.Error(err)
	}
	if _, wrong := readBody(body(32)); wrong == nil || !strings.Contains(wrong.Text, "at most 32 conditions, and this has 64") {
		t.Error(wrong)
	}
}

// Whatever a body is, reading it ends, and one that was taken makes JSON of the trials.
func FuzzBody(f *testing.F) {
	for _, text := range []string{
		`{"text": {{json .Text}}}`, `{"a": "{{.Rule}}", "b": [{{range $i, $a := .Alerts}}{{if $i}},{{end}}"{{$a.Status}}"{{end}}]}`,
		`{{if .Page}}{"a": "{{.Page}}"}{{else}}{}{{end}}`, `{{with .Page}}"{{.}}"{{else}}""{{end}}`, `"\\{{.Text}}\""`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, wrong := readBody(text)
		if (b == nil) != (wrong != nil) {
			t.Fatalf("%v, %v", b, wrong)
		}
		if wrong != nil && (wrong.Offset < 0 || wrong.Offset > len(text)) {
			t.Errorf("%v is not in the text", wrong)
		}
		if b == nil {
			return
		}
		for _, trial := range bodyTrials() {
			if said, err := b.Render(trial.Data.(*Notification)); err != nil || !json.Valid(said) {
				t.Errorf("%s: %s, %v", fmt.Sprintf("%q", text), said, err)
			}
		}
	})
}
