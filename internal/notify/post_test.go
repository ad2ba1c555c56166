package notify

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/readfile"
	"github.com/sockdog/sockdog/internal/realtest"
	"github.com/sockdog/sockdog/rules"
)

// hush stands in every secret of these tests, and must stand in no error.
const hush = "hush-hush"

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// deliver posts, whatever the time is there.
func deliver(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) error {
	_, err := post(ctx, r, to, body)
	return err
}

// serve runs a server until the test ends, without its complaints.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s
}

func plain(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := serve(t, handler)
	s.Start()
	return s
}

func TestRequest(t *testing.T) {
	var got *http.Request
	var body string
	s := plain(t, func(_ http.ResponseWriter, r *http.Request) {
		got = r
		text, _ := io.ReadAll(r.Body)
		body = string(text)
	})
	t.Setenv("NOTIFY_URL", s.URL+"/from/env?token="+hush)
	t.Setenv("NOTIFY_TOKEN", " "+hush+"\n")
	file := write(t, s.URL+"/from/file\n")
	secret := write(t, hush+"\n")

	tests := map[string]struct {
		receiver rules.Receiver
		to       rules.Source
		path     string
		headers  map[string]string
	}{
		"text": {
			rules.Receiver{Headers: map[string]rules.Source{"x-team": {Text: "data"}, "user-agent": {Text: "dog"}}},
			rules.Source{Text: s.URL + "/text"}, "/text", map[string]string{"X-Team": "data", "User-Agent": "dog", "Content-Type": "application/json"},
		},
		"file": {
			rules.Receiver{Headers: map[string]rules.Source{"Authorization": {File: secret}}},
			rules.Source{File: file}, "/from/file", map[string]string{"Authorization": hush, "User-Agent": "sockdog"},
		},
		"environment": {
			rules.Receiver{Headers: map[string]rules.Source{"X-Token": {Env: "NOTIFY_TOKEN"}}},
			rules.Source{Env: "NOTIFY_URL"}, "/from/env?token=" + hush, map[string]string{"X-Token": hush},
		},
		"bearer": {
			rules.Receiver{Bearer: rules.Source{File: secret}},
			rules.Source{Text: s.URL}, "/", map[string]string{"Authorization": "Bearer " + hush},
		},
		"basic": {
			rules.Receiver{BasicAuth: rules.BasicAuth{Username: "me", Password: rules.Source{File: secret}}},
			rules.Source{Text: s.URL}, "/", map[string]string{"Authorization": "Basic bWU6aHVzaC1odXNo"},
		},
		"alertmanager from a file": {
			rules.Receiver{Form: rules.Alertmanager}, rules.Source{File: file}, "/from/file/api/v2/alerts", nil,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.receiver.Timeout = 10 * time.Second
			if err := deliver(t.Context(), &tt.receiver, tt.to, []byte(`[1]`)); err != nil {
				t.Fatal(err)
			}
			if got.Method != http.MethodPost || got.RequestURI != tt.path || body != "[1]" {
				t.Errorf("%s %s with %q, want POST %s", got.Method, got.RequestURI, body, tt.path)
			}
			for name, want := range tt.headers {
				if v := got.Header.Get(name); v != want {
					t.Errorf("%s: %q, want %q", name, v, want)
				}
			}
		})
	}

	// A secret that was replaced is used at once.
	if err := os.WriteFile(file, []byte(s.URL+"/rotated"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := deliver(t.Context(), &rules.Receiver{Timeout: 10 * time.Second}, rules.Source{File: file}, nil); err != nil || got.RequestURI != "/rotated" {
		t.Errorf("%v, to %s; want /rotated", err, got.RequestURI)
	}
}

// TestSecretsThatFail has sources that cannot be read. Each will be tried again.
func TestSecretsThatFail(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	large := write(t, "")
	if err := os.Truncate(large, readfile.Most+1); err != nil {
		t.Fatal(err)
	}
	lines := write(t, hush+"\n"+hush)
	t.Setenv("NOTIFY_URL", "ftp://"+hush)
	t.Setenv("NOTIFY_HEADER", hush+"\n\x01")
	good := rules.Source{Text: "http://127.0.0.1:1/"}
	header := func(s rules.Source) rules.Receiver {
		return rules.Receiver{Headers: map[string]rules.Source{"X-Token": s}}
	}
	tests := map[string]struct {
		receiver rules.Receiver
		to       rules.Source
		want     string
	}{
		"no such file":            {rules.Receiver{}, rules.Source{File: "/nonexistent"}, "open /nonexistent: no such file or directory"},
		"empty file":              {header(rules.Source{File: write(t, " \n")}), good, "is empty"},
		"a directory":             {header(rules.Source{File: t.TempDir()}), good, "is not a regular file (d---------)"},
		"a FIFO without a writer": {header(rules.Source{File: fifo}), good, "is not a regular file (p---------)"},
		"a large file":            {header(rules.Source{File: large}), good, "is larger than 1048576 bytes; is it the right file?"},
		"no such variable":        {rules.Receiver{}, rules.Source{Env: "NOTIFY_NONE"}, "the environment variable NOTIFY_NONE is not set"},
		"no URL in a variable":    {rules.Receiver{}, rules.Source{Env: "NOTIFY_URL"}, "the URL in $NOTIFY_URL: a receiver's URL begins with http:// or https://"},
		"no URL in a file":        {rules.Receiver{}, rules.Source{File: write(t, "http://a/"+hush+"\n"+hush)}, "this is not a URL: write one such as http://alertmanager:9093"},
		"no header":               {header(rules.Source{Env: "NOTIFY_HEADER"}), good, "the value of the header X-Token in $NOTIFY_HEADER has a line break or another control character in it"},
		"two lines for a token":   {rules.Receiver{Bearer: rules.Source{File: lines}}, good, "the value of the header Authorization in " + lines + " has a line break"},
		"no token":                {rules.Receiver{Bearer: rules.Source{File: "/nonexistent"}}, good, "open /nonexistent: no such file or directory"},
		"no password":             {rules.Receiver{BasicAuth: rules.BasicAuth{Username: "me", Password: rules.Source{Env: "NOTIFY_NONE"}}}, good, "NOTIFY_NONE is not set"},
		"no CA file":              {rules.Receiver{TLS: rules.TLS{CAFile: "/nonexistent"}}, good, "open /nonexistent: no such file or directory"},
		"no CA in the file":       {rules.Receiver{TLS: rules.TLS{CAFile: write(t, hush)}}, good, "holds no certificate in PEM"},
		"no key":                  {rules.Receiver{TLS: rules.TLS{CertFile: write(t, hush), KeyFile: write(t, hush)}}, good, "failed to find any PEM data"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.receiver.Timeout = 10 * time.Second
			err := deliver(t.Context(), &tt.receiver, tt.to, nil)
			fails(t, err, tt.want, false)
		})
	}
}

