package web

import (
	"encoding/json"
	"flag"
	"fmt"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/realtest"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/status/statustest"
)

var screenshots = flag.String("screenshots", "", "`directory` to keep the pictures of the page in")

// The namespaces keep the browser to itself: it has a mind to call home.
func TestMain(m *testing.M) {
	if address := os.Getenv(attackEnv); address != "" {
		attack(address, 500)
	}
	nstest.Main(m)
}

// tab is the page in a browser.
type tab struct {
	*realtest.Tab
	t      *testing.T
	server *httptest.Server
}

// browse opens a browser, which takes a busy machine long: before the test makes what the page is to show,
// so that this is not of long ago.
func browse(t *testing.T) *tab { return &tab{Tab: realtest.OpenTab(t), t: t} }

// open shows the page that a handler serves.
func (b *tab) open(h http.Handler) *tab {
	b.t.Helper()
	b.server = httptest.NewServer(h)
	b.t.Cleanup(b.server.Close)
	b.Show(b.server.URL + "/")
	b.Await(`document.querySelector("#verdict .badge") != null`)
	return b
}

func want(t *testing.T, page string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(page) {
			t.Errorf("nothing in the page matches %s", p)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
}

func TestPage(t *testing.T) {
	page := browse(t).open(handler(statustest.Lively(time.Now()))).DOM()
	want(t, page,
		`<p id="verdict" role="status"><span class="badge bad">2 problems · 1 firing</span>`,
		`receiver chat: 3 alerts wait.*<code><bdi>receiver chat</bdi></code> for `,
		` · events, 12 network namespaces, 3 with older connections by scans, 2 without room in the table, 1 missed by it`,
		`postgres-close-wait <span class="badge good">enabled</span>`,
		`time-wait-flood <span class="badge good">enabled</span><span class="badge bad">1 firing</span><span class="badge waiting">1 pending</span>`,
		`dead-cache <span class="badge bad">stopped</span>`,
		`idle-backend <span class="badge waiting">dry run</span>`,
		`kill: 1,284 done, 31 gone · 2 held back · skipped: 2 in use, 30 protected`,
		`skipped: 3 holders unknown`,
		`<p class="text"><bdi>close-wait, dport = :5432, in_state_for 5m: kill</bdi></p>`,
		`<p class="held-by">held by <bdi>java</bdi> 2, <bdi>unknown</bdi> 1</p>`,
		`<dt>waiting</dt><dd>43<small>first due in 34s</small></dd>`,
		`<dt>waiting</dt><dd>7</dd>`,
		`would shutdown 5`,
		`<span class="badge waiting">would shutdown</span>`,
		`<span class="badge good">gone before kill</span>`,
		`alert: 11 raised`,
		`<span class="swatch blank"></span>Grey: not counted\.`,
		`aria-valuenow="96" aria-valuetext="port_usage 76\.5% \(&gt; 80%\)"><rect width="96"`,
		`<span class="badge waiting">pending for 20s</span>`,
		`<bdi>java</bdi>\[4711\]`,
		`<a href="#problems" class="bad">Problems <b>2</b></a><a href="#rules-title" class="">Rules <b>7</b></a>`,
		`>Plots <b>\d</b></a><a href="#actions-title" class="">Actions <b>6</b></a>`,
		// States that had a socket are shown, others can be.
		`data-state="close-wait" aria-pressed="true"`,
		`data-state="last-ack" aria-pressed="false"`,
	)
	// A quiet group far from its threshold is not.
	if strings.Contains(page, "2001:db8::15 ") || strings.Contains(page, "4,102") {
		t.Error("a group that is far from firing is shown")
	}
	for _, state := range []string{"close-wait", "time-wait", "established"} {
		figure, _, _ := strings.Cut(page[strings.Index(page, `<figure class="`+state):], "</figure>")
		lines := regexp.MustCompile(`class="line" d="M([^"]*)"`).FindAllStringSubmatch(figure, -1)
		points := 0
		for _, line := range lines {
			points += strings.Count(line[1], "L") + 1
		}
		// The three minutes in which nothing was read part the line.
		if len(lines) != 2 || points != 240-12 {
			t.Errorf("%s: %d points in %d lines, want 228 in 2", state, points, len(lines))
		}
		want(t, figure, `class="unread"`, `>sockets</text>`, `>\d\d:(00|15|30|45)</text>`)
	}
}

// Since the daemon has just begun, plots begin with it. What it may not do, what is of
// yesterday and what there is too much of is shown as such.
func TestPageOfABeginning(t *testing.T) {
	b := browse(t)
	now := time.Now()
	s := statustest.Lively(now)
	s.ActionPossible["kill"] = false
	s.Actions[1].Time = now.Add(-24 * time.Hour)
	due := 0.0
	s.Rules[0].FirstDueSeconds = &due
	for len(s.Actions) < 50 {
		s.Actions = append(s.Actions, s.Actions[0])
	}
	var r status.Recorder
	for at := now.Add(-2 * time.Minute); !at.After(now); at = at.Add(15 * time.Second) {
		r.Record(at, status.Sockets{"close-wait": 7})
	}
	s.History = r.History(now)
	page := b.open(handler(s)).DOM()
	figure, _, _ := strings.Cut(page[strings.Index(page, `<figure class="close-wait`):], "</figure>")
	if n := strings.Count(figure, `class="line"`); n != 1 || strings.Contains(figure, `class="unread"`) || !strings.Contains(figure, `data-count="9"`) {
		t.Errorf("%d lines, want one of 9 points and nothing before:\n%s", n, figure)
	}
	want(t, figure, `>\d\d:\d\d</text>`)
	want(t, page, `<small>some due since the last scan</small>`, `postgres-close-wait <span class="badge bad">cannot kill</span>`, `dead-cache <span class="badge bad">stopped</span>`,
		now.Add(-24*time.Hour).Format(">15:04:05, 2006-01-02</time>"))
	if n := strings.Count(page, `<td data-name="Time">`); n != 10 {
		t.Errorf("%d actions, want 10", n)
	}
}

// Where counting is dear the counts are far between, and old: a plot is one line
// all the same, and does not call them those of now.
func TestPageOfRareCounts(t *testing.T) {
	b := browse(t)
	now := time.Now()
	s := statustest.Lively(now)
	s.SocketsAt, s.SocketsEverySeconds = now.Add(-190*time.Second), 600
	var r status.Recorder
	for at := now.Add(-53 * time.Minute); at.Before(now); at = at.Add(10 * time.Minute) {
		r.Record(at, status.Sockets{"close-wait": 7})
	}
	s.History = r.History(now)
	page := b.open(handler(s)).DOM()
	figure, _, _ := strings.Cut(page[strings.Index(page, `<figure class="close-wait`):], "</figure>")
	if n := strings.Count(figure, `class="line"`); n != 1 || strings.Contains(figure, `class="unread"`) {
		t.Errorf("%d lines, want one and nothing unread:\n%s", n, figure)
	}
	want(t, figure, `>3m 10s ago 46, highest 7<`)
}

// What stands in a rule or a process's name must stay text.
func TestPageEscapes(t *testing.T) {
	b := browse(t)
	const trap = `<img src=x onerror="document.title='caught'"><script>document.title='caught'</script>"'>`
	s := statustest.Lively(time.Now())
	s.Host, s.File.Path = trap, trap
	s.Problems[0].Text, s.Problems[0].Cure = trap, trap
	r := &s.Rules[1]
	r.Name, r.Description, r.Mode = trap, trap, status.Mode(trap)
	r.Actions = map[string]status.Tally{trap: {journal.Result(trap): 1}}
	g := &r.Groups[0]
	g.Labels, g.Phase = map[string]string{trap: trap}, status.Phase(trap)
	g.Conditions[0].Metric, g.Conditions[0].Op, g.Conditions[0].Unit = trap, trap, trap
	a := &s.Actions[0]
	r.HeldBy = []status.ProcessSockets{{Process: trap, Sockets: 1}}
	a.Rule, a.Action, a.Result, a.Reason, a.Comm = trap, trap, journal.Result(trap), trap, trap
	a.Pod, a.Container, a.Unit = trap, trap, trap
	page := b.open(handler(s)).DOM()
	if strings.Contains(page, "<img") || strings.Count(page, "<script") != 2 {
		t.Error("a name became markup")
	}
	if strings.Contains(page, "<title>caught") {
		t.Error("a name was run")
	}
	if n := strings.Count(page, "&lt;img src=x"); n < 17 {
		t.Errorf("the names are shown in %d places only", n)
	}
	if t.Failed() {
		t.Log(page)
	}
}

// No name governs how the page is read.
func TestPageDirection(t *testing.T) {
	b := browse(t)
	s := statustest.Lively(time.Now())
	s.Host, s.Rules[1].Description, s.Actions[0].Comm = "a\u202eb", "c\u2066d\u2028", "e\u202e\x00f"
	page := b.open(handler(s)).DOM()
	want(t, page, "<title>2 problems · 1 firing · a\uFFFDb · sockdog</title>", "<bdi>a\uFFFDb</bdi>", "<bdi>c\uFFFDd\uFFFD</bdi>", `<bdi>e\x{FFFD}\x{FFFD}f</bdi>\[4711\]`)
}

// A page that outlives its daemon becomes that of the next one.
func TestPageOfNextVersion(t *testing.T) {
	b := browse(t)
	store := showing(statustest.Lively(time.Now()))
	b.open(Handler(store, nil, noAges))
	b.Await(`document.querySelector("#about").textContent.includes("v0.4.0")`)
	b.Eval(`document.body.dataset.page = "first"`)
	next := statustest.Lively(time.Now())
	next.Version = "v0.5.0"
	store.Show(next)
	b.Await(`document.body.dataset.page != "first" && document.querySelector("#about")?.textContent.includes("v0.5.0") == true`)
}

// On a phone what fires is on the first screens, and a tap reads a plot.
func TestPageOnPhone(t *testing.T) {
	b := browse(t)
	lively := func() *status.Status {
		s := statustest.Lively(time.Now())
		resting := make([]status.Rule, 30)
		for i := range resting {
			resting[i] = status.Rule{Name: fmt.Sprint("resting-", i), Mode: status.Enabled}
		}
		s.Rules = append(resting, s.Rules...)
		return s
	}
	store := showing(lively())
	b.open(Handler(store, nil, noAges))
	b.Call("Emulation.setDeviceMetricsOverride", map[string]any{"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": true}, nil)
	b.Call("Emulation.setTouchEmulationEnabled", map[string]any{"enabled": true}, nil)
	const (
		order  = `[...document.querySelectorAll("#rules > article")].map((r) => r.dataset.rule).join(" ")`
		folded = `document.querySelector("#resting details")`
		point  = `document.querySelector("figure[data-state=close-wait] .reading").textContent`
		plot   = `document.querySelector("figure[data-state=close-wait] svg")`
	)
	b.Await(order + ` == "time-wait-flood dead-cache postgres-close-wait ports-run-out idle-backend unsure"`)
	b.Await(`document.querySelector("[data-rule=time-wait-flood]").getBoundingClientRect().top < 844`)
	b.Await(folded + `.querySelector("summary").textContent == "31 rules that match nothing" && !` + folded + `.open`)
	b.Await(`document.documentElement.scrollWidth == 390`)

	// What was unfolded stays so.
	b.Eval(folded + `.querySelector("summary").click()`)
	next := lively()
	next.Rules[0].Sockets = 1
	store.Show(next)
	b.Await(folded + `.querySelector("summary").textContent == "30 rules that match nothing" && ` + folded + `.open`)

	b.Eval(plot + `.scrollIntoView({block: "center"})`)
	tap := func(x, y string) {
		t.Helper()
		at := map[string]any{}
		for name, expression := range map[string]string{"x": x, "y": y} {
			n, err := strconv.ParseFloat(b.Eval(expression), 64)
			if err != nil {
				t.Fatal(err)
			}
			at[name] = n
		}
		b.Call("Input.dispatchTouchEvent", map[string]any{"type": "touchStart", "touchPoints": []any{at}}, nil)
		b.Call("Input.dispatchTouchEvent", map[string]any{"type": "touchEnd", "touchPoints": []any{}}, nil)
	}
	b.Await(`/^3s ago 46, highest 46$/.test(` + point + `)`)
	tap(plot+`.getBoundingClientRect().right - 12`, plot+`.getBoundingClientRect().top + 80`)
	b.Await(`/^\d\d:\d\d: \d+$/.test(` + point + `)`)
	tap("5", plot+`.getBoundingClientRect().top + 80`) // beside it
	b.Await(`/^3s ago 46, highest 46$/.test(` + point + `)`)
}

func TestPageOfNothing(t *testing.T) {
	dom := func(b *tab, s *status.Status) string { return b.open(handler(s)).DOM() }
	want(t, dom(browse(t), nil), `<span class="badge bad">the daemon says: starting</span>`)
	want(t, dom(browse(t), &status.Status{Time: time.Now()}),
		`<span class="badge waiting">starting</span>`, `There are no rules\.`, `No sockets in any state that was counted\.`, `No actions yet\.`)
	want(t, dom(browse(t), &status.Status{
		Time: time.Now(), Ready: true, Host: "h",
		File: status.RulesFile{Path: "r.yaml", BuiltIn: true}, Scans: status.Scans{IntervalSeconds: 0.25},
	}), `<title>all well · h · sockdog</title>`, `<span class="badge good">all well</span>`, ` 0 built-in rules, in force for `, `scans every 250ms`)
	want(t, dom(browse(t), &status.Status{Time: time.Now().Add(-time.Minute), Ready: true}), `the watch loop has not turned for`)
}

// The page keeps up with the daemon, and what one did to it stays.
func TestPageInUse(t *testing.T) {
	b := browse(t)
	store := showing(statustest.Lively(time.Now()))
	b.open(Handler(store, nil, noAges))
	const (
		plot   = `document.querySelector("figure[data-state=last-ack]")`
		button = `document.querySelector("button[data-state=last-ack]")`
		header = `getComputedStyle(document.querySelector("header")).position`
		pool   = `document.querySelector("article[data-rule=postgres-close-wait]")`
	)

	b.Await(plot + ` == null`)
	b.Eval(button + `.focus()`)
	b.Press(" ")
	b.Await(plot + ` != null && ` + button + `.ariaPressed == "true"`)
	b.Eval(`document.querySelector("figure[data-state=close-wait] svg").focus()`)
	b.Press("ArrowLeft")
	b.Await(`/^\d\d:\d\d: 44$/.test(document.querySelector("figure[data-state=close-wait] .reading").textContent)`)

	next := statustest.Lively(time.Now())
	next.Rules[0].Mode, next.Rules[0].Sockets, next.Problems = status.Stopped, 1234, nil
	store.Show(next)
	b.Await(pool + `.querySelector(".badge").textContent == "stopped" && ` + pool + `.querySelector("dd").textContent == "1,234"`)
	b.Await(`document.querySelector("#verdict .waiting").textContent == "no problems · 1 firing" && document.querySelector(".problem") == null`)
	b.Await(`document.title == "no problems · 1 firing · shop-7f9c · sockdog"`)

	paused := *next
	paused.Paused, paused.Problems = &status.Pause{Reason: "deploy", By: "uid 0", Since: next.Time}, status.Problems{{Kind: "paused", Text: "acting is paused: deploy", Since: next.Time}}
	store.Show(&paused)
	b.Await(`document.querySelector("#verdict").textContent == "paused · 1 firing" && document.querySelector("#verdict .bad") != null && document.querySelector(".problem").textContent.includes("acting is paused: deploy")`)
	store.Show(next)
	b.Await(`document.querySelector("#verdict").textContent == "no problems · 1 firing"`)
	b.Await(plot + ` != null && document.activeElement.closest("figure").dataset.state == "close-wait"`)

	b.Await(header + ` == "static"`)
	b.server.Close()
	b.Await(`document.querySelector("#verdict").textContent.startsWith("no answer from the daemon; this page is of ")`)
	b.Await(pool + ` != null && ` + header + ` == "sticky"`)
}

// What the page cannot draw ends nothing: it says so, keeps what it had, and asks
// again.
func TestPageOfAnotherVersion(t *testing.T) {
	lively := func() string {
		text, err := json.Marshal(statustest.Lively(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, misfit := range map[string]string{
		"something else": `{}`,
		"no object":      `null`,
		"no JSON":        `<html>`,
		"without groups": strings.ReplaceAll(lively(), `"groups"`, `"bands"`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var now atomic.Value
			now.Store(misfit)
			b := browse(t).open(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/api/v1/status" {
					io.WriteString(w, now.Load().(string))
					return
				}
				handler(nil).ServeHTTP(w, r)
			}))
			const (
				isMisfit = `document.querySelector("#verdict").textContent == "the daemon has another version than this page: reload it" && document.body.className == "stale"`
				isDrawn  = `document.querySelectorAll("article.rule").length == 7`
			)
			b.Await(isMisfit)
			now.Store(lively())
			b.Await(`document.querySelector("#verdict").textContent == "2 problems · 1 firing" && document.body.className == "" && ` + isDrawn)
			now.Store(misfit)
			b.Await(isMisfit + ` && ` + isDrawn)
		})
	}
}

// The page can be pictured, in light, in the dark and on a phone: it is not blank.
func TestScreenshots(t *testing.T) {
	dir := t.TempDir()
	if *screenshots != "" {
		var err error
		if dir, err = filepath.Abs(*screenshots); err != nil {
			t.Fatal(err)
		}
	}
	for name, args := range map[string][]string{
		"page.png":       {"--window-size=1280,2000"},
		"page-dark.png":  {"--window-size=1280,2000", "--blink-settings=preferredColorScheme=0"},
		"page-phone.png": {"--window-size=390,4100"},
	} {
		server := httptest.NewServer(handler(statustest.Lively(time.Now())))
		defer server.Close()
		path := filepath.Join(dir, name)
		args = append(args, "--virtual-time-budget=2000", "--screenshot="+path, server.URL+"/")
		if out, err := realtest.Chromium(t, args...).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
			continue
		}
		if n := colours(t, path); n < 20 {
			t.Errorf("%s has %d colours: it is blank, or nearly so", name, n)
		}
	}
}

// colours counts those of a picture.
func colours(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[color.Color]bool)
	for y := range picture.Bounds().Dy() {
		for x := range picture.Bounds().Dx() {
			seen[picture.At(x, y)] = true
		}
	}
	return len(seen)
}
