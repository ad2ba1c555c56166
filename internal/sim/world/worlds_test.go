package world_test

import (
	"flag"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	judges = flag.Int("worlds", manyWorlds, "how many random worlds to simulate")
	seed   = flag.Uint64("seed", 0, "simulate the one world of this seed, and print what happens in it")
)

// TestWorlds runs the engine in random worlds and holds it, at every decision,
// to the truth that it cannot see: nothing is killed early, in use, outside of
// its rule or beyond a limit, and nothing that stays due is forgotten.
func TestWorlds(t *testing.T) {
	if *seed != 0 {
		w := newJudge(*seed)
		w.Trace = func(line string) { t.Log(line) }
		w.run()
		t.Logf("%+v", w.tally)
		if w.failure != "" {
			t.Fatal(w.failure)
		}
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // a world leaves nothing behind
	var (
		mu    sync.Mutex
		total tally
		next  atomic.Uint64
		wg    sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= uint64(*judges) && !t.Failed(); seed = next.Add(1) {
				w := newJudge(seed)
				func() {
					defer func() {
						if p := recover(); p != nil {
							w.failf("%v\n%s", p, debug.Stack())
						}
					}()
					w.run()
				}()
				if w.failure != "" {
					t.Errorf("world %d: %s\nto see what happened in it: go test ./internal/sim/world -run TestWorlds -seed=%d -v", seed, w.failure, seed)
				}
				mu.Lock()
				total.add(&w.tally)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d worlds: %+v", *judges, total)
	if total.Kills == 0 || total.Touches == 0 || total.Through == 0 || total.Held == 0 || total.Would == 0 || total.Restarts == 0 || total.Reconnects == 0 || total.Fired == 0 || total.Alerts == 0 || total.Grouped == 0 || total.Changed == 0 || total.Spared == 0 || total.Accepted == 0 || total.ByHolders == 0 || total.Passed == 0 || total.Unseen == 0 || total.Canaries == 0 || total.Stops == 0 || total.Shares == 0 || total.Exact == 0 || total.Changes == 0 || total.Waited == 0 || total.GroupDone == 0 || total.GroupChanged == 0 || total.GroupWould == 0 || total.Signals == 0 || total.Sets == 0 || total.Shutdowns == 0 || total.Escalated == 0 {
		t.Errorf("too little happened to show anything: %+v", total)
	}
}

// tally counts what happened.
type tally struct {
	Shutdowns, Escalated                                                                                                                                           int // and kills that followed
	Touches, Through                                                                                                                                               int // keepalives, and kills through who held the socket
	Steps, Scans, Skips, Asks, Kills, Changed, Gone, Held, Would, Reloads, Restarts, Survivors, Punctual, Reconnects, Fired, Alerts, Grouped, Reads, Spins, Spared int
	Latest                                                                                                                                                         time.Duration // of those seen before they fell due
	ByHolders, Passed, Unseen                                                                                                                                      int           // acts that holders decided, some of sockets that were passed on; rules that waited for holders
	Accepted                                                                                                                                                       int           // acts on what waited in an accept queue
	Canaries, Stops, Shares                                                                                                                                        int           // acts of canaries, rules that stopped themselves, and acts within a share
	Pauses, Waited                                                                                                                                                 int           // pauses, and acts held back by them
	GroupDone, GroupChanged, GroupWould, Signals, Sets                                                                                                             int           // actions on groups
	Exact, Changes                                                                                                                                                 int           // on time by what only a source knew that saw the socket change; and how often it came or went
}

func (t *tally) add(u *tally) {
	t.Shutdowns += u.Shutdowns
	t.Escalated += u.Escalated
	t.Touches += u.Touches
	t.Through += u.Through
	t.Steps += u.Steps
	t.Scans += u.Scans
	t.Skips += u.Skips
	t.Asks += u.Asks
	t.Kills += u.Kills
	t.Changed += u.Changed
	t.Gone += u.Gone
	t.Held += u.Held
	t.Would += u.Would
	t.Reloads += u.Reloads
	t.Restarts += u.Restarts
	t.Survivors += u.Survivors
	t.Punctual += u.Punctual
	t.Reconnects += u.Reconnects
	t.Fired += u.Fired
	t.Alerts += u.Alerts
	t.Grouped += u.Grouped
	t.Reads += u.Reads
	t.Spins += u.Spins
	t.Spared += u.Spared
	t.Accepted += u.Accepted
	t.ByHolders += u.ByHolders
	t.Passed += u.Passed
	t.Unseen += u.Unseen
	t.GroupDone += u.GroupDone
	t.Signals += u.Signals
	t.Sets += u.Sets
	t.GroupChanged += u.GroupChanged
	t.GroupWould += u.GroupWould
	t.Exact += u.Exact
	t.Changes += u.Changes
	t.Pauses += u.Pauses
	t.Canaries += u.Canaries
	t.Stops += u.Stops
	t.Shares += u.Shares
	t.Waited += u.Waited
	t.Latest = max(t.Latest, u.Latest)
}
