package rules

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"
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
		return "", errors.New("a URL must not hold a password: put user and password into basic_auth")
	case strings.Contains(text, "#"):
		return "", errors.New("no server ever sees what follows the #: remove it")
	case f == Alertmanager && strings.Contains(u.Path, "/api/v1"):
		return "", errors.New("version 1 of Alertmanager's API is gone: write the base URL, such as http://alertmanager:9093")
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
