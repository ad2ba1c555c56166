package rules

import (
	"net/url"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
)

// defaultCanary is that of an action that does not say otherwise.
var defaultCanary = Canary{First: 1, Wait: 10 * time.Second}

// leastCanaryWait is how long it takes to see that a program spins, and a little more;
// mostCanaryWait keeps a rule from waiting for ever.
const (
	leastCanaryWait = 5 * time.Second
	mostCanaryWait  = time.Hour
	mostCanaries    = 1000
)

var canaryTable = document.Table[Canary]{What: "canary", Keys: []document.Key[Canary]{
	document.Field("first", document.Scalar("a number", func(text string) (int, error) {
		n, err := document.Number(text, 1, mostCanaries)
		return int(n), err
	}), func(c *Canary) *int { return &c.First }),
	document.Field("wait", document.Scalar("a duration", func(text string) (time.Duration, error) {
		d, err := ParseDuration(text)
		if err == nil && (d < leastCanaryWait || d > mostCanaryWait) {
			return 0, message.Errorf("%s is out of range: it takes %s to see what a kill does to a program, and nothing else is killed meanwhile, for %s at most", text, plain(leastCanaryWait), plain(mostCanaryWait))
		}
		return d, err
	}), func(c *Canary) *time.Duration { return &c.Wait }),
	document.Field("probe", document.Scalar("a URL", probeURL), func(c *Canary) *string { return &c.Probe }),
}}

// canary is off, or a mapping.
func canary(r *document.Reader, n *yaml.Node) *Canary {
	if n = r.Resolve(n); n == nil {
		return nil
	}
	if n.Kind == yaml.ScalarNode && n.Value == "off" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.Report(n, "a canary is off, or a mapping such as {first: 1, wait: 10s}")
		return nil
	}
	c := defaultCanary
	document.ReadMapping(r, n, canaryTable, &c)
	return &c
}

// probeURL is where a probe asks whether a service is well.
func probeURL(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", message.Errorf("this is no URL for a probe: write one such as http://localhost:8080/healthz")
	case u.User != nil:
		return "", message.Errorf("a probe sends no password: name a URL that needs none")
	}
	return text, nil
}

// The share of the live connections that belong together which a rule takes in ten minutes,
// and of how many sockets at once it takes any, unless it says otherwise.
const (
	defaultMost       = 0.5
	defaultMaxMatches = 10_000
	mostMatches       = 100_000_000
)

// matches is a number of sockets.
var matches = document.Scalar("a number", func(text string) (int, error) {
	n, err := document.Number(text, 1, mostMatches)
	return int(n), err
})

// brakes fills in what keeps an action from doing harm where the rule does not say; live: it
// may take connections that are; dead: it certainly does not.
func brakes(r *document.Reader, a *act, live, dead bool) {
	if !a.given.Has("canary") {
		c := defaultCanary
		a.Canary = &c
	}
	if !a.given.Has("max_matches") {
		a.MaxMatches = defaultMaxMatches
	}
	switch {
	case live && !a.given.Has("most"):
		a.Most = defaultMost
	case dead && a.given.Has("most"):
		r.Report(a.given["most"], "most is a share of live connections, and this rule is about none: leave it out")
	}
}