// fails holds an error to what it must say, whether it is final, and to say no
// secret.
func fails(t *testing.T, err error, want string, final bool) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %v, want one with %q", err, want)
	}
	if strings.Contains(err.Error(), hush) {
		t.Errorf("the error gives a secret away: %v", err)
	}
	var failed *failure
	if got := errors.As(err, &failed) && failed.final; got != final {
		t.Errorf("%v: final %v, want %v", err, got, final)
	}
}

// TestAnswers has receivers that do not do what they should. All that they say
// repeats the secret in the URL.
func TestAnswers(t *testing.T) {
	tests := map[string]struct {
		answer http.HandlerFunc
		want   string
		final  bool
		large  bool
	}{
		"bad request": {func(w http.ResponseWriter, r *http.Request) { http.Error(w, r.RequestURI, http.StatusBadRequest) }, "it answers 400 Bad Request", true, true},
		"gone":        {func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, "it answers 404 Not Found", true, false},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/other"+r.RequestURI, http.StatusPermanentRedirect)
		},
			"it answers 308 Permanent Redirect: redirects are not followed, write the URL that it leads to", true, false},
		"broken":         {func(w http.ResponseWriter, r *http.Request) { http.Error(w, r.RequestURI, http.StatusBadGateway) }, "it answers 502 Bad Gateway", false, true},
		"too many":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, "it answers 429 Too Many Requests", false, false},
		"nothing at all": {func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() }, "no answer within 200ms", false, false},
		"hangs up":       {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "it closes the connection without an answer", false, true},
		"not HTTP":       {raw("SSH-2.0-%s\r\n"), "malformed HTTP response (...)", false, false},
		"endless header": {raw("HTTP/1.1 200 OK\r\nX: %s" + strings.Repeat("x", 2*maxAnswer)), "server response headers exceeded 65536 bytes", false, false},
		"too large":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) }, "it answers 413 Request Entity Too Large", true, true},
		"in a while": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, "it answers 503 Service Unavailable", false, false},
		"resets": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}, "it closes the connection without an answer", false, true},
		"half an answer": {raw("HTTP/1.1 200"), "it closes the connection without an answer", false, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := plain(t, tt.answer)
			err := deliver(t.Context(), &rules.Receiver{Form: rules.Webhook, Timeout: 200 * time.Millisecond}, rules.Source{Text: s.URL + "/" + hush}, []byte("[]"))
			fails(t, err, tt.want, tt.final)
			var failed *failure
			if !errors.As(err, &failed) || failed.large != tt.large {
				t.Errorf("%v: that it was too large is thought possible: %v, want %v", err, !tt.large, tt.large)
			}
		})
	}
}

