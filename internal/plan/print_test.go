package plan

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// The same addresses may be in every pod: which one a socket is held in stands beside its holder.
func TestPrintPods(t *testing.T) {
	set := rules.Set{Rules: []rules.Rule{{Name: "leak", Enabled: true}}}
	forecast := func(port uint16, in time.Duration, not match.Reason, holders ...sock.Holder) engine.Forecast {
		var f engine.Forecast
		f.Rule, f.Kind, f.In, f.Not, f.Holders = "leak", rules.Kill, in, not, holders
		f.InStateFor = 5 * time.Minute
		f.Socket.State, f.Socket.Inode = ssfilter.CloseWait, uint32(port)
		f.Socket.Src, f.Socket.Dst = netip.AddrPortFrom(netip.MustParseAddr("10.0.0.7"), port), netip.MustParseAddrPort("10.0.0.9:5432")
		f.Socket.ID.Netns = uint32(port)
		return f
	}
	inPod := sock.Holder{PID: 7, Comm: "java", Owner: &sock.Owner{Pod: "payments/api-0"}}
	alone := sock.Holder{PID: 8, Comm: "nginx", Owner: &sock.Owner{}}
	p := Plan{set: &set, several: true, actions: []engine.Forecast{
		forecast(40001, 0, "", inPod), forecast(40002, time.Minute, "", alone), forecast(40003, 0, match.Protected),
	}}
	const want = `leak: 1 action now, 1 later, 1 left alone (protected 1)
  ACTION  LOCAL           PEER           HELD BY   POD             BECAUSE                                   WHEN            NETNS
  kill    10.0.0.7:40001  10.0.0.9:5432  java[7]   payments/api-0  close-wait for 5m0s, eof-read-not-closed  now             40001
  kill    10.0.0.7:40002  10.0.0.9:5432  nginx[8]  -               close-wait for 5m0s, eof-read-not-closed  in 1m0s         40002
  kill    10.0.0.7:40003  10.0.0.9:5432  -         -               close-wait for 5m0s, eof-read-not-closed  not: protected  40003
`
	if diff := cmp.Diff(want, printed(t, &p)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	p.several, p.actions = false, p.actions[1:2]
	const bare = `leak: 0 actions now, 1 later, 0 left alone
  ACTION  LOCAL           PEER           HELD BY   BECAUSE                                   WHEN
  kill    10.0.0.7:40002  10.0.0.9:5432  nginx[8]  close-wait for 5m0s, eof-read-not-closed  in 1m0s
`
	if diff := cmp.Diff(bare, printed(t, &p)); diff != "" {
		t.Errorf("without pods (-want +got):\n%s", diff)
	}
}

func printed(t *testing.T, p *Plan) string {
	t.Helper()
	var out strings.Builder
	if err := p.Print(&out, 0); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
