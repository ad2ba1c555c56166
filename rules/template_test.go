package rules

import (
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/rules/internal/templates"
)

// readEvent reads a template over events of a rule whose keys are not known.
func readEvent(text string) (*Template, *templates.Mistake) {
	t, wrong := eventLanguage(nil).Parse(text)
	if wrong != nil {
		return nil, wrong
	}
	return &Template{t}, nil
}

func render(t *testing.T, text string, e Event) string {
	t.Helper()
	m, wrong := readEvent(text)
	if wrong != nil {
		t.Fatalf("%q: %v", text, wrong)
	}
	said, err := m.Render(&e)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return said
}

// What the language can do and an event has is not refused.
func TestTemplates(t *testing.T) {
	e := Event{
		Status: "firing", Rule: "leak", Group: map[string]string{"dst": "192.0.2.1", "dport": "5432"}, Count: 3, PortUsage: 93.06,
		Since: time.Date(2026, 3, 7, 3, 12, 44, 0, time.UTC), Lasted: 90 * time.Second, Holders: "nginx[1] 2, <b>",
	}
	tests := map[string]struct{ text, want string }{
		"fields":            {"{{.Rule}}: {{.Count}} to {{.Group.dst}} for {{.Lasted}}", "leak: 3 to 192.0.2.1 for 1m30s"},
		"methods":           {`{{.Since.Format "15:04"}} {{.Since.UTC.Year}} {{.Lasted.Minutes}} {{"15:04" | .Since.Format}}`, "03:12 2026 1.5 03:12"},
		"printf":            {`{{printf "%.1f%% of %d" .PortUsage .Count}} 100%!`, "93.1% of 3 100%!"},
		"percent signs":     {`{{printf "*%.0f%%* of %s" .PortUsage .Group.dst}} {{printf "%.0f%% (2026-11)" .PortUsage}} {{printf "%.1f%% / 1000" .PortUsage}}`, "*93%* of 192.0.2.1 93% (2026-11) 93.1% / 1000"},
		"branches":          {`{{if and (gt .Count 2) (eq .Status "firing")}}many{{else if .Count}}some{{else}}none{{end}}`, "many"},
		"a slice by values": {`{{if eq .Instance "x"}}{{slice .Holders 2 .Count}}{{slice "abc" 2 .Count}}{{index .Rule 9}}{{end}}`, ""},
		"a guarded slice":   {`{{if gt (len .Holders) 8}}{{slice .Holders 0 8}}{{end}}`, "nginx[1]"},
		"with":              {`{{with .Group}}{{.dst}}:{{.dport}} {{$.Count}}{{else}}{{.Count}}{{end}}`, "192.0.2.1:5432 3"},
		"range":             {`{{range $k, $v := .Group}}{{$k}}={{$v}}{{if eq . "x"}}{{break}}{{end}} {{end}}`, "dport=5432 dst=192.0.2.1 "},
		"range of one name": {`{{range $v := .Group}}{{$v | len}} {{$.Count}} {{end}}`, "4 3 9 3 "},
		"index":             {`{{index .Group "dst" | len}} {{(index .Group "dst") | print}}`, "9 192.0.2.1"},
		"variables":         {`{{$x := .Status}}{{if .Count}}{{$x = .Count}}{{end}}{{$x}} {{$.Group.dport}} {{($).Count}}`, "3 5432 3"},
		"escapes":           {`{{html .Holders}} {{"a b" | urlquery}} {{js "'"}}`, `nginx[1] 2, &lt;b&gt; a+b \'`},
		"nothing to do":     {"{{/* a comment */}}  plain {{- /* trimmed */ -}}  text", "  plaintext"},
		"and, or, not":      {`{{or .Done .Holders}} {{not .Count}} {{(or .Group .Group).dst}}`, "nginx[1] 2, <b> false 192.0.2.1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := render(t, tt.text, e); got != tt.want {
				t.Errorf("%q says %q, want %q", tt.text, got, tt.want)
			}
		})
	}
}

