package why

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/internal/term"
	"github.com/sockdog/sockdog/rules"
)

// most is how many findings people are shown.
const most = 20

// Print prints a table of the findings and a sentence about each, in lines of so many cells
// at most, where that can be; 0 is no bound.
func (r *Report) Print(out io.Writer, cells int) error {
	if len(r.Findings) == 0 {
		if _, err := fmt.Fprintln(out, paragraph(r.nothing(), cells)); err != nil {
			return err
		}
		return r.printRemarks(out, cells)
	}
	shown := r.Findings[:min(len(r.Findings), most)]
	if err := r.table(shown).Print(out, cells); err != nil {
		return err
	}
	for _, f := range shown {
		if _, err := fmt.Fprintf(out, "\n%s\n", paragraph(r.Sentence(f), cells)); err != nil {
			return err
		}
	}
	if more := len(r.Findings) - len(shown); more > 0 {
		if _, err := fmt.Fprintf(out, "\n... and %d more: -o json shows all.\n", more); err != nil {
			return err
		}
	}
	return r.printRemarks(out, cells)
}

// nothing says that there are no findings, and where.
func (r *Report) nothing() string {
	where, more := "", ""
	if !r.input.Several {
		where = " in this network namespace"
	}
	if !r.input.Several && !r.input.Elsewhere { // else a remark says so
		more = " " + lookEverywhere + "."
	}
	return fmt.Sprintf("Nothing leaks%s: no socket is stuck among the %d that were looked at.%s", where, r.looked, more)
}

// lookEverywhere is how to see what other network namespaces have.
const lookEverywhere = "sockdog why --namespaces looks into all of the host"

// printRemarks prints what is told beside the findings.
func (r *Report) printRemarks(out io.Writer, cells int) error {
	for _, line := range r.Remarks() {
		if _, err := fmt.Fprintf(out, "\n%s\n", paragraph(line, cells)); err != nil {
			return err
		}
	}
	return nil
}

// Remarks say what programs made of kills, and what was not or could not be seen, and how to see
// it: they are part of what Print and PrintRules print.
func (r *Report) Remarks() (lines []string) {
	for _, k := range r.input.Kills {
		if k.Open > 0 {
			lines = append(lines, term.Printable(k.sentence()))
		}
	}
	if r.input.Elsewhere {
		lines = append(lines, "Only this network namespace was looked at, and the running sockdog watches all: "+lookEverywhere+".")
	}
	for _, left := range r.input.Left {
		lines = append(lines, term.Printable(left))
	}
	switch in := r.input; {
	case in.Unseen == "":
	case r.unowned > 0:
		lines = append(lines, term.Printable(fmt.Sprintf("The owner of %s is not known: %s. Cure: %s.", term.Count(r.unowned, "socket"), in.Unseen, in.Cure)))
	case in.Whole:
		lines = append(lines, term.Printable(fmt.Sprintf("Dead sockets may have been missed: %s. Cure: %s.", in.Unseen, in.Cure)))
	}
	return lines
}

// paragraph is a text in lines that fit.
func paragraph(text string, cells int) string { return strings.Join(term.Wrap(text, cells), "\n") }

// table has a row for each finding.
func (r *Report) table(findings []*Finding) *term.Table {
	heads := []string{"COUNT", "OLDEST", "GROWTH", "OWNER", "PEER", "DESCRIPTORS", "WHY"}
	if r.input.Several {
		heads = append(heads, "NETNS")
	}
	table := term.NewTable(heads...)
	table.Columns[5].Spare, table.Columns[2].Spare, table.Columns[1].Spare = 1, 2, 3
	table.Columns[6].Whole, table.Columns[0].Whole = true, true
	for _, f := range findings {
		table.Row(strconv.Itoa(f.Count))
		table.Add(sockettable.AppendAge(table.Buffer(), f.Oldest, f.Known, f.Exact))
		table.Row(growth(f), owner(f), peer(f), descriptors(&f.Process), f.label())
		if r.input.Several {
			table.Row(namespace(f))
		}
	}
	return table
}

func growth(f *Finding) string {
	switch {
	case !f.Rated:
		return "-"
	case f.Rate < 0.001:
		return strconv.Itoa(int(min(0, f.Rate)))
	default:
		return rate(f.Rate)
	}
}

func owner(f *Finding) string {
	switch f.Owner {
	case ownerKernel:
		return "the kernel"
	case ownerUnseen, ownerNone:
		return "-"
	default:
		return sockettable.Holders(f.Holders)
	}
}

func peer(f *Finding) string {
	switch {
	case f.Peer == "":
		return "-"
	case f.Server:
		return "to its " + f.Peer
	default:
		return f.Peer
	}
}

