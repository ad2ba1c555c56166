package rules

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
)

// address is a receiver as it stands in the file.
type address struct {
	Receiver
	given    document.Given
	tlsGiven document.Given
	headers  []header
	body     *yaml.Node
}

// header is a header with the place of its name.
type header struct {
	at   *yaml.Node
	name string
	Source
}

const (
	defaultTimeout = 10 * time.Second
	// A request that took longer than alerts are repeated would never catch up.
	maxTimeout = time.Minute
)

// addressKeys are the options of a receiver of either form.
func addressKeys(form Form) []document.Key[address] {
	target := document.Scalar("a URL", func(text string) (Source, error) {
		u, err := form.Target(text)
		return Source{Text: u}, err
	})
	only := func(s Source) []Source { return []Source{s} }
	urls := func(a *address) *[]Source { return &a.URLs }
	return []document.Key[address]{
		document.Field("url", document.Convert(target, only), urls),
		document.Field("urls", document.AnyOf(target), urls),
		document.Field("url_file", document.Convert(fromFile, only), urls),
		document.Field("url_env", document.Convert(fromEnv, only), urls),
		headers("headers", headerText),
		headers("header_files", fromFile),
		headers("header_env", fromEnv),
		document.Field("bearer_token_file", fromFile, func(a *address) *Source { return &a.Bearer }),
		document.Field("basic_auth", basicAuth, func(a *address) *BasicAuth { return &a.BasicAuth }).Below(basicAuthTable.Names()),
		document.Func("tls", func(r *document.Reader, _, n *yaml.Node, a *address) {
			a.tlsGiven = document.ReadMapping(r, n, tlsTable, &a.TLS)
		}),
		document.Field("timeout", timeout, func(a *address) *time.Duration { return &a.Timeout }),
	}
}

var (
	alertmanagerTable = document.Table[address]{What: string(Alertmanager), Keys: addressKeys(Alertmanager)}
	webhookTable      = document.Table[address]{What: string(Webhook), Keys: append(addressKeys(Webhook),
		document.Field("format", format, func(a *address) *Format { return &a.Format }),
		document.Field("body", templateText, func(a *address) **yaml.Node { return &a.body }),
		document.Field("routing_key_file", fromFile, func(a *address) *Source { return &a.RoutingKey }),
		document.Field("routing_key_env", fromEnv, func(a *address) *Source { return &a.RoutingKey }),
	)}
)

// format reads one of the formats. What is none is repeated only where it cannot be a
// secret in the wrong place.
func format(r *document.Reader, n *yaml.Node) Format {
	if n = r.Scalar(n, "a format"); n == nil {
		return ""
	}
	f, names := Format(n.Value), document.Strings(formats)
	switch {
	case slices.Contains(formats, f):
		return f
	case r.MayQuote(n, n.Value):
		r.Report(n, "%s", message.Unknown("value", n.Value, "format", names))
	default:
		r.Report(n, "this is not a format: choose one of %s", message.List(names))
	}
	return ""
}

var basicAuthTable = document.Table[BasicAuth]{What: "basic_auth", Keys: []document.Key[BasicAuth]{
	document.Field("username", document.Text, func(b *BasicAuth) *string { return &b.Username }).Required("the user"),
	document.Field("password_file", fromFile, func(b *BasicAuth) *Source { return &b.Password }).Required("a file that holds the password, read each time"),
}}

func basicAuth(r *document.Reader, n *yaml.Node) (b BasicAuth) {
	document.ReadMapping(r, n, basicAuthTable, &b)
	return b
}

var tlsTable = document.Table[TLS]{What: "tls", Keys: []document.Key[TLS]{
	document.Field("ca_file", path, func(t *TLS) *string { return &t.CAFile }),
	document.Field("cert_file", path, func(t *TLS) *string { return &t.CertFile }),
	document.Field("key_file", path, func(t *TLS) *string { return &t.KeyFile }),
	document.Field("server_name", document.Text, func(t *TLS) *string { return &t.ServerName }),
	document.Field("insecure_skip_verify", document.Boolean, func(t *TLS) *bool { return &t.InsecureSkipVerify }),
}}

// path is absolute, because nobody remembers where a daemon was started.
var path = document.Scalar("a path", func(text string) (string, error) {
	if !strings.HasPrefix(text, "/") {
		// Not repeated: it may be the secret itself, in the wrong place.
		return "", errors.New("this is not an absolute path: write one that begins with /")
	}
	return text, nil
})

var fromFile = document.Convert(path, func(text string) Source { return Source{File: text} })

