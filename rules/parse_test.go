package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// exprs compares expressions by how they print, which is how they read.
var exprs = cmp.Comparer(func(a, b ssfilter.Expr) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.String() == b.String()
})

func mustParse(t *testing.T, text string) *Set {
	t.Helper()
	set, err := Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func mustExpr(t *testing.T, text string) ssfilter.Expr {
	t.Helper()
	x, err := ssfilter.ParseExpr(text)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestParse(t *testing.T) {
	text, err := os.ReadFile("testdata/good/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	allButListening := ssfilter.AllStates &^ ssfilter.Of(ssfilter.Listening)
	yes, no := true, false
	want := &Set{
		Settings: Settings{Interval: 15 * time.Second, CPUBudget: 0.025, Limit: Limit{100, time.Minute}, Namespaces: SelfNamespace},
		Protect: []Match{
			{States: ssfilter.AllStates, Where: mustExpr(t, "sport = 22 or dport = 22")},
			{States: ssfilter.AllStates, Where: mustExpr(t, "src 10.0.0.0/8 or src [2001:db8::/32]"), Users: []uint32{0}},
		},
		Rules: []Rule{
			{
				Name: "postgres-close-wait", Description: "The pool forgets to close.", Enabled: true, DryRun: true,
				Match: []Match{
					{
						States:     ssfilter.Of(ssfilter.CloseWait),
						Where:      mustExpr(t, "dport = 443 or dport = 5432 or ( dport >= 6000 and dport <= 6010 )"),
						Users:      []uint32{1000, 0},
						InStateFor: 36 * time.Hour,
					},
					{
						States:     ssfilter.Of(ssfilter.CloseWait, ssfilter.TimeWait),
						Where:      mustExpr(t, "( dport = 80 or dst 192.0.2.1 ) and sport >= 1024 and src [::1] and dst 192.0.2.7"),
						Netns:      []Netns{{Name: "blue"}, {Inode: 4026532000}},
						Cgroups:    []string{"/system.slice", "/kubepods.slice/*"},
						Processes:  []string{"java", "node*", "nginx: worker"},
						Cmdlines:   []string{`java .*-jar (a|b, c){1,2}\.jar`, "^node .*/shop or -"},
						Units:      []string{"nginx.service", "postgresql@*.service", `dev-disk\x2dby.swap`, "app-*"},
						Containers: []string{"app", "fa7f0ec4fbcb", "web-?"},
						Pods:       []string{"payments/*", "*/api-*"},
						Unread:     &Threshold{Greater, 1},
						InBacklog:  &no,
						Keepalive:  &yes,
						Verdicts:   []Verdict{EOFUnread, UnreadData},
						InStateFor: 90 * time.Second,
					},
				},
				Exclude: []Match{{States: ssfilter.AllStates, Where: mustExpr(t, "dport = 8080"), Verdicts: []Verdict{StillSending}}},
				Then:    []Action{{Kind: Log}, {Kind: Kill, After: 10 * time.Minute, Limit: Limit{10, 30 * time.Second}, Order: Newest, MaxMatches: 10_000, Canary: &Canary{3, time.Minute, "https://shop.example/healthz"}}},
			},
			{
				Name:  "idle-pool",
				Match: []Match{{States: ssfilter.Of(ssfilter.Established), Where: mustExpr(t, "dst 192.0.2.0/24"), IdleFor: time.Hour}},
				Then:  []Action{{Kind: Kill, Limit: Limit{60, time.Minute}, Order: Oldest, Most: 0.5, MaxMatches: 10_000, Canary: &Canary{First: 1, Wait: 10 * time.Second}}},
			},
			{
				Name: "dead-peer", Enabled: true,
				Match: []Match{{States: allButListening, StalledFor: 5 * time.Minute, SilentFor: 10 * time.Minute}},
				Then:  []Action{{Kind: Log}},
			},
			{
				Name: "drops", Enabled: true, GroupBy: []GroupKey{ByNetns}, For: 2 * time.Minute,
				When: []Condition{{ListenDrops, Greater, 10}}, Until: []Condition{{ListenDrops, Equal, 0}},
				Then: []Action{{Kind: Log}},
			},
			{
				Name: "host", Enabled: true,
				When: []Condition{{Orphans, Greater, 80}, {TCPMemory, Greater, 90.5}},
				Then: []Action{{Kind: Log}},
			},
		},
	}
	got := mustParse(t, string(text))
	kinds := cmp.Comparer(func(a, b *Kind) bool { return a == b })
	if diff := cmp.Diff(want, got, exprs, kinds, cmpopts.IgnoreFields(Rule{}, "Sum")); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	tests := map[string]struct {
		text string
		get  func(*Set) any
		want any
	}{
		"settings": {
			"rules: []", func(s *Set) any { return s.Settings },
			Settings{CPUBudget: 0.01, Limit: Limit{5000, time.Minute}, Namespaces: SelfNamespace},
		},
		"settings beside others": {
			"settings: {interval: 1s}\nrules: []", func(s *Set) any { return s.Settings },
			Settings{Interval: time.Second, CPUBudget: 0.01, Limit: Limit{5000, time.Minute}, Namespaces: SelfNamespace},
		},
		"protect": {
			"rules: []", func(s *Set) any { return s.Protect },
			[]Match{
				{States: ssfilter.AllStates, Where: mustExpr(t, "sport = 22 or dport = 22")},
				{States: ssfilter.AllStates, Processes: []string{"sshd", "sshd-session", "sshd-auth", "kubelet", "containerd", "crio", "dockerd"}, IfKnown: true},
			},
		},
		"protect nothing": {
			"protect: []\nrules: []", func(s *Set) any { return len(s.Protect) }, 0,
		},
		"dry_run of the settings is that of each rule": {
			"settings: {dry_run: true}\nrules: [{name: a, dry_run: false, match: {state: close-wait}}]",
			func(s *Set) any { return s.Rules[0].DryRun }, true,
		},
		"limit": {
			"rules: [{name: a, match: {state: close-wait, in_state_for: 5m}, then: kill}]",
			func(s *Set) any { return s.Rules[0].Then[0].Limit }, Limit{1000, time.Minute},
		},
		"limit of fin-wait-2, which may be live": {
			"rules: [{name: a, match: [{state: close-wait, in_state_for: 5m}, {state: fin-wait-2, dport: 80, idle_for: 5m}], then: kill}]",
			func(s *Set) any { return s.Rules[0].Then[0].Limit }, Limit{60, time.Minute},
		},
		"limit given": {
			"rules: [{name: a, match: {state: established, dport: 80, idle_for: 5m}, then: {kill: {limit: 7/h}}}]",
			func(s *Set) any { return s.Rules[0].Then[0].Limit }, Limit{7, time.Hour},
		},
		"own key before a merged one": {
			"x-a: &a {state: time-wait, dport: 80}\nrules: [{name: a, match: {<<: *a, state: close-wait}}]",
			func(s *Set) any { return s.Rules[0].Match[0] },
			Match{States: ssfilter.Of(ssfilter.CloseWait), Where: mustExpr(t, "dport = 80")},
		},
		"byte order mark and CRLF": {
			"\ufeffversion: 1\r\nrules:\r\n  - name: a\r\n    match: {state: close-wait}\r\n",
			func(s *Set) any { return s.Rules[0].Name }, "a",
		},
		"an operator that begins with ! in quotes": {
			"rules: [{name: a, match: {filter: '! dport = 22'}}]",
			func(s *Set) any { return s.Rules[0].Match[0].Where }, mustExpr(t, "not dport = 22"),
		},
		"an alias for a list, a scalar and a mapping": {
			"x-s: &s close-wait\nx-p: &p [80, 81]\nx-m: &m {state: *s, dport: *p}\nprotect: [*m]\nrules: [{name: a, match: *m}]",
			func(s *Set) any { return []Match{s.Protect[0], s.Rules[0].Match[0]} },
			[]Match{
				{States: ssfilter.Of(ssfilter.CloseWait), Where: mustExpr(t, "dport = 80 or dport = 81")},
				{States: ssfilter.Of(ssfilter.CloseWait), Where: mustExpr(t, "dport = 80 or dport = 81")},
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.get(mustParse(t, tt.text)), exprs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefusesWhatIsNoText(t *testing.T) {
	tests := map[string]struct {
		text         string
		line, column int
		msg          string // begins with
	}{
		"empty":                     {"", 1, 1, "the file holds no rules"},
		"blank":                     {"\n\n", 1, 1, "the file holds no rules"},
		"null":                      {"~\n", 1, 1, "the file holds no rules"},
		"only a mark":               {"---\n", 1, 1, "the file holds no rules"},
		"NUL":                       {"rules: []\n# \x00\n", 2, 3, "the invisible character U+0000"},
		"escape sequence":           {"rules: []\n# \x1b[31m\n", 2, 3, "the invisible character U+001B"},
		"lone carriage return":      {"# a\rrules: []\n", 1, 4, "the invisible character U+000D"},
		"line separator":            {"# a\u2028rules: []\n", 1, 4, "the invisible character U+2028"},
		"text that runs backwards":  {"rules: [] # \u202e\n", 1, 13, "the invisible character U+202E"},
		"byte order mark within":    {"rules: [] # \ufeff\n", 1, 13, "the invisible character U+FEFF"},
		"not UTF-8":                 {"rules: []\n# é \xe9\n", 2, 5, "the byte 0xe9 is not UTF-8"},
		"UTF-16":                    {"\xff\xfer\x00", 1, 1, "the byte 0xff is not UTF-8"},
		"one byte too large":        {"rules: []\n#" + strings.Repeat("x", document.MaxBytes-10), 1, 1, "the file is larger than 1 MiB"},
		"replacement character":     {"rulez: [] # \ufffd\n", 1, 1, "unknown key"},
		"alias to an unknown name":  {"rules: *a", 1, 8, "this alias has no anchor &a"},
		"a list that holds itself":  {"x-a: &a [*a]\nrules: *a", 1, 6, "a rule is a mapping"},
		"a mapping that is its key": {"x-a: &a {*a : 1}\nrules: [*a]", 1, 6, "a key must be a word"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			set, err := Parse(strings.NewReader(tt.text))
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("Parse = %v, %v; want Problems", set, err)
			}
			p := problems[0]
			if p.Line != tt.line || p.Column != tt.column || !strings.HasPrefix(p.Msg, tt.msg) {
				t.Errorf("got %d:%d: %s; want %d:%d: %s", p.Line, p.Column, p.Msg, tt.line, tt.column, tt.msg)
			}
		})
	}
}

// counter counts what is read of an endless text.
type counter struct{ n int64 }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '#'
	}
	c.n += int64(len(p))
	return len(p), nil
}

func TestParseReadsNoMoreThanItTakes(t *testing.T) {
	var endless counter
	if _, err := Parse(&endless); err == nil {
		t.Error("an endless file was accepted")
	}
	if endless.n > 4*document.MaxBytes {
		t.Errorf("%d bytes were read, want no more than four times %d", endless.n, document.MaxBytes)
	}
}

func TestParseAtTheLimit(t *testing.T) {
	mustParse(t, "rules: []\n#"+strings.Repeat("x", document.MaxBytes-11))
}

func TestParsePassesReadErrorsOn(t *testing.T) {
	broken := errors.New("is a directory")
	_, err := Parse(io.MultiReader(strings.NewReader("rules: []\n"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("Parse = %v, want %v", err, broken)
	}
	if _, err := Lint(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("Lint = %v, want %v", err, broken)
	}
}

func TestAliasBomb(t *testing.T) {
	var lists, merges strings.Builder
	lists.WriteString("x-0: &l0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n")
	merges.WriteString("x-0: &m0 {dport: 80}\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&lists, "x-%d: &l%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d, ", i-1), 10), ", "))
		fmt.Fprintf(&merges, "x-%d: &m%d {<<: [%s]}\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*m%d, ", i-1), 10), ", "))
	}
	ports := "x-p: &p [" + strings.TrimSuffix(strings.Repeat("1, ", 1000), ", ") + "]\n"
	matches := "rules: [{name: a, match: [" + strings.TrimSuffix(strings.Repeat("{dport: *p}, ", 1000), ", ") + "]}]"
	tests := map[string]string{
		"lists within lists": lists.String() + "rules: *l9\n",
		"merges of merges":   merges.String() + "rules: [{name: a, match: *m9}]\n",
		"one list, often":    ports + matches,
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			set, err := Parse(strings.NewReader(text))
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("Parse = %v, %v; want Problems", set, err)
			}
		})
	}
}