// Whatever a hang-up in the middle of a message looks like from here, it may be for
// the size of that, and is said in the same words.
func TestHangsUpOnLarge(t *testing.T) {
	s := plain(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 100_000 {
			panic(http.ErrAbortHandler)
		}
	})
	r := &rules.Receiver{Form: rules.Webhook, Timeout: 10 * time.Second}
	for range 40 {
		err := deliver(t.Context(), r, rules.Source{Text: s.URL}, make([]byte, 250_000))
		fails(t, err, "it closes the connection without an answer", false)
		var failed *failure
		if !errors.As(err, &failed) || !failed.large {
			t.Errorf("%v: that it was too large is not thought possible", err)
		}
	}
	if err := deliver(t.Context(), r, rules.Source{Text: s.URL}, make([]byte, 100_000)); err != nil {
		t.Error(err)
	}
}

// raw answers with those bytes, whose %s is the secret, and hangs up.
func raw(format string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		if strings.Contains(format, "%s") {
			format = fmt.Sprintf(format, hush)
		}
		io.WriteString(conn, format)
	}
}

// What a refusal says is repeated: its first 200 bytes, without what a terminal would
// obey.
func TestRefusalIsQuoted(t *testing.T) {
	s := plain(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "start time must be before\x1b[1m\n end time"+strings.Repeat("ö", 1000), http.StatusBadRequest)
	})
	for _, form := range []rules.Form{rules.Alertmanager, rules.Webhook} {
		r := &rules.Receiver{Form: form, Timeout: 10 * time.Second}
		err := deliver(t.Context(), r, rules.Source{Text: s.URL}, nil)
		fails(t, err, `it answers 400 Bad Request: "start time must be before\x1b[1m\n end timeö`, true)
		if n := len(err.Error()); n > 250 || !utf8.ValidString(err.Error()) || strings.ContainsRune(err.Error(), '\ufffd') {
			t.Errorf("the error is %d bytes long: %v", n, err)
		}
	}
}