var fromEnv = document.Scalar("the name of an environment variable", func(text string) (Source, error) {
	if !document.IsIdentifier(text) {
		return Source{}, errors.New("this is not the name of an environment variable: write one such as CHAT_TOKEN, without a $")
	}
	return Source{Env: text}, nil
})

var timeout = document.Scalar("a duration", func(text string) (time.Duration, error) {
	d, err := ParseDuration(text)
	if err == nil && d > maxTimeout {
		return 0, fmt.Errorf("%s is too long: the maximum is 1m, because alerts are repeated each minute", text)
	}
	if err != nil && !document.Only(strings.TrimRight(text, "dhms"), document.Digits+".") { // the error repeats it
		return 0, errors.New("this is not a duration: write a number with its unit, such as 10s")
	}
	return d, err
})

// ownHeaders are those that the request itself decides on.
var ownHeaders = []string{"Connection", "Content-Encoding", "Content-Length", "Content-Type", "Host", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

var headerText = document.Convert(document.Scalar("text", func(text string) (string, error) {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return "", errors.New("a header's value is one line without control characters")
	}
	return text, nil
}), func(text string) Source { return Source{Text: text} })

// headers is a key whose value maps the names of headers to what they hold.
func headers(name string, holds document.Value[Source]) document.Key[address] {
	const token = document.Letters + document.Digits + "!#$%&'*+-.^_`|~" // RFC 9110, 5.6.2
	return document.Func(name, func(r *document.Reader, _, n *yaml.Node, a *address) {
		for _, e := range r.Named(n, name) {
			h := header{at: e.Key, name: e.Key.Value}
			switch {
			case !document.Only(h.name, token):
				r.Report(h.at, "this key is not the name of a header: write letters, digits and -, and the value behind a colon")
			case slices.ContainsFunc(ownHeaders, func(own string) bool { return strings.EqualFold(own, h.name) }):
				r.Report(h.at, "sockdog sets the header %s itself", h.name)
			}
			h.Source = holds(r, e.Value)
			a.headers = append(a.headers, h)
		}
	})
}

// choice is a receiver of one form.
type choice struct {
	alertmanager, webhook *address
}

var choiceTable = document.Table[choice]{What: "a receiver", Keys: []document.Key[choice]{
	document.Field("alertmanager", addressOf(Alertmanager, alertmanagerTable), func(c *choice) **address { return &c.alertmanager }).Below(alertmanagerTable.Names()),
	document.Field("webhook", addressOf(Webhook, webhookTable), func(c *choice) **address { return &c.webhook }).Below(webhookTable.Names()),
}}

func addressOf(form Form, t document.Table[address]) document.Value[*address] {
	return func(r *document.Reader, n *yaml.Node) *address {
		a := &address{Receiver: Receiver{Form: form, Timeout: defaultTimeout}}
		if a.given = document.ReadMapping(r, n, t, a); a.given != nil {
			checkAddress(r, a, document.Target(n))
		}
		return a
	}
}

// checkAddress holds a receiver to what its options demand of each other.
func checkAddress(r *document.Reader, a *address, at *yaml.Node) {
	ways := []string{"url", "urls", "url_file", "url_env"}
	where := slices.DeleteFunc(slices.Clone(ways), func(name string) bool { return !a.given.Has(name) })
	switch {
	case len(where) == 0 && a.Format == FormatPagerDuty:
		a.URLs = []Source{{Text: pagerDutyURL}}
	case len(where) == 0 && a.Format == "" && a.given.Has("format"): // it may be pagerduty that was meant
	case len(where) == 0:
		r.Report(at, "%s needs an address: write url, urls, url_file or url_env", a.Form)
	case len(where) > 1:
		r.Report(a.given[where[1]], "%s and %s exclude each other: keep one", where[0], where[1])
	default:
		checkURLs(r, a, a.given[where[0]])
	}
	checkFormat(r, a)
	checkHeaders(r, a)
	checkTLS(r, a)
}

// checkFormat holds a webhook's routing key to its format.
func checkFormat(r *document.Reader, a *address) {
	switch {
	case a.given.Has("format") && a.given.Wrote("body"):
		r.Report(a.given["body"], "format and body both say what a message is: keep one")
	case a.Form == Webhook && !a.given.Has("format") && !a.given.Has("body"):
		a.Format = FormatAlertmanager
	}
	inFile, inEnv := a.given["routing_key_file"], a.given["routing_key_env"]
	switch {
	case inFile != nil && inEnv != nil:
		r.Report(inEnv, "routing_key_file and routing_key_env exclude each other: keep one")
	case a.Format == FormatPagerDuty && inFile == nil && inEnv == nil:
		r.Report(a.given["format"], "pagerduty needs the integration key: write routing_key_file or routing_key_env")
	case a.Format != FormatPagerDuty && (a.Format != "" || !a.given.Has("format")):
		if at := cmp.Or(inFile, inEnv); at != nil {
			r.Report(at, "%s is for the format pagerduty: write format: pagerduty, or remove it", at.Value)
		}
	}
}

