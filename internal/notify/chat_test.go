package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sockdog/sockdog/internal/alert"
	"github.com/sockdog/sockdog/internal/readfile"
	"github.com/sockdog/sockdog/rules"
)

var update = flag.Bool("update", false, "write the golden files anew")

// chats are the formats that have a schema of their own.
var chats = []rules.Format{rules.FormatSlack, rules.FormatTeams, rules.FormatPagerDuty, rules.FormatDiscord}

const routingKey = "0123456789abcdefghijklmnopqrstuv"

// chat is a server of one of the services. It takes what the service's published
// schema and limits allow, and answers as the service does.
type chat struct {
	*httptest.Server
	bodies chan []byte
}

func newChat(t *testing.T, format rules.Format) *chat {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join("testdata", "schema", string(format)+".json"))
	if err != nil {
		t.Fatal(err)
	}
	c := &chat{bodies: make(chan []byte, 100)}
	c.Server = plain(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		err := accepts(schema, format, body)
		switch {
		case r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json":
			t.Errorf("%s of %s", r.Method, r.Header.Get("Content-Type"))
			w.WriteHeader(http.StatusMethodNotAllowed)
		case err != nil:
			t.Errorf("%s refuses: %v\n%.2000s", format, err, body)
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, "invalid_payload")
		case format == rules.FormatSlack:
			fmt.Fprint(w, "ok")
		case format == rules.FormatDiscord:
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
		c.bodies <- body
	})
	return c
}

// accepts holds a message to the schema, and to limits that no schema can say.
func accepts(schema *jsonschema.Schema, format rules.Format, body []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	if err := schema.Validate(v); err != nil {
		return err
	}
	most := map[rules.Format]int{rules.FormatTeams: 28 << 10, rules.FormatPagerDuty: 512 << 10}[format]
	if most > 0 && len(body) > most {
		return fmt.Errorf("%d bytes", len(body))
	}
	switch format {
	case rules.FormatSlack:
		if text := v.(map[string]any)["text"].(string); len(text) > 4000 {
			return fmt.Errorf("%d bytes of text", len(text))
		}
	case rules.FormatDiscord:
		var m struct {
			Content string
			Embeds  []struct{ Description string }
		}
		if err := json.Unmarshal(body, &m); err != nil {
			return err
		}
		for text, most := range map[string]int{m.Content: 2000, m.Embeds[0].Description: 4096} {
			if n := len(utf16.Encode([]rune(text))); n > most || strings.TrimSpace(text) == "" {
				return fmt.Errorf("%d characters", n)
			}
		}
	}
	return nil
}

// receiver is one of that format that tells the server.
func (c *chat) receiver(t *testing.T, format rules.Format) rules.Receiver {
	t.Helper()
	r := to(rules.Webhook, "chat", c.URL)
	r.Format = format
	if format == rules.FormatPagerDuty {
		r.RoutingKey = rules.Source{File: write(t, routingKey+"\n")}
	}
	return r
}

// leak is an alert as sockdog words it.
func leak(dst, holders string) alert.Alert {
	const rule = "postgres-close-wait"
	what := "3 sockets to " + dst + ":5432"
	return alert.Alert{
		Labels: map[string]string{"alertname": rule, "instance": "web-1", "severity": "warning", "dst": dst},
		Annotations: map[string]string{
			"summary": rule + ": " + what + " on web-1",
			"description": "The shop forgets to close: https://wiki.example.com/shop_leaks?q=a&b.\n" +
				"Rule " + rule + " (count > 2): " + what + ".\n" +
				"Firing since 2026-11-22T03:00:00Z, for 1m30s. The oldest has been in its state for 5m0s.\n" +
				"Held by: " + holders + ".\nDone so far: kill: 2 done, since the rule began to fire.",
		},
		StartsAt: time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC),
	}
}

func over(a alert.Alert) alert.Alert {
	a.EndsAt = a.StartsAt.Add(time.Hour)
	return a
}

