package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/journal"
	"github.com/sockdog/sockdog/internal/sock"
)

// keeper writes what happened to the log and the journal, and what must outlive
// a restart to the store. A disk that hangs stops it and not the watch: only an
// act waits, for the record of its intent.
type keeper struct {
	log     *slog.Logger
	netns   string
	disk    sync.Mutex // journal and store are used by the actor, too
	journal Journal
	store   Store
	failed  map[string]trouble // by what failed

	mail    sync.Mutex
	arrived *sync.Cond
	box     []letter
	lost    int
	ailing  map[string]bool // what cannot be written
	closed  bool
	done    chan struct{}
}

// letter is a part of a plan on its way to the disk.
type letter struct {
	notes    []engine.Note
	report   []engine.Action
	remember []sock.Memory
	forget   []uint64
	turns    []engine.Turn
	groups   []sock.Group // nil: no change
	now      sock.Instant
	at       time.Time
}

// boxSize bounds what waits for a disk or a log that hangs. What is over is
// counted, and said once it flows again.
const boxSize = 4096

func newKeeper(log *slog.Logger, netns string, j Journal, s Store) *keeper {
	k := &keeper{log: log, netns: netns, journal: j, store: s, failed: make(map[string]trouble), ailing: make(map[string]bool), done: make(chan struct{})}
	k.arrived = sync.NewCond(&k.mail)
	go k.run()
	return k
}

// post hands a letter over without waiting.
func (k *keeper) post(l letter) {
	if len(l.notes)+len(l.report)+len(l.remember)+len(l.forget)+len(l.turns) == 0 && l.groups == nil {
		return
	}
	l.at = time.Now()
	k.mail.Lock()
	defer k.mail.Unlock()
	if len(k.box) >= boxSize {
		// An outcome closes an intent, and is kept: the limits bound how many come.
		outcomes := slices.DeleteFunc(slices.Clone(l.report), func(a engine.Action) bool { return a.Seq == 0 })
		k.lost += len(l.report) - len(outcomes) + len(l.notes) + len(l.turns)
		if len(outcomes) == 0 {
			return
		}
		l = letter{report: outcomes, at: l.at}
	}
	k.box = append(k.box, l)
	k.arrived.Signal()
}

// keeperEnd is how long the log and the disk have to take what is left.
const keeperEnd = 200 * time.Millisecond

// close waits until everything posted is written, within reason.
func (k *keeper) close() {
	k.mail.Lock()
	k.closed = true
	k.arrived.Signal()
	k.mail.Unlock()
	select {
	case <-k.done:
	case <-time.After(keeperEnd):
	}
}

func (k *keeper) run() {
	defer close(k.done)
	for {
		k.mail.Lock()
		for len(k.box) == 0 && !k.closed {
			k.arrived.Wait()
		}
		letters, lost := k.box, k.lost
		k.box, k.lost = nil, 0
		k.mail.Unlock()
		if len(letters) == 0 {
			return
		}
		for i := range letters {
			k.write(&letters[i])
		}
		if lost > 0 {
			k.log.Error("records were lost: the log or the disk took them too slowly", "records", lost)
		}
	}
}

func (k *keeper) write(l *letter) {
	records := make([]journal.Record, 0, len(l.report)+len(l.turns))
	for i := range l.report {
		records = append(records, k.recordOf(&l.report[i], l.at))
	}
	for i := range l.turns {
		records = append(records, k.turned(&l.turns[i], l.now, l.at))
	}
	k.save(l, records) // before the log, which may hang
	for i := range records {
		if r := &records[i]; r.Result != journal.Held { // one line a minute stands for those
			k.log.LogAttrs(context.Background(), levelOf(r.Result), r.Action+" "+string(r.Result), r.Attrs()...)
		}
	}
	for _, n := range l.notes {
		k.log.LogAttrs(context.Background(), n.Level, n.Text, n.Attrs...)
	}
}

// save writes what a letter has for the disk.
func (k *keeper) save(l *letter, records []journal.Record) {
	k.disk.Lock()
	defer k.disk.Unlock()
	if k.journal != nil && len(records) > 0 {
		k.check(theJournal, k.journal.Append(records))
	}
	if k.store != nil && len(l.remember) > 0 {
		k.check(theStore, k.store.Put(l.remember))
	}
	if k.store != nil && len(l.forget) > 0 {
		k.check(theStore, k.store.Forget(l.forget))
	}
	if k.store != nil && l.groups != nil {
		k.check(theStore, k.store.Keep(l.groups))
	}
}

