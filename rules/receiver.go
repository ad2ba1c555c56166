package rules

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"
)

// Receiver is where alerts are sent to, and how.
type Receiver struct {
	Name      string
	Form      Form
	Format    Format            // of a webhook's messages
	URLs      []Source          // every one of them gets every alert
	Headers   map[string]Source // by name, which is as the file spells it
	Bearer    Source            // the token of an Authorization header; zero: none
	BasicAuth BasicAuth
	TLS       TLS
	Timeout   time.Duration // of a whole request

	// Body makes the messages of a webhook that has no Format; else nil.
	Body *Body

	// RoutingKey is PagerDuty's name for the integration that an event is for, and
	// all that it takes to send one.
	RoutingKey Source
}

// Form is what a receiver understands.
type Form string

// The forms.
const (
	Alertmanager Form = "alertmanager" // its API, version 2
	Webhook      Form = "webhook"      // a message for each rule, in a Format
)

// Format is how the messages of a webhook are written.
type Format string

// The formats. Internal/notify has the address of the description of each.
const (
	FormatAlertmanager Format = "alertmanager" // what Alertmanager sends to webhooks, version 4
	FormatSlack        Format = "slack"
	FormatTeams        Format = "teams"
	FormatPagerDuty    Format = "pagerduty"
	FormatDiscord      Format = "discord"
)

var formats = []Format{FormatAlertmanager, FormatSlack, FormatTeams, FormatPagerDuty, FormatDiscord}

// pagerDutyURL is where PagerDuty takes events, but for accounts in Europe.
const pagerDutyURL = "https://events.pagerduty.com/v2/enqueue"

// Source is a text, or where to read it each time it is needed: what a file or a
// variable holds is taken for a secret, and secrets are replaced under way. One
// of the three is set, or none.
type Source struct {
	Text string
	File string // an absolute path
	Env  string // the name of an environment variable
}

// BasicAuth is a name and a password (RFC 7617); the zero value is none.
type BasicAuth struct {
	Username string
	Password Source
}

// TLS says whom to trust, and who we are. Paths are absolute, and may be empty.
type TLS struct {
	CAFile             string // instead of the system's authorities
	CertFile, KeyFile  string
	ServerName         string // expected in the certificate instead of the URL's host
	InsecureSkipVerify bool
}

// alertsPath is where Alertmanager takes alerts, below its base URL.
const (
	apiPath    = "/api/v2"
	alertsPath = apiPath + "/alerts"
)

// Target checks a URL and returns the one to post to. Its errors do not repeat
// what was written, which may be a secret.
func (f Form) Target(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" {
		return "", errors.New("this is not a URL: write one such as http://alertmanager:9093")
	}
	port, portErr := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("a receiver's URL begins with http:// or https://")
	case u.Hostname() == "":
		return "", errors.New("this URL names no host: write one such as http://alertmanager:9093")
	case u.Port() != "" && (portErr != nil || port == 0):
		return "", errors.New("the port of this URL is out of range: it must be 1 to 65535")
	case u.User != nil:
		return "", errors.New("a URL is no place for a password: put user and password into basic_auth")
	case strings.Contains(text, "#"):
		return "", errors.New("no server ever sees what follows the #: remove it")
	case f == Alertmanager && strings.Contains(u.Path, "/api/v1"):
		return "", errors.New("the API version 1 of Alertmanager is gone: write the base URL, such as http://alertmanager:9093")
	}
	if f == Alertmanager {
		missing := alertsPath
		switch path := strings.TrimRight(u.Path, "/"); {
		case strings.HasSuffix(path, alertsPath):
			missing = ""
		case strings.HasSuffix(path, apiPath):
			missing = strings.TrimPrefix(alertsPath, apiPath)
		}
		u = u.JoinPath(missing) // which ends in no slash then: Alertmanager knows none there
	}
	return u.String(), nil
}

