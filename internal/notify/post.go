package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/sockdog/sockdog/internal/readfile"
	"github.com/sockdog/sockdog/rules"
)

// maxAnswer is how much of an answer is read, and of its header.
const maxAnswer = 64 << 10

// failure says why a message did not get through. It never repeats a secret, nor what
// the receiver may have echoed of one.
type failure struct {
	text   string
	answer string        // what the receiver said, if anything
	final  bool          // the same again would fail again
	large  bool          // the size may be why, and a smaller message get through
	after  time.Duration // the receiver asks for that long a pause
}

func (f *failure) Error() string {
	if f.answer == "" {
		return f.text
	}
	return fmt.Sprintf("%s: %q", f.text, f.answer)
}

// post sends a body of JSON. It reads files and variables, and makes a connection,
// anew each time: a secret that was replaced is used at once, and at one message a
// minute a kept connection would be stale more often than of use. Proxies are those of
// the environment. If the message was taken, ahead is by how much the receiver's clock
// is certainly ahead of this machine's.
func post(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) (ahead time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	q, err := prepare(ctx, r, to, body)
	if err != nil {
		return 0, err
	}
	sent := time.Now()
	answer, err := newTransport(q.trust).RoundTrip(q.Request) // not through a Client, which would follow redirects
	if err != nil {
		return 0, explain(err, r.Timeout)
	}
	defer answer.Body.Close()
	came := time.Now()
	if answer.StatusCode/100 == 2 { // the rest of it is of no use, and may never end
		return clockAhead(answer.Header.Get("Date"), sent, came), nil
	}
	enough := time.AfterFunc(patientFor, func() { answer.Body.Close() })
	defer enough.Stop()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer)) // the status has said what matters
	if r.Body != nil {
		q.secrets = append(q.secrets, bodySecrets(body)...)
	}
	return 0, refused(r, q, answer, text)
}

// refused says what an answer other than success means, and what it says.
func refused(r *rules.Receiver, q *request, answer *http.Response, text []byte) *failure {
	f := judge(answer, text)
	misfit := r.Misfit(q.URL)
	switch {
	case misfit != "" && f.final:
		f.text += "; " + misfit
	case r.Format == rules.FormatAlertmanager && f.final && f.large: // it cannot read what it was sent
		f.text += "; a chat has a format of its own, which has to be named"
	}
	said := strings.TrimSpace(string(text))
	said = strings.TrimSpace(hide(said[:min(len(said), maxSearched)], q.secrets))
	f.answer = strings.ToValidUTF8(said[:min(len(said), maxExcerpt)], "") // the cut may be within a character
	return f
}

// patientFor is how long the text of a refusal may take.
const patientFor = 2 * time.Second

// maxExcerpt is how much of a refusal is repeated, in bytes, and maxSearched how much is
// searched for secrets first: one that begins in what is repeated may end behind it.
const (
	maxExcerpt  = 200
	maxSearched = 1 << 10
)

func newTransport(trust *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			return &failure{text: fmt.Sprintf("the proxy answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))}
		},
		TLSClientConfig:        trust,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxAnswer,
	}
}

// clockAhead is by how much the clock that wrote a date, between two instants of this
// machine's, is certainly ahead of it. A date has no fractions of a second.
func clockAhead(date string, from, to time.Time) time.Duration {
	at, err := http.ParseTime(date)
	switch {
	case err != nil: // RFC 9110, 6.6.1: a server without a clock leaves it out
		return 0
	case at.After(to):
		return at.Sub(to)
	case at.Add(time.Second).Before(from):
		return at.Add(time.Second).Sub(from)
	}
	return 0
}

// request is all that a message needs before there is a connection.
type request struct {
	*http.Request
	trust   *tls.Config
	secrets []string // that are in it
	err     error    // of the first secret that could not be read
}

// prepare makes a request. What fails here is wrong on this side.
func prepare(ctx context.Context, r *rules.Receiver, to rules.Source, body []byte) (*request, error) {
	target, err := targetOf(r, to)
	if err != nil {
		return nil, err
	}
	q := &request{}
	if r.Format == rules.FormatPagerDuty {
		if key := q.secret(r.RoutingKey); len(body) > 0 {
			body = withRoutingKey(body, key)
		}
	}
	q.Request, err = http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("the URL in %s cannot be used", place(to)) // err repeats it
	}
	for name, source := range r.Headers {
		q.setHeader(name, "", source)
	}
	if r.Bearer != (rules.Source{}) {
		q.setHeader("Authorization", "Bearer ", r.Bearer)
	}
	if r.BasicAuth != (rules.BasicAuth{}) {
		q.SetBasicAuth(r.BasicAuth.Username, q.secret(r.BasicAuth.Password))
		q.secrets = append(q.secrets, strings.TrimPrefix(q.Header.Get("Authorization"), "Basic "))
	}
	// An Alertmanager's URL that stands in the file has no secret in it.
	if r.Form != rules.Alertmanager || to.Text == "" {
		q.secrets = append(q.secrets, urlSecrets(q.URL)...)
	}
	q.Header.Set("Content-Type", "application/json")
	if q.Header.Get("User-Agent") == "" {
		q.Header.Set("User-Agent", "sockdog")
	}
	q.trust, err = tlsConfig(r.TLS)
	return q, cmp.Or(q.err, err)
}

