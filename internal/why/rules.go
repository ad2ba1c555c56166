package why

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

const (
	commentCells = 96
	mostRules    = 50
)

// A remedy is what heals a cause: the match beside whose sockets are meant; empty: no rule does.
type remedy struct {
	name     string
	match    []string
	verdicts bool   // and the verdicts of the findings
	not      string // why there is no rule
}

// remedyOf says what heals a finding.
func remedyOf(f *Finding) remedy {
	switch {
	case f.Owner == ownerNone:
		return remedy{not: "what no process holds is never killed"}
	case f.MPTCP:
		return remedy{not: "the subflows of an MPTCP connection are never killed, and only the program, or its restart, closes it"}
	case f.note:
		return remedy{not: "it is no leak by itself"}
	}
	switch f.cause {
	case eofReadNotClosed, eofUnread:
		return remedy{name: "close-wait", match: []string{"state: close-wait", "in_state_for: 10m"}, verdicts: true}
	case unreadData:
		return remedy{name: "unread-data", match: []string{"state: close-wait", "in_state_for: 30m"}, verdicts: true}
	case peerSilent:
		if f.Owner == ownerKernel {
			return remedy{name: "peer-silent", match: []string{"state: [fin-wait-1, last-ack, closing]", "stalled_for: 15m"}}
		}
		return remedy{name: "peer-silent", match: []string{"state: [established, close-wait]", "stalled_for: 15m"}}
	case peerNotClosing:
		return remedy{name: "peer-not-closing", match: []string{"state: fin-wait-2", "idle_for: 30m"}}
	case inBacklog:
		return remedy{not: "what waits in an accept queue is never killed: the program must accept again, or be restarted"}
	case deadSockets:
		return remedy{not: "no table has them, so nothing can kill them: only the program, or its restart, closes them"}
	default: // notReading
		return remedy{not: "the connection is alive: to end it is for the program, or its restart"}
	}
}

// proposal is one rule, for findings that it heals together.
type proposal struct {
	remedy
	about  []*Finding
	match  []string // a line for each key
	named  []string // verdicts
	unique string   // its name
}

// PrintRules prints a rules file that would heal what was found, in dry_run, with comments.
// Kinds are the actions that rules know beside their own.
func (r *Report) PrintRules(out io.Writer, kinds []*rules.Kind) error {
	var text bytes.Buffer
	var left []string // comments about what no rule heals
	for _, p := range r.propose(&left) {
		written, warning := r.write(p, kinds)
		if written == "" {
			for _, f := range p.about {
				left = append(left, r.Sentence(f)+" No rule: "+warning+".")
			}
			continue
		}
		text.WriteString(written)
	}
	if text.Len() == 0 {
		text.WriteString(watchOnly)
	}
	if left = append(left, r.Remarks()...); len(left) > 0 {
		text.WriteString("\n# What no rule heals:\n" + comment(left, ""))
	}
	note := ""
	if bytes.Contains(text.Bytes(), []byte("\n      process: ")) {
		note = byProcess
	}
	_, err := io.WriteString(out, r.head(true)+note+"rules:\n"+text.String())
	return err
}

// byProcess stands above rules that name processes: who runs them may see less than whoever asks why.
const byProcess = `# Rules by process act only where sockdog can tell who holds a socket: sockdog doctor, run as the
# service, says so.
`

// watchOnly is a rule where there is nothing to heal: it acts on nothing, and logs.
const watchOnly = `  # Nothing was found that a rule would heal. This one acts on nothing; it shows what it matches.
  - name: close-wait
    match: {state: close-wait, in_state_for: 10m}
    then: [log]
`