func TestProblemsAreBounded(t *testing.T) {
	text := "rules:\n" + strings.Repeat("- a\n", 20_000)
	_, err := Parse(strings.NewReader(text))
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	if len(problems) != document.MaxProblems || problems.Count() != 20_000 {
		t.Errorf("%d problems of %d, want %d of 20000", len(problems), problems.Count(), document.MaxProblems)
	}
	for said, want := range map[string]string{problems.Error(): "; and 19900 more", problems.Report("f"): "f: and 19900 more, which are not shown\n"} {
		if !strings.HasSuffix(said, want) {
			t.Errorf("what is said ends with %q, want %q", said[len(said)-100:], want)
		}
	}
}

func TestBuiltinRulesTouchNothing(t *testing.T) {
	set := Default()
	if len(set.Rules) == 0 {
		t.Fatal("no built-in rules")
	}
	for _, r := range set.Rules {
		if !r.Enabled {
			t.Errorf("%s is disabled", r.Name)
		}
		for _, a := range r.Then {
			if a.Kind.Destructive {
				t.Errorf("%s does %s", r.Name, a.Kind)
			}
		}
	}
	warnings, err := Lint(bytes.NewReader(builtin))
	if err != nil || len(warnings) > 0 {
		t.Errorf("Lint: %v %v", warnings, err)
	}
}