// stopped is an alert about a rule itself.
func stopped() alert.Alert {
	a := leak("10.0.0.7", "java[4711]")
	delete(a.Labels, "dst")
	delete(a.Labels, "dport")
	a.Labels["problem"] = "stopped"
	a.Annotations = map[string]string{
		"summary":     "postgres-close-wait: stopped itself: its kills made a program spin: java[4711] on web-1",
		"description": "Rule postgres-close-wait: stopped itself: its kills made a program spin: java[4711].\nIt acts no more, and what it would kill stays.",
		"holders":     "java[4711]", "since": "2026-11-22T03:00:00Z",
	}
	return a
}

// hostile is what a process, a user or a template could call itself.
const hostile = "<!channel> <@U012> @everyone @here [free](https://evil.example) ![x](http://evil.example/x.png) *b* _i_ `c` ~s~ ||d|| # h > q \\ & \" \u202eabc\x1b[31m\x00 <at>Jo</at>"

func digests() map[string][]alert.Alert {
	many := []alert.Alert{over(leak("10.0.0.200", "java[4711] 3"))}
	for i := range 101 {
		many = append(many, leak(fmt.Sprintf("10.0.0.%d", i), "java[4711] 3"))
	}
	long := leak("10.0.0.7", "java[4711] 3")
	long.Annotations["summary"] = strings.Repeat("a long summary & ", 500)
	long.Annotations["description"] = strings.Repeat("a long description <💥> \n", 300)
	bad := leak("10.0.0.7", hostile)
	bad.Annotations["summary"] = "one\ntwo " + hostile
	bad.Labels["instance"] = hostile
	silent := alert.Alert{Labels: map[string]string{"alertname": "a"}, StartsAt: long.StartsAt}
	return map[string][]alert.Alert{
		"firing":   {leak("10.0.0.7", "java[4711] 2, unknown 1")},
		"resolved": {over(leak("10.0.0.7", "java[4711] 2, unknown 1"))},
		"mixed":    {leak("10.0.0.7", "java[4711] 3"), leak("10.0.0.8", "java[4711] 3"), over(leak("10.0.0.9", "java[4711] 3"))},
		"many":     many,
		"long":     {long},
		"hostile":  {bad},
		"silent":   {silent},
		"rule":     {stopped()},
	}
}

// Every format is what its service takes, whatever an alert says.
func TestChats(t *testing.T) {
	for _, format := range chats {
		for name, alerts := range digests() {
			t.Run(string(format)+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := newChat(t, format)
				n := newNotifier(Options{Log: quiet, Page: "http://web-1:9797/"}, usual)
				defer n.Close(context.Background())
				n.Reconfigure([]rules.Receiver{c.receiver(t, format)})
				n.Set("chat", alerts...)
				var pretty bytes.Buffer
				select {
				case body := <-c.bodies:
					if err := json.Indent(&pretty, body, "", "  "); err != nil {
						t.Fatal(err)
					}
				case <-time.After(20 * time.Second):
					t.Fatal("nothing comes")
				}
				pretty.WriteByte('\n')
				golden(t, filepath.Join("testdata", "chat", string(format)+"-"+name+".golden"), pretty.Bytes())
			})
		}
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run go test ./internal/notify -update", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// A chat hears of a rule once, and again when something begins or ends: not each
// minute, however often the numbers change.
func TestChatsAreToldOnce(t *testing.T) {
	for _, format := range chats {
		t.Run(string(format), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				r := to(rules.Webhook, "chat", "hook")
				r.Format = format
				w.configure(r)
				w.fire("chat", "a1")
				if n := len(w.after(time.Second)); n != 1 {
					t.Errorf("%d messages at first", n)
				}
				for i := range 180 {
					w.Set("chat", alert.Alert{Labels: labels("a1"), Annotations: map[string]string{"count": fmt.Sprint(i)}, StartsAt: w.start})
					if n := len(w.after(time.Minute)); n > 0 {
						t.Fatalf("%d messages after %v", n, time.Since(w.start))
					}
				}
				w.fire("chat", "a2")
				if n := len(w.after(time.Minute)); n != 1 {
					t.Errorf("%d messages about what is new", n)
				}
				w.end("chat", "a1", "a2")
				if n := len(w.after(24 * time.Hour)); n != 1 {
					t.Errorf("%d messages about the end", n)
				}
			})
		})
	}
}