func levelOf(r journal.Result) slog.Level {
	switch r {
	case journal.Failed:
		return slog.LevelError
	case journal.Unconfirmed, journal.Interrupted, journal.Firing:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// Intend writes the record of acts before they are done. Where the disk refuses,
// the acts are done all the same: a full disk must not keep a leak alive.
func (k *keeper) Intend(actions []engine.Action) {
	if k.journal == nil && k.store == nil {
		return
	}
	now := time.Now()
	records := make([]journal.Record, len(actions))
	for i := range actions {
		records[i] = k.recordOf(&actions[i], now)
		records[i].Result = journal.Intent
	}
	k.disk.Lock()
	defer k.disk.Unlock()
	if k.store != nil {
		k.check(theStore, k.store.Spend(spent(actions)))
	}
	if k.journal != nil {
		k.check(theJournal, k.journal.Append(records))
		for i := range actions {
			actions[i].Seq = records[i].Seq
		}
	}
}

// spent sums up the actions by rule, in the order of the rules' first.
func spent(actions []engine.Action) []sock.Spent {
	var sums []sock.Spent
	at := make(map[string]int)
	for i := range actions {
		a := &actions[i]
		j, ok := at[a.Rule]
		if !ok {
			j = len(sums)
			at[a.Rule] = j
			sums = append(sums, sock.Spent{Rule: sock.RuleSum(a.Rule), At: a.Decided, Expires: a.Decided.Add(a.Window)})
		}
		sums[j].N++
	}
	return sums
}

// say posts a line for the log, which may hang: not while the disk is held.
func (k *keeper) say(level slog.Level, text string, attrs ...slog.Attr) {
	k.post(letter{notes: []engine.Note{{Level: level, Text: text, Attrs: attrs}}})
}

// check says once that something cannot be written, and once that it can again.
func (k *keeper) check(what string, err error) {
	t := k.failed[what]
	switch {
	case err != nil && !t.told && time.Since(t.at) >= troubleEvery:
		k.say(slog.LevelError, what+" cannot be written: sockdog goes on, with what it remembers in memory only", slog.String("error", err.Error()))
		t.told, t.at = true, time.Now()
	case err == nil && t.told:
		k.say(slog.LevelInfo, what+" can be written again")
		t.told = false
	}
	k.failed[what] = t
	k.mail.Lock()
	defer k.mail.Unlock()
	k.ailing[what] = t.told
}

// What is written to.
const (
	theJournal = "the journal"
	theStore   = "the first-seen store"
)

// ails reports whether something could not be written, and can still not.
func (k *keeper) ails(what string) bool {
	k.mail.Lock()
	defer k.mail.Unlock()
	return k.ailing[what]
}

// trouble is how it stands with something that could not be written.
type trouble struct {
	told bool
	at   time.Time // when that was said last
}

// troubleEvery is how often trouble is told of at most: a disk that is full for a
// large write has room for a small one, over and over.
const troubleEvery = 10 * time.Minute

func (k *keeper) recordOf(a *engine.Action, at time.Time) journal.Record {
	s := &a.Socket
	r := journal.Record{
		Time: at, Seq: a.Seq, Rule: a.Rule, Action: string(a.Kind), Result: journal.Result(a.Result), DryRun: a.DryRun, Reason: a.Reason,
		Netns: k.netns, Src: s.Src, Dst: s.Dst, State: s.State.String(), InStateFor: a.InStateFor, IdleFor: a.IdleFor,
		Cookie: s.ID.Cookie, Inode: s.Inode, UID: s.UID,
	}
	if len(a.Owners) > 0 {
		r.PID, r.Comm = a.Owners[0].PID, a.Owners[0].Comm
	}
	return r
}

// turned puts the turn of a group into a record.
func (k *keeper) turned(t *engine.Turn, now sock.Instant, at time.Time) journal.Record {
	r := journal.Record{
		Time: at, Rule: t.Rule, Action: "group", Result: journal.Result(t.To), DryRun: t.DryRun, Netns: k.netns,
		Group: engine.ByName(t.Group), Sockets: t.Count,
	}
	if t.From == engine.Firing && t.To == engine.Quiet {
		r.Result = journal.Resolved
	}
	said := make([]string, len(t.When))
	for i, c := range t.When {
		said[i] = fmt.Sprintf("%s %s (%s)", c.Metric, t.Text(c.Metric), c)
	}
	if len(said) == 0 {
		said = []string{"sockets that are due"}
	}
	r.Reason = strings.Join(said, ", ")
	if t.Since != 0 && t.From != engine.Quiet {
		r.Reason += ", for " + now.Sub(t.Since).Round(time.Millisecond).String()
	}
	return r
}
