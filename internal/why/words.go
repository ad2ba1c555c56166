package why

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/term"
)

// Sentence says what a finding means, and what to look for.
func (r *Report) Sentence(f *Finding) string {
	words := f.asClient
	if f.Server {
		words = f.asServer
	}
	does, look := words.does, words.look
	if f.Owner == ownerKernel {
		does, look = "still has the rest of %s, which their program has closed", "it gives up by itself, after tcp_retries2 or tcp_orphan_retries"
		if f.cause == timeWait {
			does, look = words.does, words.look
		}
	}
	mptcp := "they are of Multipath TCP, as ss -M shows them, and sockdog kills none of their subflows"
	if f.Count == 1 {
		does, look, mptcp = ofOne.Replace(does), ofOne.Replace(look), ofOne.Replace(mptcp)
	}
	parts := []string{fmt.Sprintf("%s "+does+": %s", f.who(), f.connections(), look)}
	if f.MPTCP {
		parts = append(parts, mptcp)
	}
	if facts := f.facts(r.input); len(facts) > 0 {
		parts = append(parts, strings.Join(facts, ", "))
	}
	return term.Printable(strings.Join(parts, "; ")) + "."
}

// ofOne has words that are about several connections be about one.
var ofOne = strings.NewReplacer("they were killed", "it was killed", "and are still", "and is still", "they lie", "it lies",
	"they are", "it is", " them", " it", "their subflows", "its subflows", "forgotten the connections", "forgotten the connection")

// who names the owner.
func (f *Finding) who() string {
	if len(f.Holders) == 0 {
		switch f.Owner {
		case ownerKernel:
			return "the kernel"
		case ownerNone:
			if sock.MayBeKernels(f.uid) {
				return "the kernel itself (no process holds them, as for NFS)"
			}
			return fmt.Sprintf("a process of user %d whose descriptors of them are out of sight (in a message to another, with io_uring, or of one thread alone)", f.uid)
		}
		return fmt.Sprintf("a process that cannot be seen (user %d)", f.uid)
	}
	name := holderName(f.Holders[0])
	if place := f.place(); place != "" {
		name += " " + place
	}
	if others := f.Holders[1:]; len(others) > 0 {
		name += ", with " + holderNames(others) + ","
	}
	return name
}