// head is the beginning of the file, as far as the rules.
func (r *Report) head(dryRun bool) string {
	namespaces := ""
	if r.input.Several {
		namespaces = "  namespaces: all\n"
	}
	return fmt.Sprintf(`# Rules that would heal what sockdog why found at %s.
# While dry_run is true nothing is touched. Look at what it would do: sockdog plan --rules FILE,
# and the log of sockdog run --rules FILE. A kill buys time; each comment says what to mend.
version: 1

settings:
  dry_run: %v
%s
`, r.input.Now.Format("2006-01-02 15:04"), dryRun, namespaces)
}

// propose makes one proposal of findings that differ in the process's number and in the verdict
// alone, and comments on the rest.
func (r *Report) propose(left *[]string) []*proposal {
	var all []*proposal
	by := make(map[string]*proposal)
	for _, f := range r.Findings {
		healed := remedyOf(f)
		if healed.not != "" {
			if !f.note {
				*left = append(*left, r.Sentence(f)+" No rule: "+healed.not+".")
			}
			continue
		}
		match := append(r.whose(f), healed.match...)
		key := strings.Join(append(match, f.NetnsName, fmt.Sprint(f.Netns), r.confinement(f, 0)), "\n")
		p := by[key]
		if p == nil {
			if len(all) == mostRules {
				*left = append(*left, r.Sentence(f)+fmt.Sprintf(" No rule: %d are enough for a file to read.", mostRules))
				continue
			}
			p = &proposal{remedy: healed, match: match}
			by[key], all = p, append(all, p)
		}
		p.about = append(p.about, f)
		if verdict := string(f.verdict()); healed.verdicts && !slices.Contains(p.named, verdict) {
			p.named = append(p.named, verdict)
		}
	}
	return all
}

// certain reports whether it is known of the holders that they are all, as a rule asks: where not all
// processes can be read, that depends on where they belong.
func (r *Report) certain(f *Finding) bool {
	unsettled := func(h sock.Holder) bool { return !r.input.Latest.Settled[h.Owner] }
	return r.input.Unseen == "" || r.input.Latest.Exact || len(f.Holders) > 0 && !slices.ContainsFunc(f.Holders, unsettled)
}

// whose says whose sockets are meant, and to whom: a line for each key. It may not be certain who holds
// a socket; the kernel tells its user for certain.
func (r *Report) whose(f *Finding) (lines []string) {
	var names []string
	for _, h := range f.Holders {
		if name := pattern(h.Comm); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch {
	case f.Owner == ownerKernel:
	case !r.certain(f):
		lines = append(lines, fmt.Sprintf("user: %d # which processes hold them is not certain: some cannot be read", f.uid))
	case len(names) == 1:
		lines = append(lines, "process: "+names[0])
	case len(names) > 1: // of several that hold a socket, all must match
		lines = append(lines, "process: ["+strings.Join(names, ", ")+"]")
	default:
		lines = append(lines, fmt.Sprintf("user: %d # no process that holds them has a name for a rule", f.uid))
	}
	if f.Server {
		return append(lines, fmt.Sprintf("sport: %d", f.Port))
	}
	return append(lines, "dst: "+quote(f.Address), fmt.Sprintf("dport: %d", f.Port))
}

// pattern is a name of a process as rules take it, in quotes: what would be more than text
// there stands for any character. Empty: that would be any name.
func pattern(comm string) string {
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("[{/*", r) || !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(comm, "?"))
	if strings.Trim(name, "?") == "" {
		return ""
	}
	return quote(name)
}

// quote writes a text as a string of YAML.
func quote(text string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a string can be written
	return strings.TrimSuffix(b.String(), "\n")
}