// pagerEvent is what of an event TestIncidents reads.
type pagerEvent struct {
	EventAction string `json:"event_action"`
	DedupKey    string `json:"dedup_key"`
	Payload     *struct {
		Severity      string
		CustomDetails struct{ Firing, Resolved int } `json:"custom_details"`
	}
}

// PagerDuty has an incident for each rule and severity, which ends with the last alert of it,
// and one for each problem of a rule itself.
func TestIncidents(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var events []pagerEvent
		w.post = func(_ context.Context, _ *rules.Receiver, _ rules.Source, body []byte) (time.Duration, error) {
			var e pagerEvent
			if err := json.Unmarshal(body, &e); err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			events = append(events, e)
			return 0, nil
		}
		after := func(d time.Duration) (got []string) {
			time.Sleep(d)
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, e := range events {
				line := e.EventAction + " " + e.DedupKey[len(e.DedupKey)-4:]
				if e.Payload != nil {
					line += fmt.Sprintf(" %s: %d firing, %d resolved", e.Payload.Severity, e.Payload.CustomDetails.Firing, e.Payload.CustomDetails.Resolved)
				}
				got = append(got, line)
			}
			events = nil
			return got
		}
		want := func(d time.Duration, lines ...string) {
			t.Helper()
			if diff := cmp.Diff(lines, after(d)); diff != "" {
				t.Errorf("at %v (-want +got):\n%s", time.Since(w.start), diff)
			}
		}
		r := to(rules.Webhook, "chat", "hook")
		r.Format = rules.FormatPagerDuty
		w.configure(r)
		severe := func(severity, dst string, ended bool) alert.Alert {
			a := leak(dst, "java[1] 1")
			a.Labels["severity"], a.StartsAt = severity, time.Now()
			if ended {
				a.EndsAt = time.Now()
			}
			return a
		}
		w.Set("chat", severe("warning", "1", false), severe("critical", "1", false), severe("warning", "2", false))
		want(time.Minute, "trigger d25d warning: 2 firing, 0 resolved", "trigger 8eea critical: 1 firing, 0 resolved")
		w.Set("chat", severe("critical", "1", true))
		want(time.Minute, "resolve 8eea")
		w.Set("chat", severe("warning", "1", true))
		want(time.Minute, "trigger d25d warning: 1 firing, 1 resolved")
		w.Set("chat", severe("warning", "2", true))
		want(24*time.Hour, "resolve d25d")
		problem := stopped()
		w.Set("chat", severe("warning", "1", false), problem)
		want(time.Minute, "trigger d25d warning: 1 firing, 0 resolved", "trigger 26b7 warning: 1 firing, 0 resolved")
		w.Set("chat", severe("warning", "1", true))
		want(time.Minute, "resolve d25d")
		w.Set("chat", over(problem))
		want(24*time.Hour, "resolve 26b7")
		if n := len(w.receivers[0].table.byLabels); n != 0 {
			t.Errorf("%d alerts are still held", n)
		}
	})
}

func TestPagerSeverity(t *testing.T) {
	for label, want := range map[string]string{
		"critical": "critical", "Page": "critical", "WARNING": "warning", "warn": "warning", "info": "info", "error": "error", "sev3": "error", "": "error",
	} {
		if got := pagerSeverity(label); got != want {
			t.Errorf("%q: %q, want %q", label, got, want)
		}
	}
}

// Who gets another format, or another key, is told what fires.
func TestNewFormatIsNews(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		r := to(rules.Webhook, "chat", "hook")
		r.Format = rules.FormatSlack
		w.configure(r)
		w.fire("chat", "a1")
		w.want(time.Minute, "100ms hook: ")
		w.configure(r)
		w.want(time.Minute)
		r.Format = rules.FormatPagerDuty
		w.configure(r)
		w.want(time.Minute, "2m0s hook: ")
		r.RoutingKey = rules.Source{File: "/other"}
		w.configure(r)
		w.want(time.Minute, "3m0s hook: ")
	})
}