// holderNames names some processes, and counts the rest of many.
func holderNames(holders []sock.Holder) string {
	const named = 3
	var names []string
	for _, h := range holders[:min(len(holders), named)] {
		names = append(names, holderName(h))
	}
	if more := len(holders) - named; more > 0 {
		names = append(names, term.Count(more, "other"))
	}
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

func holderName(h sock.Holder) string { return fmt.Sprintf("%s[%d]", h.Comm, h.PID) }

// place is where the owner belongs; empty: that is not known, or nowhere.
func (f *Finding) place() string {
	at := f.Holders[0].Owner
	switch {
	case at == nil:
		return ""
	case at.Pod != "" && at.Container != "":
		return fmt.Sprintf("(container %s of pod %s)", at.Container, at.Pod)
	case at.Pod != "":
		return fmt.Sprintf("(pod %s)", at.Pod)
	case at.PodUID.Text != "":
		return fmt.Sprintf("(pod %s)", at.PodUID.Text)
	case at.ContainerID.Text != "":
		return fmt.Sprintf("(container %.12s)", at.ContainerID.Text)
	case at.Unit.Text != "":
		return fmt.Sprintf("(%s)", at.Unit.Text)
	default:
		return ""
	}
}

// connections names the sockets of a finding, and the other end.
func (f *Finding) connections() string {
	switch {
	case f.cause == deadSockets:
		return term.Count(f.Count, "TCP socket")
	case f.cause == inBacklog:
		text := fmt.Sprintf("%s to its %s", term.Count(f.Count, "connection"), f.Peer)
		if f.Closed > 0 {
			text += fmt.Sprintf(", %d of which the client has closed already", f.Closed)
		}
		return text
	case !f.Server:
		return fmt.Sprintf("%s to %s", term.Count(f.Count, "connection"), f.Peer)
	case f.Peers > 1:
		return fmt.Sprintf("%s to its %s from %d addresses", term.Count(f.Count, "connection"), f.Peer, f.Peers)
	default:
		return fmt.Sprintf("%s to its %s", term.Count(f.Count, "connection"), f.Peer)
	}
}

// facts are since when, how fast, and until what.
func (f *Finding) facts(in *Input) (facts []string) {
	if f.Netns != 0 && in.Several {
		name := f.NetnsName
		if name == "" {
			name = strconv.FormatUint(uint64(f.Netns), 10)
		}
		facts = append(facts, "in the network namespace "+name)
	}
	if f.Queue != nil {
		facts = append(facts, f.Queue.words()...)
	}
	if f.Known {
		first := "first at " + clock(in.Now, in.Now.Add(-f.Oldest)) + orEarlier(f.Exact)
		if f.verdict() != "" && !f.note && f.Oldest < early {
			first += ", only " + term.Short(f.Oldest) + " ago, which is too soon to call it a leak"
		}
		facts = append(facts, first)
	}
	switch {
	case f.Rated && f.Rate >= 0.001:
		facts = append(facts, rate(f.Rate))
	case f.Rated && in.Before != nil && f.Rate < 0:
		facts = append(facts, "fewer than "+term.Short(in.Watched)+" before")
	case f.Rated && in.Before != nil:
		facts = append(facts, "no more within "+term.Short(in.Watched))
	case f.Rated:
		facts = append(facts, "none since "+clock(in.Now, in.Now.Add(-f.Newest)))
	}
	if p := f.Process; p.Known && p.Limit > 0 {
		switch {
		case uint64(p.Used) >= p.Limit:
			facts = append(facts, fmt.Sprintf("limit of %d descriptors reached", p.Limit))
		case f.LimitIn > 0 && f.Rate > 0:
			facts = append(facts, fmt.Sprintf("%d descriptors used, limit of %d reached in about %s", p.Used, p.Limit, about(f.LimitIn)))
		default:
			facts = append(facts, fmt.Sprintf("%d of %d descriptors used", p.Used, p.Limit))
		}
	}
	return facts
}

// early is for how long a program that is merely busy leaves a socket in CLOSE_WAIT.
const early = 5 * time.Second

// words say how full a queue is, and who empties it.
func (q *Queue) words() []string {
	words := []string{fmt.Sprintf("accept queue %d of %d", q.Length, q.Limit)}
	if q.Accepting != nil {
		switch *q.Accepting {
		case 0:
			words = append(words, "no thread is in accept")
		case 1:
			words = append(words, "1 thread is in accept")
		default:
			words = append(words, fmt.Sprintf("%d threads are in accept", *q.Accepting))
		}
	}
	switch {
	case q.Watched:
		words = append(words, fmt.Sprintf("%s overflows a minute", decimal(q.Minute)))
	case q.Overflows != nil:
		words = append(words, fmt.Sprintf("%d overflows since its network namespace began", *q.Overflows))
	}
	return words
}

// orEarlier says that an age is a lower bound.
func orEarlier(exact bool) string {
	if exact {
		return ""
	}
	return " or earlier"
}

// clock is a time of day, with the day where that is another one.
func clock(now, at time.Time) string {
	if now.YearDay() == at.YearDay() && now.Year() == at.Year() {
		if now.Sub(at) < time.Hour {
			return at.Format("15:04:05")
		}
		return at.Format("15:04")
	}
	return at.Format("Jan 2 15:04")
}

// rate is a number a minute in the unit that makes it easy to read.
func rate(minute float64) string {
	switch {
	case minute >= 1:
		return decimal(minute) + " a minute"
	case minute >= 1./60:
		return decimal(minute*60) + " an hour"
	default:
		return decimal(minute*60*24) + " a day"
	}
}

// decimal is a number with a decimal below ten.
func decimal(n float64) string {
	if n < 9.95 && n != math.Trunc(n) {
		return strings.TrimSuffix(strconv.FormatFloat(n, 'f', 1, 64), ".0")
	}
	return strconv.FormatFloat(n, 'f', 0, 64)
}

// about is a duration that is only estimated.
func about(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return fmt.Sprintf("%d s", int(math.Round(d.Seconds())))
	case d < 90*time.Minute:
		return fmt.Sprintf("%d min", int(math.Round(d.Minutes())))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(math.Round(d.Hours())))
	default:
		return fmt.Sprintf("%d days", int(math.Round(d.Hours()/24)))
	}
}

// sentence says what programs made of the kills of a rule.
func (k Kills) sentence() string {
	all := k.Closed + k.Open + k.Unknown
	text := fmt.Sprintf("Of %s that the rule %s killed more than ten seconds ago, programs gave back %s within that time; still open then: %d, each counted against the limit of its program until that closes it or ends",
		term.Count(int(all), "connection"), k.Rule, term.Count(int(k.Closed), "descriptor"), k.Open)
	if k.Unknown > 0 {
		text += fmt.Sprintf("; of %d nobody could tell", k.Unknown)
	}
	return text + "."
}