// What a branch does that no trial takes is checked too.
func TestTemplatesFailInNoBranch(t *testing.T) {
	for text, want := range map[string]string{
		"gt .PortUsage 95":          "write 95 beside a whole number",
		"95 | lt .PortUsage":        "write 95 beside a whole number",
		"lt (95) .PortUsage":        "write 95 beside a whole number",
		"eq .Group.dport 443":       "write 95 beside a whole number",
		"and .Count (gt .Growth 5)": "write 95 beside a whole number",
		`eq .Count "5"`:             "write 95 beside a whole number",
		"gt .Count 2.5":             "write 95 beside a whole number",
		"gt .Lasted.Minutes 5":      "write 95 beside a whole number",
		"lt .Since .Since":          "invalid type for comparison",
		"eq .Count":                 "missing argument",
		"eq":                        "wrong number of args for eq",
		"not":                       "wrong number of args for not",
		"print not":                 "wrong number of args for not",
		"and":                       "wrong number of args for and",
		"not 1 2":                   "wrong number of args for not",
		"len .Count":                "len of type int",
		"slice .Count 1":            "can't slice item of type int",
		"index .Count 1":            "can't index item of type int",
		"index .Group .Count":       "value has type int; should be string",
		"call .Rule":                "non-function",
		".Since.Format 5":           "expected string",
		".Since.Format .Count":      "expected string",
		"5 .Count":                  "takes no arguments",
		"(.Count) 5":                "takes no arguments",
		"$.Count.X":                 "a value of type int has no .X",
		"(5).X":                     "a value of type int has no .X",
		`printf "%d %%" .PortUsage`: `it prints "%!d(float64=1)"`,
		`.Count | printf "%s"`:      `it prints "%!s(int=2)"`,
		`printf "%d of %d" .Count`:  `it prints "%!d(MISSING)"`,
		"printf 5":                  "expected string",
	} {
		for _, branch := range []string{`{{if eq .Instance "web-1"}}{{%}}{{end}}`, `{{if or .Count (not .Count)}}{{else}}{{%}}{{end}}`, `{{if and (eq .Rule "x") (%)}}{{end}}`} {
			_, wrong := readEvent(strings.Replace(branch, "%", text, 1))
			if wrong == nil || !strings.Contains(wrong.Text, want) {
				t.Errorf("%s in %s: %v, want %q", text, branch, wrong, want)
			}
		}
	}
}

// Where the kinds of values are known only when it is said, it is not said wrong.
func TestRenderFailsWithoutWords(t *testing.T) {
	m, wrong := readEvent(`{{if eq .Instance "web-1"}}{{slice .Rule 999}}{{end}}{{printf "%d %s" 1 .Holders}}`)
	if wrong != nil {
		t.Fatal(wrong)
	}
	if said, err := m.Render(&Event{Instance: "web-1"}); err == nil || !strings.Contains(err.Error(), "the template fails: <slice .Rule 999>") {
		t.Errorf("it says %q, %v", said, err)
	}
	// A process has the name that it likes.
	if said, err := m.Render(&Event{Holders: "%!d(x)"}); err != nil || said != "1 %!d(x)" {
		t.Errorf("it says %q, %v", said, err)
	}
}

// What people write.
func TestTemplatesPeopleWrite(t *testing.T) {
	for _, text := range []string{
		"{{.Rule}} on {{.Instance}}: {{.Count}} sockets towards {{.Group.dst}}:{{.Group.dport}}",
		`{{if eq .Status "resolved"}}:white_check_mark: {{.Rule}} is over after {{.Lasted}}, {{.Peak}} at most{{else}}:fire: *{{.Rule}}*: {{.Count}}{{end}}`,
		`{{printf "*%.0f%%* of the ports towards %s" .PortUsage .Group.dst}} (<https://wiki/ports|runbook>)`,
		`{{if gt .PortUsage 95.0}}page the network team{{else if gt .PortUsage 80.0}}look soon{{end}}`,
		`{{with .About}}{{.}} {{end}}{{.When}} since {{.Since.Format "2006-01-02 15:04:05 MST"}}{{with .Done}}, done: {{.}}{{end}}`,
		`{{if and (eq .Group.dport "5432") (ne .Instance "db-1")}}postgres{{else}}port {{.Group.dport}}{{end}} {{printf "%6.2f/min" .Growth}}`,
		`{{range $key, $value := .Group}}{{$key}}={{$value | printf "%-15s"}} {{end}}{{if not .Group}}many groups{{end}}`,
		`{{$who := or .Holders "nobody"}}{{if gt (len $who) 40}}{{slice $who 0 40}}...{{else}}{{$who}}{{end}}`,
		`{{if gt .Lasted.Hours 1.0}}{{printf "%.1f h" .Lasted.Hours}}{{else}}{{.Lasted.Minutes | printf "%.0f min"}}{{end}} oldest {{.Oldest.Round 1000000000}}`,
		`{"text": "{{js .Holders}}", "count": {{.Count}}, "at": {{.Since.Unix}}, "night": {{lt .Since.Hour 6}}}`,
		`https://grafana/d/sockets?var-host={{urlquery .Instance}}&from={{.Since.UnixMilli}}`,
		`{{if index .Group "user"}}uid {{index .Group "user"}}{{end}} {{html .Peers}} {{print .Count "/" .Peak}} {{printf "%v %q %x" .Oldest .Rule .Count}}`,
	} {
		if _, wrong := readEvent(text); wrong != nil {
			t.Errorf("%s: %v", text, wrong)
		}
	}
}