// No secret is repeated, nor a piece of one, however it comes back.
func TestRefusalGivesNoSecretAway(t *testing.T) {
	const secret = "B0bb1eK3y/+=xYz&\"quoted\"<9f8e7d6c5b4a>"
	echoes := map[string]func(r *http.Request, body string) string{
		"as it came": func(r *http.Request, body string) string { return fmt.Sprint(r.RequestURI, r.Header, body) },
		"decoded":    func(r *http.Request, body string) string { return fmt.Sprint(r.URL.Path, r.URL.Query(), body) },
		"in capitals": func(r *http.Request, body string) string {
			return strings.ToUpper(fmt.Sprint(r.URL.Path, r.Header, body))
		},
		"for HTML": func(r *http.Request, body string) string { return html.EscapeString(fmt.Sprint(r.URL, r.Header, body)) },
		"as JSON":  func(r *http.Request, body string) string { return string(encode([]any{r.URL.Path, r.Header, body})) },
		"cut off": func(r *http.Request, body string) string {
			return fmt.Sprintf("%.30s %.90v %.60s", r.URL.Path, r.Header["X-Token"], body)
		},
		"around the 200": func(r *http.Request, body string) string {
			return strings.Repeat(".", 190) + r.URL.Path + fmt.Sprint(r.Header["X-Token"])
		},
	}
	file := rules.Source{File: write(t, secret+"\n")}
	receivers := map[string]rules.Receiver{
		"url":         {Form: rules.Webhook},
		"header":      {Form: rules.Alertmanager, Headers: map[string]rules.Source{"X-Token": file}},
		"bearer":      {Form: rules.Alertmanager, Bearer: file},
		"basic":       {Form: rules.Alertmanager, BasicAuth: rules.BasicAuth{Username: "me", Password: file}},
		"routing key": {Form: rules.Webhook, Format: rules.FormatPagerDuty, RoutingKey: file},
		"body":        {Form: rules.Webhook, Body: &rules.Body{}},
	}
	pieces := func(s string) (all []string) {
		for i := 0; i+window <= len(s); i++ {
			all = append(all, s[i:i+window])
		}
		return all
	}
	given := pieces(secret)
	given = append(given, pieces(base64.StdEncoding.EncodeToString([]byte("me:"+secret)))...)
	for how, echo := range echoes {
		s := plain(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, "no such hook: ", echo(r, string(body)))
		})
		for name, r := range receivers {
			t.Run(how+"/"+name, func(t *testing.T) {
				r.Timeout = 10 * time.Second
				to := rules.Source{Text: s.URL}
				if name == "url" {
					to = rules.Source{File: write(t, s.URL+"/services/"+url.PathEscape(secret)+"?token="+url.QueryEscape(secret))}
				}
				body := []byte("{}")
				if name == "body" {
					body = encode(map[string]any{"message": "leak", "api_key": []string{secret}})
				}
				err := deliver(t.Context(), &r, to, body)
				fails(t, err, "it answers 400 Bad Request: \"no such hook: ", true)
				said := strings.ToLower(err.Error())
				for _, piece := range given {
					quoted := strconv.Quote(piece)
					for _, p := range []string{piece, quoted[1 : len(quoted)-1]} {
						if strings.Contains(said, strings.ToLower(p)) {
							t.Fatalf("%q of the secret is in %v", piece, err)
						}
					}
				}
			})
		}
	}
}