// targetOf is the URL that a message goes to.
func targetOf(r *rules.Receiver, to rules.Source) (string, error) {
	if to.Text != "" {
		return to.Text, nil
	}
	secret, err := read(to)
	if err != nil {
		return "", err
	}
	target, err := r.Form.Target(secret)
	if err != nil {
		return "", fmt.Errorf("the URL in %s: %w", place(to), err)
	}
	return target, nil
}

// secret reads a secret, and notes it as one.
func (q *request) secret(from rules.Source) string {
	value, err := read(from)
	q.err = cmp.Or(q.err, err)
	q.secrets = append(q.secrets, value)
	return value
}

func (q *request) setHeader(name, scheme string, from rules.Source) {
	value := q.secret(from)
	if strings.ContainsFunc(value, unicode.IsControl) {
		q.err = cmp.Or(q.err, fmt.Errorf("the value of the header %s in %s has a line break or another control character in it", name, place(from)))
	}
	q.Header.Set(name, scheme+value)
}

// judge says what an answer other than success means.
func judge(answer *http.Response, text []byte) *failure {
	code := answer.StatusCode
	f := &failure{text: fmt.Sprintf("it answers %d %s", code, http.StatusText(code))}
	switch {
	case code/100 == 3:
		f.final = true
		f.text += ": redirects are not followed, write the URL that it leads to"
	case code == http.StatusTooManyRequests || code/100 == 5:
		f.after = max(retryAfter(answer.Header.Get("Retry-After"), time.Now()), retryInBody(text))
		f.large = code/100 == 5 && f.after == 0
	default:
		f.final = true
		f.large = code == http.StatusBadRequest || code == http.StatusRequestEntityTooLarge || code == http.StatusUnprocessableEntity
	}
	return f
}

// mostAfter bounds the pause that a receiver may ask for: what fires must not lapse.
const mostAfter = time.Minute

// retryAfter reads seconds or a date (RFC 9110, 10.2.3); what is neither is 0.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(mostAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(0, at.Sub(now)), mostAfter)
	}
	return 0
}

// retryInBody reads the pause that Discord asks for, to more than the whole seconds of
// its header.
// https://docs.discord.com/developers/topics/rate-limits#exceeding-a-rate-limit
func retryInBody(text []byte) time.Duration {
	var limit struct {
		RetryAfter float64 `json:"retry_after"`
	}
	if json.Unmarshal(text, &limit) != nil || !(limit.RetryAfter > 0) {
		return 0
	}
	return time.Duration(min(limit.RetryAfter, mostAfter.Seconds()) * float64(time.Second))
}

// explain says what went wrong on the way, and what to do about it.
func explain(err error, timeout time.Duration) error {
	var (
		unknown   x509.UnknownAuthorityError
		wrongName x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		noTLS     tls.RecordHeaderError
		lookup    *net.DNSError
		wait      net.Error
		op        *net.OpError

		text  string
		large bool
	)
	switch {
	case errors.As(err, &op) && (op.Op == "proxyconnect" || op.Op == "socks connect"):
		text = "the proxy: " + explain(op.Err, timeout).Error()
	case errors.As(err, &lookup):
		text = "its host name cannot be looked up: " + lookup.Err
	case errors.As(err, &wait) && wait.Timeout():
		text = fmt.Sprintf("no answer within %v", timeout)
	case errors.As(err, &unknown):
		text = "no authority that this machine trusts has signed its certificate: name the certificate of the authority in tls.ca_file"
	case errors.As(err, &wrongName):
		text = "its certificate is for another name: is it the right host? If so, write the certificate's name as tls.server_name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		text = "its certificate has expired, or the clock of this machine is wrong"
	case errors.As(err, &verify):
		text = "its certificate is not valid: " + foreign(verify.Err)
	case errors.As(err, &noTLS):
		text = "it does not speak TLS: is it an http:// URL?"
	case slices.ContainsFunc(hangUps, func(hangUp error) bool { return errors.Is(err, hangUp) }):
		text, large = "it closes the connection without an answer", true
	case errors.As(err, &op):
		for errors.As(op.Err, &op) { // a body is sent by a readfrom, around the write that failed
		}
		text = op.Op + ": " + foreign(op.Err) // without addresses, whose ports change with each try
		large = op.Op == "read" || op.Op == "write" || op.Op == "readfrom"
	default:
		text = foreign(err)
	}
	return &failure{text: text, large: large}
}

// hangUps say that the other side has closed the connection: which of them depends on
// whether the reader or the writer sees it first, and on whether some of the message was
// not read yet.
var hangUps = []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE}

// foreign is an error without what it quotes: that comes from the other side.
func foreign(err error) string {
	text, _, cut := strings.Cut(err.Error(), "\"")
	if !cut {
		return text
	}
	return strings.TrimRight(text, " :") + " (...)"
}

// place says where a URL comes from without giving a secret away.
func place(to rules.Source) string {
	switch {
	case to.File != "":
		return to.File
	case to.Env != "":
		return "$" + to.Env
	}
	u, err := url.Parse(to.Text)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

func tlsConfig(t rules.TLS) (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	if t.CAFile != "" {
		pem, err := readfile.Regular(t.CAFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, certErr := readfile.Regular(t.CertFile)
		key, keyErr := readfile.Regular(t.KeyFile)
		if err := cmp.Or(certErr, keyErr); err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", t.CertFile, t.KeyFile, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