func checkURLs(r *document.Reader, a *address, at *yaml.Node) {
	plain := len(a.URLs) > 0
	seen := make(map[Source]bool, len(a.URLs))
	for _, u := range a.URLs {
		if u != (Source{}) && seen[u] {
			r.Report(at, "a URL appears here twice: remove one")
			break
		}
		seen[u] = true
		plain = plain && strings.HasPrefix(u.Text, "http://")
	}
	if plain && a.given.Wrote("tls") {
		r.Report(a.given["tls"], "tls is for https, and no URL here begins with https://")
	}
}

// checkHeaders refuses a header that is set twice, and turns the list into a map.
func checkHeaders(r *document.Reader, a *address) {
	authorized := ""
	for _, name := range []string{"bearer_token_file", "basic_auth"} {
		if !a.given.Wrote(name) {
			continue
		}
		if authorized != "" {
			r.Report(a.given[name], "%s and %s both set the header Authorization: keep one", authorized, name)
		}
		authorized = name
	}
	a.Headers = make(map[string]Source, len(a.headers))
	seen := make(map[string]bool, len(a.headers))
	for _, h := range a.headers {
		name := strings.ToLower(h.name)
		switch {
		case authorized != "" && strings.EqualFold(h.name, "Authorization"):
			r.Report(h.at, "%s sets the header Authorization: keep one", authorized)
		case seen[name]:
			r.Report(h.at, "this header is set twice: keep one")
		}
		seen[name] = true
		a.Headers[h.name] = h.Source
	}
}

func checkTLS(r *document.Reader, a *address) {
	switch given := a.tlsGiven; {
	case given.Has("cert_file") && !given.Has("key_file"):
		r.Report(given["cert_file"], "cert_file needs key_file: a certificate is of no use without its key")
	case given.Has("key_file") && !given.Has("cert_file"):
		r.Report(given["key_file"], "key_file needs cert_file: the certificate that the key belongs to")
	case a.TLS.InsecureSkipVerify && a.TLS.CAFile != "":
		r.Report(given["insecure_skip_verify"], "insecure_skip_verify ignores ca_file: remove one")
	}
}

// maxReceivers bounds what it costs to check the bodies of a file, and to tell them all.
const maxReceivers = 64

// receivers is the mapping from names to receivers, in the order of the file.
func receivers(r *document.Reader, n *yaml.Node) (all []*address) {
	for i, e := range r.Named(n, "receivers") {
		if i == maxReceivers {
			r.Report(e.Key, "a file has at most %d receivers: one can have several urls", maxReceivers)
			break
		}
		if !document.IsName(e.Key.Value) {
			name := "this key"
			if r.MayQuote(e.Key, e.Key.Value) {
				name = strconv.Quote(e.Key.Value)
			}
			r.Report(e.Key, "%s is not a name for a receiver: write up to 100 of a-z, 0-9 and -", name)
		}
		a := receiver(r, e.Value)
		a.Name = e.Key.Value
		all = append(all, a)
	}
	return all
}

func receiver(r *document.Reader, n *yaml.Node) *address {
	var c choice
	given := document.ReadMapping(r, n, choiceTable, &c)
	switch {
	case given != nil && len(given) == 0 && len(document.Target(n).Content) == 0:
		r.Report(document.Target(n), "a receiver is an alertmanager or a webhook: say which")
	case c.alertmanager != nil && c.webhook != nil:
		r.Report(given["webhook"], "a receiver is an alertmanager or a webhook, not both: give the webhook a name of its own")
	}
	return cmp.Or(c.alertmanager, c.webhook, &address{})
}

// maxURLs is how many URLs the receivers of a file have together. Each costs the daemon
// some kilobytes and a goroutine.
const maxURLs = 200

// checkReceivers reports too many URLs, and reads the bodies.
func (p *parser) checkReceivers(f *file) {
	urls := 0
	for _, a := range f.receivers {
		urls += len(a.URLs)
		a.Body = p.body(a.body)
	}
	if urls > maxURLs {
		p.Report(f.given["receivers"], "the receivers have %d URLs together, and the maximum is %d: let one of them, such as an Alertmanager, notify the others", urls, maxURLs)
	}
}