// A refusal whose text comes by and by keeps nobody waiting.
func TestSlowRefusal(t *testing.T) {
	s := plain(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "go away")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	start := time.Now()
	err := deliver(t.Context(), &rules.Receiver{Form: rules.Webhook, Timeout: time.Minute}, rules.Source{Text: s.URL}, nil)
	fails(t, err, `it answers 403 Forbidden: "go away"`, true)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// Discord says how long to wait in what it answers.
func TestRateLimit(t *testing.T) {
	tests := map[string]struct {
		header, body string
		want         time.Duration
	}{
		"Slack":                   {"30", "rate_limited", 30 * time.Second},
		"Discord":                 {"65", `{"message": "You are being rate limited.", "retry_after": 64.57, "global": false}`, time.Minute},
		"Discord, for an instant": {"", `{"message": "You are being rate limited.", "retry_after": 0.307, "global": false}`, 307 * time.Millisecond},
		"neither":                 {"", `{"retry_after": "soon"}`, 0},
		"before now":              {"", `{"retry_after": -3}`, 0},
		"for ever":                {"", `{"retry_after": 1e300}`, time.Minute},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := plain(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.header != "" {
					w.Header().Set("Retry-After", tt.header)
				}
				w.WriteHeader(http.StatusTooManyRequests)
				fmt.Fprint(w, tt.body)
			})
			err := deliver(t.Context(), &rules.Receiver{Form: rules.Webhook, Timeout: 10 * time.Second}, rules.Source{Text: s.URL}, nil)
			var failed *failure
			if !errors.As(err, &failed) || failed.after != tt.want || failed.final || failed.large {
				t.Errorf("%#v, want to wait for %v", err, tt.want)
			}
		})
	}
}

// An endless answer is as good as any other, and no more of it is read.
func TestEndlessAnswer(t *testing.T) {
	const most = 64 << 20 // above what the kernel buffers
	written := make(chan int, 1)
	s := plain(t, func(w http.ResponseWriter, _ *http.Request) {
		n := 0
		for n < most {
			m, err := w.Write(make([]byte, 4096))
			if n += m; err != nil {
				break
			}
		}
		written <- n
	})
	if err := deliver(t.Context(), &rules.Receiver{Timeout: time.Minute}, rules.Source{Text: s.URL}, nil); err != nil {
		t.Error(err)
	}
	if n := <-written; n >= most {
		t.Errorf("%d bytes were taken", n)
	}
}

// An answer whose body comes by and by keeps nobody waiting.
func TestSlowAnswer(t *testing.T) {
	s := plain(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	start := time.Now()
	if err := deliver(t.Context(), &rules.Receiver{Form: rules.Alertmanager, Timeout: time.Minute}, rules.Source{Text: s.URL}, nil); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A file that sockdog may not read is named. Root may read any, but for what these
// two capabilities allow it.
func TestPermissionDenied(t *testing.T) {
	secret := write(t, hush)
	if err := os.Chmod(secret, 0); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capget(&header, &caps[0]); err != nil {
			t.Error(err)
		}
		caps[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
		if err := unix.Capset(&header, &caps[0]); err != nil {
			t.Error(err)
		}
		errs <- deliver(t.Context(), &rules.Receiver{Timeout: time.Minute, Bearer: rules.Source{File: secret}}, rules.Source{Text: "http://127.0.0.1:1/"}, nil)
	}()
	fails(t, <-errs, "open "+secret+": permission denied", false)
}

// What is wrong with a proxy is not said of the receiver.
func TestProxy(t *testing.T) {
	refusing := plain(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.RequestURI+hush, http.StatusProxyAuthRequired)
	})
	proceed := make(chan struct{})
	hanging := plain(t, func(http.ResponseWriter, *http.Request) { <-proceed })
	t.Cleanup(func() { close(proceed) }) // net/http gives up on a proxy only after a minute
	leaving := realtest.Listen(t, func(net.Conn) {})
	tests := map[string]struct{ proxy, want string }{
		"of SOCKS":     {"socks5://" + leaving, "the proxy: it closes the connection without an answer"},
		"no such name": {"http://no..name:3128", "the proxy: its host name cannot be looked up: no such host"},
		"refuses":      {refusing.URL, "the proxy answers 407 Proxy Authentication Required"},
		"is not there": {"http://127.0.0.1:1", "the proxy: dial: connect: connection refused"},
		"hangs":        {hanging.URL, "no answer within 200ms"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			proxy, err := url.Parse(tt.proxy)
			if err != nil {
				t.Fatal(err)
			}
			transport := newTransport(nil)
			transport.Proxy = http.ProxyURL(proxy)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://127.0.0.1:1/"+hush, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = transport.RoundTrip(request)
			fails(t, explain(err, 200*time.Millisecond), tt.want, false)
		})
	}
}

