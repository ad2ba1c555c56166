package ruletest

import (
	"slices"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// changeDraft is a change as it stands.
type changeDraft struct {
	Change
	at     *yaml.Node
	given  document.Given
	socket document.Placed[string]
}

var changeTable = document.Table[changeDraft]{What: "a change", Keys: []document.Key[changeDraft]{
	document.Field("at", at, func(c *changeDraft) *time.Duration { return &c.At }).Required("how long after the beginning"),
	document.Field("every", duration, func(c *changeDraft) *time.Duration { return &c.Every }),
	document.Field("socket", document.WithPlace(document.Text), func(c *changeDraft) *document.Placed[string] { return &c.socket }),
	document.Field("state", state, func(c *changeDraft) *ssfilter.State { return &c.State }),
	document.Field("sent", number[uint32](1, maxQueue), func(c *changeDraft) *uint32 { return &c.Sent }),
	document.Field("received", number[uint32](1, maxQueue), func(c *changeDraft) *uint32 { return &c.Received }),
	document.Field("queued", pointer(number[uint32](0, maxQueue)), func(c *changeDraft) **uint32 { return &c.Queued }),
	document.Field("unread", pointer(number[uint32](0, maxQueue)), func(c *changeDraft) **uint32 { return &c.Unread }),
	document.Field("accept_queue", pointer(number[uint32](0, maxQueue)), func(c *changeDraft) **uint32 { return &c.AcceptQueue }),
	document.Field("accepted", yes, func(c *changeDraft) *bool { return &c.Accepted }),
	document.Field("closed", yes, func(c *changeDraft) *bool { return &c.Closed }),
	document.Field("listen_drops", pointer(perMinute), func(c *changeDraft) **float64 { return &c.ListenDrops }),
	document.Field("orphans", pointer(percent), func(c *changeDraft) **float64 { return &c.Orphans }),
	document.Field("tcp_memory", pointer(percent), func(c *changeDraft) **float64 { return &c.TCPMemory }),
}, Synonyms: map[string][]string{"progress": {"sent", "received"}, "traffic": {"sent", "received"}, "gone": {"closed"}, "accept": {"accepted"}, "close": {"closed"}, "name": {"socket"}}}

var (
	ofSockets = []string{"state", "sent", "received", "queued", "unread", "accept_queue", "accepted", "closed"}
	ofHost    = []string{"listen_drops", "orphans", "tcp_memory"}
)

// yes is true, and nothing else.
func yes(r *document.Reader, n *yaml.Node) bool {
	before := r.Reports()
	if document.Boolean(r, n) {
		return true
	}
	if r.Reports() == before {
		r.Report(n, "nothing happens: write true, or remove the key")
	}
	return false
}

// perMinute is a number a minute, as listen_drops has it in a rule.
var perMinute = document.Scalar("a number a minute", func(text string) (float64, error) {
	digits := text[:max(0, len(text)-len("/m"))]
	if digits+"/m" != text {
		return 0, message.Errorf("%q is not a number a minute: write one such as 600/m", text)
	}
	n, err := document.Number(digits, 0, 1e9)
	return float64(n), err
})

// readChanges reads the changes, and follows each socket through them.
func (c *caseDraft) readChanges(r *document.Reader) {
	last := time.Duration(0)
	lives := make([]life, len(c.sockets))
	for i, s := range c.sockets {
		lives[i] = life{socketDraft: s, state: s.State, inBacklog: s.InBacklog}
	}
	one := func(r *document.Reader, n *yaml.Node) *changeDraft {
		before := r.Reports()
		d := &changeDraft{at: n}
		d.Socket = -1
		if d.given = document.ReadMapping(r, n, changeTable, d); d.given == nil || r.Reports() > before {
			return nil
		}
		if d.At < last {
			r.Report(d.given["at"], "the time goes backwards, from %v to %v: write what happens in the order in which it happens", last, d.At)
		}
		last = max(last, d.At)
		c.checkChange(r, d, lives)
		return d
	}
	for _, d := range document.ListOf(one)(r, c.changes) {
		if d != nil {
			c.Changes = append(c.Changes, d.Change)
		}
	}
}

// checkChange reports what cannot happen.
func (c *caseDraft) checkChange(r *document.Reader, d *changeDraft, lives []life) {
	given := func(names []string) int { return slices.IndexFunc(names, d.given.Has) }
	socketKey, hostKey := given(ofSockets), given(ofHost)
	switch {
	case socketKey < 0 && hostKey < 0:
		r.Report(d.at, "nothing changes here: write one of %s, or one of %s", message.List(ofSockets), message.List(ofHost))
		return
	case socketKey >= 0 && !d.given.Has("socket"):
		r.Report(d.at, "%s happens to a socket: name it in socket", message.Phrase(ofSockets[socketKey]))
		return
	case hostKey >= 0 && d.given.Has("socket"):
		r.Report(d.given[ofHost[hostKey]], "%s is of the host: write it in a change without a socket", message.Phrase(ofHost[hostKey]))
		return
	}
	once := func(key string) bool { return key != "sent" && key != "received" && d.given.Has(key) }
	if d.given.Has("every") && (hostKey >= 0 || slices.ContainsFunc(ofSockets, once)) {
		r.Report(d.given["every"], "only sent and received can happen again and again")
	}
	if !d.given.Has("socket") {
		return
	}
	i, known := c.names[d.socket.Value]
	if !known {
		r.Report(d.socket.At, "%v", message.Unknown("socket", d.socket.Value, "this test", c.known()))
		return
	}
	d.Socket = i
	lives[i].meet(r, d)
}

// known are the names of the sockets, in their order.
func (c *caseDraft) known() (names []string) {
	for _, s := range c.sockets {
		if s.Name != "" && !slices.Contains(names, s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}

// life is what has become of a socket so far.
type life struct {
	*socketDraft
	state     ssfilter.State
	inBacklog bool
	gone      bool
}

// follows are the states that may follow on each (RFC 9293, figure 5).
var follows = map[ssfilter.State]ssfilter.StateSet{
	ssfilter.SynSent:     ssfilter.Of(ssfilter.Established, ssfilter.SynRecv),
	ssfilter.SynRecv:     ssfilter.Of(ssfilter.Established, ssfilter.FinWait1),
	ssfilter.Established: ssfilter.Of(ssfilter.FinWait1, ssfilter.CloseWait),
	ssfilter.FinWait1:    ssfilter.Of(ssfilter.FinWait2, ssfilter.Closing, ssfilter.TimeWait),
	ssfilter.FinWait2:    ssfilter.Of(ssfilter.TimeWait),
	ssfilter.Closing:     ssfilter.Of(ssfilter.TimeWait),
	ssfilter.CloseWait:   ssfilter.Of(ssfilter.LastAck),
}

// receiving are the states in which the peer may still send.
var receiving = ssfilter.Of(ssfilter.Established, ssfilter.FinWait1, ssfilter.FinWait2)

// meet reports what cannot happen to the socket as it is by then.
func (l *life) meet(r *document.Reader, d *changeDraft) {
	switch {
	case d.At < l.At+time.Duration(l.Count-1)*l.Every:
		r.Report(d.given["at"], "the socket %q appears only at %v", l.Name, l.At+time.Duration(l.Count-1)*l.Every)
	case l.gone:
		r.Report(d.given["socket"], "the socket %q is closed by then", l.Name)
	case d.State != 0 && !follows[l.state].Has(d.State):
		next := "no state"
		if set := follows[l.state]; set != 0 {
			next = set.String()
		}
		r.Report(d.given["state"], "a socket in %s does not come to %s: %s is followed by %s", l.state, d.State, l.state, message.Phrase(next))
	case d.Accepted && !l.inBacklog:
		r.Report(d.given["accepted"], "the socket %q waits in no accept queue", l.Name)
	case d.AcceptQueue != nil && l.state != ssfilter.Listening:
		r.Report(d.given["accept_queue"], "only a listening socket has an accept queue")
	}
	if d.State != 0 {
		l.state = d.State
	}
	minisocket := l.state == ssfilter.TimeWait || l.state == ssfilter.FinWait2 && l.Holder == Nobody
	for _, key := range []string{"sent", "received", "queued", "unread"} {
		if d.given.Has(key) && (minisocket || l.state == ssfilter.Listening) {
			r.Report(d.given[key], "a socket in %s carries no data", l.state)
		}
	}
	if d.Received > 0 && !receiving.Has(l.state) && !minisocket && l.state != ssfilter.Listening {
		r.Report(d.given["received"], "a socket in %s receives nothing: its peer has ended its side, or not yet begun", l.state)
	}
	l.inBacklog = l.inBacklog && !d.Accepted
	l.gone = l.gone || d.Closed
}