// The log says what a refusal says, once; not again because the refusal has another
// number each time.
func TestRefusalIsSaidOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var n atomic.Int64
		say := func(text, answer string) func(string) error {
			return func(string) error {
				return &failure{text: text, answer: fmt.Sprintf(answer, n.Add(1)), final: true}
			}
		}
		w.configure(to(rules.Webhook, "chat", "hook"))
		w.answering(say("it answers 400 Bad Request", `{"message": "invalid_payload", "id": "7f%d"}`))
		w.fire("chat", "a1")
		w.said(time.Hour, true, lost+`it answers 400 Bad Request: "{\"message\": \"invalid_payload\", \"id\": \"7f1\"}"`)
		w.answering(say("it answers 400 Bad Request", `{"message": "no_text", "id": "7f%d"}`))
		w.said(time.Hour, true, lost+fmt.Sprintf(`it answers 400 Bad Request: "{\"message\": \"no_text\", \"id\": \"7f%d\"}"`, n.Load()+1))
	})
}

// A chat whose URL is in a file is known only when that is read: that it will refuse
// is said before there is an alert, and the reason beside its refusal.
func TestMisfit(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		r := to(rules.Webhook, "chat")
		r.Format, r.URLs = rules.FormatAlertmanager, []rules.Source{{File: write(t, "https://hooks.slack.com/services/T0/B0/"+hush)}}
		w.configure(r)
		const warning = "WARN receiver is likely to refuse alerts: this is an address of Slack, which does not take the format alertmanager: write format: slack"
		w.said(0, false, warning)
		w.said(time.Hour, false)
		w.configure(r)
		w.said(time.Second, false, warning)
		q, err := prepare(t.Context(), &r, r.URLs[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		err = refused(&r, q, &http.Response{StatusCode: http.StatusBadRequest}, []byte("invalid_payload\n"))
		fails(t, err, `it answers 400 Bad Request; this is an address of Slack, which does not take the format alertmanager: write format: slack: "invalid_payload"`, true)

		q.URL.Host = "chat.example.com"
		err = refused(&r, q, &http.Response{StatusCode: http.StatusBadRequest}, nil)
		fails(t, err, "it answers 400 Bad Request; a chat has a format of its own, which has to be named", true)

		r.Format = rules.FormatSlack
		w.configure(r)
		w.said(time.Hour, false)
		err = refused(&r, q, &http.Response{StatusCode: http.StatusBadRequest}, nil)
		if err.Error() != "it answers 400 Bad Request" {
			t.Error(err)
		}
	})
}

// body is a receiver's, as the rules file has it.
func body(t *testing.T, text string) *rules.Body {
	t.Helper()
	set, err := rules.Parse(strings.NewReader("receivers: {a: {webhook: {url_env: A, body: " + string(encode(text)) + "}}}\nrules: []"))
	if err != nil {
		t.Fatal(err)
	}
	return set.Receivers[0].Body
}

// A body says what the file has it say.
func TestBody(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var got []string
		w.post = func(_ context.Context, _ *rules.Receiver, _ rules.Source, body []byte) (time.Duration, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			got = append(got, string(body))
			return 0, nil
		}
		want := func(lines ...string) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			if diff := cmp.Diff(lines, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			got = nil
		}
		r := to(rules.Webhook, "chat", "hook")
		r.Body = body(t, `{"text": {{.Title}}, "of": "{{.Rule}} on {{.Instance}} by {{.Receiver}}, see {{.Page}}", "n": [{{.Firing}}, {{.Resolved}}, {{.LeftOut}}], "status": "{{.Status}}"}`)
		w.configure(r)
		w.Set("chat", leak("10.0.0.1", "java[1] 1"), leak("10.0.0.2", "java[1] 1"))
		want(`{"text":"[FIRING:2] postgres-close-wait on web-1","of":"postgres-close-wait on web-1 by chat, see http://here/","n":[2,0,0],"status":"firing"}`)

		r.Body = body(t, `{{with index .Alerts 0}}{{json .Status}}{{end}}`)
		w.configure(r) // who has heard of it is not told again
		want()
		w.Set("chat", over(leak("10.0.0.1", "java[1] 1")), over(leak("10.0.0.2", "java[1] 1")))
		want(`"resolved"`)

		r.Body = body(t, `{{.Text}}`)
		w.configure(r)
		w.Set("chat", leak("10.0.0.1", "java[1] 1"))
		want(string(encode("[FIRING:1] postgres-close-wait on web-1\nwarning: postgres-close-wait: 3 sockets to 10.0.0.1:5432 on web-1\n" +
			leak("10.0.0.1", "java[1] 1").Annotations["description"] + "\nhttp://here/")))
	})
}