// confinement says in which of all network namespaces sockets are meant, in words that are
// tried in turn, the ones that outlive a restart first; empty: there are no more.
func (r *Report) confinement(f *Finding, try int) string {
	var words []string
	var at sock.Owner
	if len(f.Holders) > 0 && f.Holders[0].Owner != nil && r.certain(f) {
		at = *f.Holders[0].Owner
	}
	if at.Pod != "" {
		words = append(words, "pod: "+quote(at.Pod))
	}
	if at.PodUID.Text == "" && at.ContainerID.Text == "" && at.Unit.Text != "" {
		words = append(words, "unit: "+quote(at.Unit.Text))
	}
	if f.NetnsName != "" {
		words = append(words, "netns: "+quote(f.NetnsName))
	}
	if at.ContainerID.Text != "" {
		words = append(words, "container: "+quote(at.ContainerID.Text))
	}
	if strings.Trim(f.cgroup, "/") != "" {
		words = append(words, "cgroup: "+quote(f.cgroup))
	}
	if try >= len(words) {
		return ""
	}
	return words[try]
}

// write writes a rule that is allowed and wise, or says why there is none.
func (r *Report) write(p *proposal, kinds []*rules.Kind) (text, warning string) {
	if !r.input.Several {
		text = r.rule(p, "")
		return r.linted(text, kinds)
	}
	warning = "nothing that outlives it says in which network namespace it is: give that a name (ip netns attach)"
	for try := 0; ; try++ {
		confined := r.confinement(p.about[0], try)
		if confined == "" {
			return "", warning
		}
		if text, warning = r.linted(r.rule(p, confined), kinds); text != "" {
			return text, ""
		}
	}
}

// linted returns the text of a rule, or what check --lint would say of it.
func (r *Report) linted(text string, kinds []*rules.Kind) (good, warning string) {
	warnings, err := rules.Lint(strings.NewReader(r.head(false)+"rules:\n"+text), kinds...)
	switch {
	case err != nil:
		return "", oneLine(err.Error())
	case len(warnings) > 0:
		return "", oneLine(warnings[0].Msg)
	default:
		return text, ""
	}
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// rule writes a rule.
func (r *Report) rule(p *proposal, confined string) string {
	var b strings.Builder
	var about []string
	for _, f := range p.about[:min(len(p.about), 5)] {
		about = append(about, r.Sentence(f))
	}
	if more := len(p.about) - len(about); more > 0 {
		about = append(about, fmt.Sprintf("And %d more processes do.", more))
	}
	b.WriteString(comment(about, "  "))
	fmt.Fprintf(&b, "  - name: %s\n    match:\n", r.name(p))
	lines := p.match
	if confined != "" {
		lines = append([]string{confined}, lines...)
	}
	if len(p.named) > 0 {
		lines = append(slices.Clone(lines), "verdict: ["+strings.Join(p.named, ", ")+"]")
	}
	for _, line := range lines {
		fmt.Fprintf(&b, "      %s\n", line)
	}
	b.WriteString("    then: [kill]\n")
	return b.String()
}

// name names a rule after its process, port and cause. No other rule of the file has it.
func (r *Report) name(p *proposal) string {
	if p.unique != "" {
		return p.unique
	}
	f := p.about[0]
	process := "user-" + fmt.Sprint(f.uid)
	switch {
	case f.Owner == ownerKernel:
		process = "kernel"
	case len(f.Holders) > 0:
		process = cmp.Or(slug(f.Holders[0].Comm), "process")
	}
	name := fmt.Sprintf("%s-%d-%s", process, f.Port, p.remedy.name)
	for n := 2; r.names[name]; n++ {
		name = fmt.Sprintf("%s-%d-%s-%d", process, f.Port, p.remedy.name, n)
	}
	if r.names == nil {
		r.names = make(map[string]bool)
	}
	r.names[name], p.unique = true, name
	return name
}

// slug is a text in the characters that names of rules have.
func slug(text string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(text) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	return strings.Trim(b.String()[:min(b.Len(), 40)], "-")
}

// comment writes paragraphs as comments of YAML.
func comment(paragraphs []string, indent string) string {
	var b strings.Builder
	for _, text := range paragraphs {
		for _, line := range term.Wrap(term.Printable(text), commentCells) {
			fmt.Fprintf(&b, "%s# %s\n", indent, line)
		}
	}
	return b.String()
}