// A width that would be more than the memory is found behind any percent sign.
func TestWideVerbs(t *testing.T) {
	for _, format := range []string{"%1000d", "%%%1000d", "%5%%1000d", "%.%%*d", "%[1]*d", "%é%1000d", "%-1000d", "%.1000f"} {
		if _, wrong := readEvent(`{{printf "` + format + `" 1 1}}`); wrong == nil || !strings.Contains(wrong.Text, "999") {
			t.Errorf("%q: %v", format, wrong)
		}
	}
}

// A key of the group that an alert about many groups does not have is empty.
func TestTemplateWithoutGroup(t *testing.T) {
	if got := render(t, "to {{.Group.dst}}.", Event{}); got != "to ." {
		t.Errorf("%q", got)
	}
}

// The longest that a template can make its reader wait.
func TestTemplatesEndSoon(t *testing.T) {
	group := groupValues()
	repeat := func(text string) string { return strings.Repeat(text, (templates.MaxBytes-100)/len(text)) }
	longest := strings.Repeat("x", templates.MaxBytes)
	for name, text := range map[string]string{
		"fields":      repeat("{{.About}}"),
		"unsaid":      `{{$x := ""}}{{range .Group}}` + repeat(`{{$x = printf "%999d%999d%999d%999d" 1 1 1 1}}`) + "{{end}}",
		"all of one":  `{{printf "` + repeat("%[1]s") + `" .About}}`,
		"nested":      strings.Repeat("{{if 1}}", 300) + strings.Repeat("{{end}}", 300),
		"parentheses": "{{" + strings.Repeat("(", 3000) + "1" + strings.Repeat(")", 3000) + "}}",
	} {
		t.Run(name, func(t *testing.T) {
			m, wrong := readEvent(text)
			if wrong != nil && len(wrong.Text) > 200 { // in a line, not with all of its text
				t.Errorf("refused in %d bytes: %s", len(wrong.Text), wrong.Text)
			}
			if m == nil {
				return
			}
			began := cpu() // what a busy machine takes from it does not count
			said, err := m.Render(&Event{Group: group, About: longest})
			took := cpu() - began
			if took > time.Second {
				t.Errorf("%v of CPU time", took)
			}
			if len(said) > templates.MaxBytes+len("...") {
				t.Errorf("it says %d bytes", len(said))
			}
			t.Log(took, len(said), err)
		})
	}
}

func FuzzTemplate(f *testing.F) {
	for _, text := range []string{
		"{{.Count}} to {{.Group.dst}}", "{{.Group | index}}{{slice}}{{index}}", "{{range $k, $v := .Group}}{{$k}}{{else}}{{.Rule}}{{end}}",
		`{{with $x := .Since}}{{.Year}}{{$x = 3}}{{end}}`, `{{(index .Group "dst").X}}`, "{{nil}}", "{{$}}{{.}}", "{{define \"x\"}}{{end}}", "{{call .Count}}",
		`{{printf "%*d" 5 5}}`, "{{and}}{{or 1}}", "{{block \"\" .}}{{end}}", "{{range 5}}{{end}}", "{{if $x := 1}}{{$y := 2}}{{else}}{{$y}}{{end}}",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, wrong := readEvent(text)
		if (m == nil) == (wrong == nil) {
			t.Fatalf("%q: %v, %v", text, m, wrong)
		}
		if wrong != nil && (wrong.Offset < 0 || wrong.Offset > len(text)) {
			t.Fatalf("%q: %+v", text, wrong)
		}
		if m == nil {
			return
		}
		if said, err := m.Render(&Event{}); err == nil && len(said) > templates.MaxBytes+len("...") {
			t.Fatalf("%q says %d bytes", text, len(said))
		}
	})
}
