package replay_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/recording"
	"github.com/sockdog/sockdog/internal/sim"
	"github.com/sockdog/sockdog/internal/sim/runner"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// A replay agrees with an engine that had watched the same sockets: all that was killed would
// be killed, none before its instant, by the next scan at the latest, and nothing else. Only
// what was gone by the next scan, or alive again, is told by one of them alone.
func TestReplayAgreesWithARun(t *testing.T) {
	const every, length = 3 * time.Second, 20 * time.Minute
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		h := record(t, recording.Header{})
		h.Kernel = sim.NewKernel(seed, start)
		populate(h.Kernel, length)
		h.until(start.Add(length), every)
		replayed := make(map[uint64]time.Duration)
		for _, e := range run(t, h.end(), killing).Events {
			if e.Result == engine.Would && e.At <= length {
				if _, twice := replayed[e.Socket.Cookie]; twice {
					rt.Fatalf("socket %d would be killed twice", e.Socket.Cookie)
				}
				replayed[e.Socket.Cookie] = e.At
			}
		}
		real := sim.NewKernel(seed, start)
		lives := populate(real, length)
		r := runner.New(parse(t, killing), &runner.KernelTable{Kernel: real}, start, jiffy, engine.Restored{})
		r.Until(start.Add(length + 2*jiffy)) // what a scan at the end shows as due may be so by then
		for _, a := range r.Acts {
			if a.Result != engine.Done || a.Kind != rules.Kill {
				continue
			}
			cookie, killed := a.Socket.ID.Cookie, a.At.Sub(start)
			at, told := replayed[cookie]
			delete(replayed, cookie)
			next := (killed + every - 1).Truncate(every)
			switch changes := lives[cookie].Sub(start); {
			case told && (at < killed-2*jiffy || at > next+every && changes > next): // of which a scan tells less exactly
				rt.Errorf("socket %d was killed at %v, and would be at %v", cookie, killed, at)
			case !told && changes > next && next <= length:
				rt.Errorf("socket %d was killed at %v, and would not be, though nothing happens to it before %v", cookie, killed, changes)
			}
		}
		for cookie, at := range replayed {
			rt.Errorf("socket %d would be killed at %v, and was not", cookie, at)
		}
	})
}

// populate has sockets leak, be mended and come alive, and returns until when nothing happens
// to each after it has begun to leak.
func populate(k *sim.Kernel, length time.Duration) map[uint64]sock.Instant {
	until := make(map[uint64]sock.Instant)
	for range 60 {
		k.At(start.Add(k.UpTo(length)), func() {
			s := k.Open(uint16(5432 + k.Rand.IntN(2)))
			s.Held = []sim.Holding{{By: []int{7}}}
			until[s.ID.Cookie] = sock.Never
			k.After(s, k.UpTo(time.Minute), func() {
				k.Enter(s, ssfilter.CloseWait)
				at := k.Now.Add(k.UpTo(8 * time.Minute))
				switch k.Rand.IntN(3) {
				case 0: // its program closes it
					until[s.ID.Cookie] = at
					k.After(s, at.Sub(k.Now), func() { k.Remove(s) })
				case 1: // it still sends
					until[s.ID.Cookie] = at
					k.After(s, at.Sub(k.Now), func() { k.Advance(s, 100, 0) })
				}
			})
		})
	}
	return until
}