// A body that fails with what is to be said is said to, and no message is sent.
func TestBodyFails(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		r := to(rules.Webhook, "chat", "hook")
		r.Body = body(t, `{"a": 1{{if eq .Firing 7}}, "b": {{(index .Alerts 9).Status}}{{end}}}`)
		w.configure(r)
		var alerts []alert.Alert
		for i := range 7 {
			alerts = append(alerts, leak(fmt.Sprint(i), "java[1] 1"))
		}
		w.Set("chat", alerts...)
		w.said(time.Hour, true, lost+"the body fails: <index .Alerts 9>: index out of range: 9")
		w.Set("chat", leak("8", "java[1] 1"))
		w.said(time.Minute, false, "INFO receiver takes alerts again")
		w.results(Stats{Receiver: "chat", Sent: 8, Failed: 7 * 60})
	})
}

// A body that says too much tells of fewer alerts, and how many it leaves out.
func TestLongBody(t *testing.T) {
	n := &notification{Status: statusFiring, GroupLabels: map[string]string{"alertname": "a"}}
	for i := range 300 {
		n.Alerts = append(n.Alerts, notifiedAlert{Status: statusFiring, Alert: alert.Alert{Annotations: map[string]string{"summary": fmt.Sprint(i), "description": strings.Repeat("x", 1<<10)}}})
	}
	said, err := inBody(body(t, `{"left": {{.LeftOut}}, "alerts": {{.Alerts}}, "again": {{.Alerts}}}`), n)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Left   int
		Alerts []any
	}
	if err := json.Unmarshal(said, &got); err != nil || got.Left != 263 || len(got.Alerts) != 37 {
		t.Errorf("%d alerts and %d left out, %v", len(got.Alerts), got.Left, err)
	}
	n.Alerts = n.Alerts[:1]
	n.Alerts[0].Annotations["description"] = strings.Repeat("x", rules.MaxBody)
	if _, err := inBody(body(t, `{{json .Alerts}}`), n); !errors.Is(err, rules.ErrLongBody) {
		t.Error(err)
	}
}

// A chat that refuses is told the same once a minute, and not in smaller messages at
// once: it would not take one of them, and may shut out who tries.
func TestRefusingChat(t *testing.T) {
	for _, format := range chats {
		inBubble(t, func(t *testing.T, w *world) {
			r := to(rules.Webhook, "chat", "hook")
			r.Format = format
			var tries atomic.Int64
			w.refuse = func([]byte) error {
				tries.Add(1)
				return errTooLarge
			}
			w.configure(r)
			w.fire("chat", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8")
			w.want(10*time.Minute - time.Second)
			if n := tries.Load(); n != 10 {
				t.Errorf("%s: %d tries in ten minutes", format, n)
			}
		})
	}
}

// Where a wrong path names a megabyte for a secret, a refusal costs no more than that.
func TestHideIsBounded(t *testing.T) {
	text := strings.Repeat("a", maxSearched)
	secret := strings.Repeat("abcdefghij", readfile.Most/10)
	if got := hide(text+secret[:20], []string{secret}); strings.Contains(got, "bcd") {
		t.Error(got)
	}
	allocated := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			hide(text, []string{secret, strings.Repeat("a", readfile.Most)})
		}
	}).AllocedBytesPerOp()
	if allocated > 40<<20 {
		t.Errorf("%d bytes", allocated)
	}
}

func BenchmarkFormats(b *testing.B) {
	n := &notification{Status: statusFiring, GroupLabels: map[string]string{"alertname": "a"}}
	for i := range maxBatch {
		a := leak(fmt.Sprint(i), "java[1] 1")
		n.Alerts = append(n.Alerts, notifiedAlert{Status: statusFiring, Alert: a})
	}
	for _, format := range chats {
		b.Run(string(format), func(b *testing.B) {
			for b.Loop() {
				inFormat(&rules.Receiver{Format: format}, n)
			}
		})
	}
}