func TestThreshold(t *testing.T) {
	tests := map[string][]uint64{ // of 1, 2 and 3, those for which it holds
		"< 2": {1}, "<= 2": {1, 2}, "> 2": {3}, ">= 2": {2, 3}, "= 2": {2}, "==2": {2}, "!=2": {1, 3},
	}
	for text, want := range tests {
		set := mustParse(t, fmt.Sprintf("rules: [{name: a, match: {unread: %q}}]", text))
		var got []uint64
		for n := uint64(1); n <= 3; n++ {
			if set.Rules[0].Match[0].Unread.Holds(n) {
				got = append(got, n)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestDuration(t *testing.T) {
	tests := map[string]time.Duration{
		"1ms": time.Millisecond, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute,
		"1d": 24 * time.Hour, "2d12h": 60 * time.Hour, "0.5d": 12 * time.Hour, "366d": longest, "0d5m": 5 * time.Minute,
	}
	for text, want := range tests {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "d5m", "1dd", "-1d", "+5m", "1d-5m", "366d1ms", "NaNd", "Infd", "0x1d", "1_0d", "99999999999999999999d", ".5s", "5", "0d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
}

// FuzzParse holds that reading ends without a panic, and that every problem
// stands in the text.
func FuzzParse(f *testing.F) {
	for _, folder := range []string{"good", "bad", "lint"} {
		files, err := os.ReadDir("testdata/" + folder)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile("testdata/" + folder + "/" + file.Name())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := Parse(bytes.NewReader(text))
		if (set == nil) == (err == nil) {
			t.Fatalf("Parse = %v, %v", set, err)
		}
		warnings, lintErr := Lint(bytes.NewReader(text))
		if fmt.Sprint(err) != fmt.Sprint(lintErr) {
			t.Fatalf("Lint fails with %v, Parse with %v", lintErr, err)
		}
		var problems Problems
		if err != nil && !errors.As(err, &problems) {
			t.Fatalf("%v is no Problems", err)
		}
		lines := strings.Split(strings.TrimPrefix(string(text), "\ufeff"), "\n")
		for _, p := range append(problems, warnings...) {
			if p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > len([]rune(lines[p.Line-1]))+1 {
				t.Fatalf("%d:%d (%s) lies outside the text", p.Line, p.Column, p.Msg)
			}
			if p.Msg == "" || strings.Contains(p.Msg, "\n") {
				t.Fatalf("the message %q is not one line", p.Msg)
			}
		}
		if err != nil {
			return
		}
		for _, r := range set.Rules {
			for _, m := range r.Match {
				kills := len(r.Then) > 0 && r.Then[len(r.Then)-1].Kind == Kill
				if kills && (m.InStateFor == 0 && m.IdleFor == 0 && m.StalledFor == 0 && m.SilentFor == 0 || m.States&ssfilter.Unconnected != 0) {
					t.Fatalf("the rule %s may kill with %+v", r.Name, m)
				}
			}
		}
	})
}