// Nothing stays open behind a message.
func TestConnectionIsClosed(t *testing.T) {
	closed := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) {})
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(closed)
		}
	}
	s.Start()
	if err := deliver(t.Context(), &rules.Receiver{Timeout: time.Minute}, rules.Source{Text: s.URL}, nil); err != nil {
		t.Error(err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open")
	}
}

func TestUnreachable(t *testing.T) {
	nobody := rules.Source{Text: "http://" + realtest.Unused(t)}
	err := deliver(t.Context(), &rules.Receiver{Timeout: 10 * time.Second}, nobody, nil)
	fails(t, err, "dial: connect: connection refused", false)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := deliver(ctx, &rules.Receiver{Timeout: 10 * time.Second}, nobody, nil); err == nil {
		t.Error("it was sent when it was no longer to be")
	}
}

// An answer says what time it is there. What the way may have taken is no
// difference, nor what a date has no digits for.
func TestClockAhead(t *testing.T) {
	from := time.Date(2025, 1, 2, 3, 4, 5, 900e6, time.UTC)
	tests := map[string]time.Duration{
		"":                              0,
		"soon":                          0,
		"Thu, 02 Jan 2025 03:04:05 GMT": 0,
		"Thu, 02 Jan 2025 03:04:15 GMT": 0,
		"Thu, 02 Jan 2025 03:05:16 GMT": time.Minute + 100*time.Millisecond,
		"Thu, 02 Jan 2025 02:04:04 GMT": -time.Hour - 900*time.Millisecond,
	}
	for date, want := range tests {
		if got := clockAhead(date, from, from.Add(10*time.Second)); got != want {
			t.Errorf("%q is %v ahead, want %v", date, got, want)
		}
	}

	s := plain(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
	})
	ahead, err := post(t.Context(), &rules.Receiver{Timeout: time.Minute}, rules.Source{Text: s.URL}, nil)
	if err != nil || ahead > -59*time.Minute || ahead < -time.Hour-time.Second {
		t.Errorf("%v, and its clock is %v ahead, want an hour behind", err, ahead)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "1e9": 0, "soon": 0,
		"60": time.Minute, "61": time.Minute, "65536": time.Minute, "86400": time.Minute, "99999999999999999999": time.Minute,
		"Fri, 03 Jan 2025 03:04:05 GMT": time.Minute,
		"Thu, 02 Jan 2025 03:05:05 GMT": time.Minute, "Thu, 02 Jan 2025 03:04:04 GMT": 0,
	}
	for text, want := range tests {
		if got := retryAfter(text, now); got != want {
			t.Errorf("retryAfter(%q) = %v, want %v", text, got, want)
		}
	}
}