func descriptors(p *Process) string {
	switch {
	case !p.Known:
		return "-"
	case p.Limit == 0:
		return strconv.Itoa(p.Used)
	default:
		return fmt.Sprintf("%d/%d", p.Used, p.Limit)
	}
}

func namespace(f *Finding) string {
	switch {
	case f.NetnsName != "":
		return f.NetnsName
	case f.Netns != 0:
		return sockettable.Netns(f.Netns)
	default:
		return "-"
	}
}

// label is the cause, and that it is of MPTCP subflows, as sockdog list has it.
func (f *Finding) label() string {
	if f.MPTCP {
		return f.Name + ",mptcp"
	}
	return f.Name
}

// object is a finding in -o json, under the names that the log uses.
type object struct {
	Finding   string        `json:"finding"`
	Verdict   rules.Verdict `json:"verdict,omitempty"` // where it is one of CLOSE_WAIT
	Leak      bool          `json:"leak"`              // false: it is worth knowing, and no leak by itself
	MPTCP     bool          `json:"mptcp,omitempty"`
	Netns     string        `json:"netns,omitempty"`
	NetnsName string        `json:"netns_name,omitempty"`
	ownerObject
	Dst        string       `json:"dst,omitempty"`   // of connections that the owner opened
	SPort      uint16       `json:"sport,omitempty"` // of those that it accepted, or is to
	Count      int          `json:"count"`
	InStateFor *float64     `json:"in_state_for,omitempty"` // of the oldest
	Bound      bool         `json:"bound"`                  // that is a lower bound
	Growth     *float64     `json:"growth,omitempty"`       // sockets a minute
	Used       *int         `json:"descriptors,omitempty"`
	Limit      uint64       `json:"descriptor_limit,omitempty"`
	LimitIn    *float64     `json:"limit_in,omitempty"` // seconds
	Queue      *queueObject `json:"accept_queue,omitempty"`
	Text       string       `json:"text"`
}

// ownerObject is who holds the sockets.
type ownerObject struct {
	PID       int                  `json:"pid,omitempty"` // the first that does
	Comm      string               `json:"comm,omitempty"`
	Holders   []sockettable.Holder `json:"holders,omitempty"` // all, where there are several
	Container string               `json:"container,omitempty"`
	Pod       string               `json:"pod,omitempty"`
	Unit      string               `json:"unit,omitempty"`
}

type queueObject struct {
	Length    uint32   `json:"length"`
	Limit     uint32   `json:"limit"`
	Accepting *int     `json:"threads_in_accept,omitempty"`
	Overflows *uint64  `json:"overflows,omitempty"` // of its network namespace, in all
	Minute    *float64 `json:"overflows_per_minute,omitempty"`
}

// PrintJSON prints an object for each finding.
func (r *Report) PrintJSON(out io.Writer) error {
	return term.JSON(out, func(yield func(object) bool) {
		for _, f := range r.Findings {
			if !yield(r.object(f)) {
				return
			}
		}
	})
}

func (r *Report) object(f *Finding) object {
	o := object{
		Finding: f.Name, Leak: !f.note, MPTCP: f.MPTCP, Netns: sockettable.Netns(f.Netns), NetnsName: f.NetnsName,
		Count: f.Count, Bound: !f.Exact, Text: r.Sentence(f), Verdict: f.verdict(),
	}
	if f.Server {
		o.SPort = f.Port
	} else {
		o.Dst = f.Peer
	}
	if len(f.Holders) > 0 {
		o.ownerObject = newOwnerObject(f.Holders)
	}
	if f.Known {
		o.InStateFor = new(sockettable.Seconds(f.Oldest))
	}
	if f.Rated {
		o.Growth = &f.Rate
	}
	if p := &f.Process; p.Known {
		o.Used, o.Limit = &p.Used, p.Limit
	}
	if f.LimitIn > 0 {
		o.LimitIn = new(sockettable.Seconds(f.LimitIn))
	}
	if q := f.Queue; q != nil {
		o.Queue = &queueObject{Length: q.Length, Limit: q.Limit, Accepting: q.Accepting, Overflows: q.Overflows}
		if q.Watched {
			o.Queue.Minute = &q.Minute
		}
	}
	return o
}

func newOwnerObject(holders []sock.Holder) ownerObject {
	first := holders[0]
	o := ownerObject{PID: first.PID, Comm: first.Comm, Holders: sockettable.HoldersOf(holders)}
	if at := first.Owner; at != nil {
		o.Container, o.Pod, o.Unit = at.Container, at.Pod, at.Unit.Text
	}
	return o
}

// verdict is the cause as sockdog list has it; empty: it is none of those.
func (f *Finding) verdict() rules.Verdict {
	switch v := rules.Verdict(f.Name); v {
	case rules.EOFUnread, rules.EOFReadNotClosed, rules.UnreadData, rules.StillSending, rules.InBacklog:
		return v
	default:
		return ""
	}
}