// address is a receiver as it stands in the file.
type address struct {
	Receiver
	given    given
	tlsGiven given
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

// addressTable is the table of the options of a receiver of that form.
func addressTable(form Form) table[address] {
	target := scalar("a URL", schema{"type": "string", "pattern": "^https?://"}, func(text string) (Source, error) {
		u, err := form.Target(text)
		return Source{Text: u}, err
	})
	only := func(s Source) []Source { return []Source{s} }
	urls := func(a *address) *[]Source { return &a.URLs }
	t := table[address]{what: string(form), keys: []key[address]{
		field("url", "where alerts are sent", convert(target, only), urls),
		field("urls", "the same for several: every one gets every alert", anyOf(target), urls),
		field("url_file", "a file that holds the URL, read each time", convert(fromFile, only), urls),
		field("url_env", "the environment variable that holds the URL", convert(fromEnv, only), urls),
		headers("headers", "headers of each request", headerText),
		headers("header_files", "headers whose values are read from files, each time", fromFile),
		headers("header_env", "headers whose values are in environment variables", fromEnv),
		field("bearer_token_file", "a file that holds the token of an Authorization header, read each time",
			fromFile, func(a *address) *Source { return &a.Bearer }),
		field("basic_auth", "a user and a password", basicAuth, func(a *address) *BasicAuth { return &a.BasicAuth }),
		{name: "tls", doc: "whom to trust, and who we are", schema: tlsTable.schema(), read: func(p *parser, _, n *yaml.Node, a *address) {
			a.tlsGiven = readMapping(p, n, tlsTable, &a.TLS)
		}},
		field("timeout", "of a whole request, up to 1m; absent: 10s", timeout, func(a *address) *time.Duration { return &a.Timeout }),
	}}
	if form == Webhook {
		t.keys = append(t.keys,
			field("format", "how messages are written; absent: as Alertmanager's webhooks write them", format, func(a *address) *Format { return &a.Format }),
			field("body", "a template of the JSON to send, in the place of a format", bodyText, func(a *address) **yaml.Node { return &a.body }),
			field("routing_key_file", "for the format pagerduty: a file that holds the integration key, read each time",
				fromFile, func(a *address) *Source { return &a.RoutingKey }),
			field("routing_key_env", "for the format pagerduty: the environment variable that holds the integration key",
				fromEnv, func(a *address) *Source { return &a.RoutingKey }),
		)
	}
	return t
}

// format reads one of the formats. What is none is repeated only where it cannot be a
// secret in the wrong place.
var format = value[Format]{
	read: func(p *parser, n *yaml.Node) Format {
		if n = p.scalar(n, "a format"); n == nil {
			return ""
		}
		f := Format(n.Value)
		switch {
		case slices.Contains(formats, f):
			return f
		case p.mayQuote(n, n.Value):
			p.report(n, "%s", unknown("value", n.Value, "format", formatNames()))
		default:
			p.report(n, "this is no format: there are %s", strings.Join(formatNames(), ", "))
		}
		return ""
	},
	schema: schema{"enum": formatNames()},
}

func formatNames() []string {
	var names []string
	for _, f := range formats {
		names = append(names, string(f))
	}
	return names
}

var basicAuthTable = table[BasicAuth]{what: "basic_auth", keys: []key[BasicAuth]{
	require(field("username", "the user", text, func(b *BasicAuth) *string { return &b.Username })),
	require(field("password_file", "a file that holds the password, read each time", fromFile, func(b *BasicAuth) *Source { return &b.Password })),
}}

var basicAuth = value[BasicAuth]{
	read: func(p *parser, n *yaml.Node) BasicAuth {
		var b BasicAuth
		readMapping(p, n, basicAuthTable, &b)
		return b
	},
	schema: basicAuthTable.schema(),
}

var tlsTable = table[TLS]{what: "tls", keys: []key[TLS]{
	field("ca_file", "certificates of the authorities to trust, in PEM; absent: the system's", path, func(t *TLS) *string { return &t.CAFile }),
	field("cert_file", "our certificate, in PEM", path, func(t *TLS) *string { return &t.CertFile }),
	field("key_file", "its key", path, func(t *TLS) *string { return &t.KeyFile }),
	field("server_name", "the name that the server's certificate must hold; absent: the URL's host", text, func(t *TLS) *string { return &t.ServerName }),
	field("insecure_skip_verify", "take any certificate: whoever answers gets the alerts and the credentials", boolean, func(t *TLS) *bool { return &t.InsecureSkipVerify }),
}}

// path is absolute, because nobody remembers where a daemon was started.
var path = scalar("a path", schema{"type": "string", "pattern": "^/"}, func(text string) (string, error) {
	if !strings.HasPrefix(text, "/") {
		// Not repeated: it may be the secret itself, in the wrong place.
		return "", errors.New("this is not an absolute path: write one that begins with /")
	}
	return text, nil
})

var fromFile = convert(path, func(text string) Source { return Source{File: text} })

var variables = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

var fromEnv = scalar("the name of an environment variable", schema{"type": "string", "pattern": variables.String()}, func(text string) (Source, error) {
	if !variables.MatchString(text) {
		return Source{}, errors.New("this is not the name of an environment variable: write one such as CHAT_TOKEN, without a $")
	}
	return Source{Env: text}, nil
})

var numbers = regexp.MustCompile(`^[0-9.]+(ms|s|m|h|d)?$`)

var timeout = scalar("a duration", duration.schema, func(text string) (time.Duration, error) {
	d, err := ParseDuration(text)
	if err == nil && d > maxTimeout {
		return 0, fmt.Errorf("%s is too long: 1m is the most, because alerts are repeated each minute", text)
	}
	if err != nil && !numbers.MatchString(text) { // the error repeats it
		return 0, errors.New("this is not a duration: write a number with its unit, such as 10s")
	}
	return d, err
})

// The names of headers are tokens (RFC 9110, 5.6.2).
var headerNames = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// ownHeaders are those that the request itself decides on.
var ownHeaders = []string{"Connection", "Content-Encoding", "Content-Length", "Content-Type", "Host", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

var headerText = scalar("a header's value", text.schema, func(text string) (Source, error) {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return Source{}, errors.New("a header's value is one line without control characters")
	}
	return Source{Text: text}, nil
})

// headers is a key whose value maps the names of headers to what they hold.
func headers(name, doc string, holds value[Source]) key[address] {
	return key[address]{
		name: name,
		doc:  doc,
		read: func(p *parser, _, n *yaml.Node, a *address) {
			for _, e := range p.named(n, name) {
				h := header{at: e.key, name: e.key.Value}
				switch {
				case !headerNames.MatchString(h.name):
					p.report(h.at, "this key is not the name of a header: write letters, digits and -, and the value behind a colon")
				case slices.ContainsFunc(ownHeaders, func(own string) bool { return strings.EqualFold(own, h.name) }):
					p.report(h.at, "sockdog sets the header %s itself", h.name)
				}
				h.Source = holds.read(p, e.value)
				a.headers = append(a.headers, h)
			}
		},
		schema: schema{"type": "object", "propertyNames": schema{"pattern": headerNames.String()}, "additionalProperties": holds.schema},
	}
}

// named lists the entries of a mapping whose keys the writer chooses.
func (p *parser) named(n *yaml.Node, what string) []entry {
	if n = p.resolve(n); n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		p.report(n, "%s is a mapping of names to values, not %s", what, kindName(n))
		return nil
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(p.entries(n, 0), func(e entry) bool {
		again := seen[e.key.Value] // reported, or merged behind the mapping's own
		seen[e.key.Value] = true
		return again
	})
}

// choice is a receiver of one form.
type choice struct {
	alertmanager, webhook *address
}

var choiceTable = table[choice]{what: "a receiver", keys: []key[choice]{
	field("alertmanager", "the API, version 2, of one or more Alertmanagers", addressOf(Alertmanager), func(c *choice) **address { return &c.alertmanager }),
	field("webhook", "a URL that takes messages: a chat, a pager, or what reads Alertmanager's webhooks", addressOf(Webhook), func(c *choice) **address { return &c.webhook }),
}}

func addressOf(form Form) value[*address] {
	t := addressTable(form)
	return value[*address]{
		read: func(p *parser, n *yaml.Node) *address {
			a := &address{Receiver: Receiver{Form: form, Timeout: defaultTimeout}}
			if a.given = readMapping(p, n, t, a); a.given != nil {
				p.checkAddress(a, target(n))
			}
			return a
		},
		schema: t.schema(),
	}
}

// checkAddress holds a receiver to what its options demand of each other.
func (p *parser) checkAddress(a *address, at *yaml.Node) {
	ways := []string{"url", "urls", "url_file", "url_env"}
	where := slices.DeleteFunc(slices.Clone(ways), func(name string) bool { return !a.given.has(name) })
	switch {
	case len(where) == 0 && a.Format == FormatPagerDuty:
		a.URLs = []Source{{Text: pagerDutyURL}}
	case len(where) == 0 && a.Format == "" && a.given.has("format"): // it may be pagerduty that was meant
	case len(where) == 0:
		p.report(at, "%s needs to know where: write url, urls, url_file or url_env", a.Form)
	case len(where) > 1:
		p.report(a.given[where[1]], "%s and %s stand side by side: keep one", where[0], where[1])
	default:
		p.checkURLs(a, a.given[where[0]])
	}
	p.checkFormat(a)
	a.Body = p.body(a.body)
	p.checkHeaders(a)
	p.checkTLS(a)
}

// checkFormat holds a webhook's routing key to its format.
func (p *parser) checkFormat(a *address) {
	switch {
	case a.given.has("format") && a.given.wrote("body"):
		p.report(a.given["body"], "format and body both say what a message is: keep one")
	case a.Form == Webhook && !a.given.has("format") && !a.given.has("body"):
		a.Format = FormatAlertmanager
	}
	inFile, inEnv := a.given["routing_key_file"], a.given["routing_key_env"]
	switch {
	case inFile != nil && inEnv != nil:
		p.report(inEnv, "routing_key_file and routing_key_env stand side by side: keep one")
	case a.Format == FormatPagerDuty && inFile == nil && inEnv == nil:
		p.report(a.given["format"], "pagerduty needs the integration key: name a file that holds it as routing_key_file, or a variable as routing_key_env")
	case a.Format != FormatPagerDuty && (a.Format != "" || !a.given.has("format")):
		if at := cmp.Or(inFile, inEnv); at != nil {
			p.report(at, "%s is for the format pagerduty: write format: pagerduty, or remove it", at.Value)
		}
	}
}

func (p *parser) checkURLs(a *address, at *yaml.Node) {
	plain := len(a.URLs) > 0
	seen := make(map[Source]bool, len(a.URLs))
	for _, u := range a.URLs {
		if u != (Source{}) && seen[u] {
			p.report(at, "a URL stands here twice: remove one")
			break
		}
		seen[u] = true
		plain = plain && strings.HasPrefix(u.Text, "http://")
	}
	if plain && a.given.wrote("tls") {
		p.report(a.given["tls"], "tls is for https, and no URL here begins with https://")
	}
}

// checkHeaders refuses a header that is set twice, and turns the list into a map.
func (p *parser) checkHeaders(a *address) {
	authorized := ""
	for _, name := range []string{"bearer_token_file", "basic_auth"} {
		if !a.given.wrote(name) {
			continue
		}
		if authorized != "" {
			p.report(a.given[name], "%s and %s both set the header Authorization: keep one", authorized, name)
		}
		authorized = name
	}
	a.Headers = make(map[string]Source, len(a.headers))
	seen := make(map[string]bool, len(a.headers))
	for _, h := range a.headers {
		name := strings.ToLower(h.name)
		switch {
		case authorized != "" && strings.EqualFold(h.name, "Authorization"):
			p.report(h.at, "%s sets the header Authorization: keep one", authorized)
		case seen[name]:
			p.report(h.at, "this header is set twice: keep one")
		}
		seen[name] = true
		a.Headers[h.name] = h.Source
	}
}

func (p *parser) checkTLS(a *address) {
	switch given := a.tlsGiven; {
	case given.has("cert_file") && !given.has("key_file"):
		p.report(given["cert_file"], "cert_file needs key_file: a certificate is of no use without its key")
	case given.has("key_file") && !given.has("cert_file"):
		p.report(given["key_file"], "key_file needs cert_file: the certificate that the key belongs to")
	case a.TLS.InsecureSkipVerify && a.TLS.CAFile != "":
		p.report(given["insecure_skip_verify"], "with insecure_skip_verify nobody looks at ca_file: remove one")
	}
}

// maxReceivers bounds what it costs to check the bodies of a file, and to tell them all.
const maxReceivers = 64

// receivers is the mapping from names to receivers, in the order of the file.
var receivers = value[[]*address]{
	read: func(p *parser, n *yaml.Node) []*address {
		var all []*address
		for i, e := range p.named(n, "receivers") {
			if i == maxReceivers {
				p.report(e.key, "a file has at most %d receivers: one with several urls tells them all", maxReceivers)
				break
			}
			if !ruleNames.MatchString(e.key.Value) {
				name := "this key"
				if p.mayQuote(e.key, e.key.Value) {
					name = strconv.Quote(e.key.Value)
				}
				p.report(e.key, "%s is not a name for a receiver: write up to 100 of a-z, 0-9 and -", name)
			}
			r := p.readReceiver(e.value)
			r.Name = e.key.Value
			all = append(all, r)
		}
		return all
	},
	schema: schema{
		"type": "object", "maxProperties": maxReceivers, "propertyNames": schema{"pattern": ruleNames.String()},
		"additionalProperties": oneKey(choiceTable.schema()),
	},
}

func oneKey(s schema) schema {
	s["minProperties"], s["maxProperties"] = 1, 1
	return s
}

func (p *parser) readReceiver(n *yaml.Node) *address {
	var c choice
	given := readMapping(p, n, choiceTable, &c)
	switch {
	case given != nil && len(given) == 0 && len(target(n).Content) == 0:
		p.report(target(n), "a receiver is an alertmanager or a webhook: say which")
	case c.alertmanager != nil && c.webhook != nil:
		p.report(given["webhook"], "a receiver is an alertmanager or a webhook, not both: give the webhook a name of its own")
	}
	return cmp.Or(c.alertmanager, c.webhook, &address{})
}

// lintReceiver warns of secrets and trust that are given away, and of messages that
// will be refused.
func (p *parser) lintReceiver(a *address) {
	for _, name := range []string{"url", "urls"} {
		if a.given.wrote(name) {
			p.lintURLs(a, a.given[name])
		}
	}
	for _, h := range a.headers {
		if h.Text != "" && strings.EqualFold(h.name, "Authorization") {
			p.report(h.at, "whoever reads this file reads the secret: name a file in header_files, or a variable in header_env")
		}
	}
	if a.TLS.InsecureSkipVerify {
		p.report(a.tlsGiven["insecure_skip_verify"], "any certificate is taken: whoever answers gets the alerts and the credentials; ca_file trusts one authority instead")
	}
}

// lintURLs warns of what is wrong with one of the URLs, once of each kind.
func (p *parser) lintURLs(a *address, at *yaml.Node) {
	misfit, secret := false, false
	for _, s := range a.URLs {
		u, err := url.Parse(s.Text)
		if err != nil {
			continue // reported
		}
		if what := a.Misfit(u); what != "" && !misfit {
			misfit = true
			p.report(at, "%s", phrase(what))
		}
		if holdsSecret(u) && !secret {
			secret = true
			p.report(at, "whoever reads this file can post to this URL, which holds a secret: put it into a file that url_file names, or a variable that url_env names")
		}
	}
}