// authority is one that signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a certificate, or an authority, for that name; "here" is 127.0.0.1, too.
// It is valid for 26 hours.
func (a *authority) sign(t *testing.T, name string, ends time.Time) (*authority, tls.Certificate) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: ends.Add(-26 * time.Hour), NotAfter: ends, BasicConstraintsValid: true,
	}
	key := newKey(t)
	signer, signerKey := template, key
	if a == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	} else {
		signer, signerKey = a.cert, a.key
	}
	if name == "here" {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) files(t *testing.T) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))),
		write(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func TestTLS(t *testing.T) {
	tomorrow := time.Now().Add(24 * time.Hour)
	ours, _ := (*authority)(nil).sign(t, "authority", tomorrow)
	other, _ := (*authority)(nil).sign(t, "authority", tomorrow)
	ca, _ := ours.files(t)
	wrongCA, _ := other.files(t)
	_, here := ours.sign(t, "here", tomorrow)
	_, elsewhere := ours.sign(t, "elsewhere", tomorrow)
	_, expired := ours.sign(t, "here", time.Now().Add(-time.Hour))
	self, selfSigned := (*authority)(nil).sign(t, "here", tomorrow)
	selfSignedCA, _ := self.files(t)
	_, early := ours.sign(t, "here", time.Now().Add(48*time.Hour))
	client, _ := ours.sign(t, "client", tomorrow)
	clientCert, clientKey := client.files(t)
	clients := x509.NewCertPool()
	clients.AddCert(ours.cert)

	tests := map[string]struct {
		server *tls.Config
		client rules.TLS
		want   string // "": all is well
	}{
		"own authority":         {&tls.Config{Certificates: []tls.Certificate{here}}, rules.TLS{CAFile: ca}, ""},
		"the system's":          {&tls.Config{Certificates: []tls.Certificate{here}}, rules.TLS{}, "no authority that this machine trusts has signed its certificate: name the certificate of the authority in tls.ca_file"},
		"another authority":     {&tls.Config{Certificates: []tls.Certificate{here}}, rules.TLS{CAFile: wrongCA}, "no authority that this machine trusts has signed its certificate"},
		"another name":          {&tls.Config{Certificates: []tls.Certificate{elsewhere}}, rules.TLS{CAFile: ca}, "its certificate is for another name: is it the right host? If so, write the certificate's name as tls.server_name"},
		"another name, as told": {&tls.Config{Certificates: []tls.Certificate{elsewhere}}, rules.TLS{CAFile: ca, ServerName: "elsewhere"}, ""},
		"expired":               {&tls.Config{Certificates: []tls.Certificate{expired}}, rules.TLS{CAFile: ca}, "its certificate has expired, or the clock of this machine is wrong"},
		"not valid yet":         {&tls.Config{Certificates: []tls.Certificate{early}}, rules.TLS{CAFile: ca}, "its certificate has expired, or the clock of this machine is wrong"},
		"self-signed":           {&tls.Config{Certificates: []tls.Certificate{selfSigned}}, rules.TLS{}, "no authority that this machine trusts has signed its certificate: name the certificate of the authority in tls.ca_file"},
		"self-signed, as told":  {&tls.Config{Certificates: []tls.Certificate{selfSigned}}, rules.TLS{CAFile: selfSignedCA}, ""},
		"anything goes":         {&tls.Config{Certificates: []tls.Certificate{expired}}, rules.TLS{InsecureSkipVerify: true}, ""},
		"client certificate": {&tls.Config{Certificates: []tls.Certificate{here}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients},
			rules.TLS{CAFile: ca, CertFile: clientCert, KeyFile: clientKey}, ""},
		"no client certificate": {&tls.Config{Certificates: []tls.Certificate{here}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients},
			rules.TLS{CAFile: ca}, "remote error: tls: certificate required"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(http.ResponseWriter, *http.Request) {})
			s.TLS = tt.server
			s.StartTLS()
			err := deliver(t.Context(), &rules.Receiver{Timeout: 10 * time.Second, TLS: tt.client}, rules.Source{Text: s.URL + "/" + hush}, nil)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			fails(t, err, tt.want, false)
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		s := plain(t, func(http.ResponseWriter, *http.Request) {})
		err := deliver(t.Context(), &rules.Receiver{Timeout: 10 * time.Second}, rules.Source{Text: strings.Replace(s.URL, "http", "https", 1)}, nil)
		fails(t, err, "it does not speak TLS: is it an http:// URL?", false)
	})
}

func TestPlace(t *testing.T) {
	tests := map[rules.Source]string{
		{Text: "https://hooks.example.com:444/" + hush + "?a=" + hush}: "https://hooks.example.com:444",
		{File: "/run/secrets/url"}:                                     "/run/secrets/url",
		{Env: "CHAT_URL"}:                                              "$CHAT_URL",
	}
	got := map[rules.Source]string{}
	for to := range tests {
		got[to] = place(to)
	}
	if diff := cmp.Diff(tests, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
