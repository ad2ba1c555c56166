package manualkill

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/engine"
	"github.com/sockdog/sockdog/internal/engine/subject"
	"github.com/sockdog/sockdog/internal/engine/track"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/sockettable"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// outcomes are three that differ in all that a table shows.
func outcomes() []*Target {
	target := func(state ssfilter.State, src, dst string, age track.Age, result engine.Result, reason string, held ...sock.Holder) *Target {
		return &Target{
			Socket: sock.Socket{
				Conn:  ssfilter.Conn{State: state, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)},
				ID:    sock.ID{Netns: 4026531840, Cookie: 9},
				Inode: uint32(len(held)),
			},
			Age: age, Result: result, Reason: reason, Held: &subject.Holders{Processes: held},
		}
	}
	return []*Target{
		target(ssfilter.Established, "10.0.0.1:40000", "10.0.0.2:5432", track.Age{}, LeftAlone, "may be in use", sock.Holder{PID: 7, Comm: "app"}),
		target(ssfilter.CloseWait, "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:40000", "[::1]:443",
			track.Age{InState: 90 * time.Second, Idle: time.Second, Silent: 2 * time.Second, Known: true, Exact: true}, engine.Done, "", sock.Holder{PID: 7, Comm: "app"}, sock.Holder{PID: 8, Comm: "app"}),
		target(ssfilter.TimeWait, "10.0.0.1:1", "10.0.0.2:80", track.Age{InState: time.Hour, Known: true}, engine.Gone, "it ended by itself"),
	}
}

func TestPrint(t *testing.T) {
	tests := []struct {
		name    string
		view    sockettable.View
		targets []*Target
		want    string
	}{
		{"what is left comes last", sockettable.View{Headings: true}, outcomes(), `
RESULT      STATE        LOCAL                                           PEER           AGE    WHY
done        CLOSE-WAIT   [2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:40000  [::1]:443      1m30s  -
gone        TIME-WAIT    10.0.0.1:1                                      10.0.0.2:80    ≥1h0m  it ended by itself
left-alone  ESTABLISHED  10.0.0.1:40000                                  10.0.0.2:5432  -      may be in use
destroyed 1, gone 1, left alone 1
`},
		{"wide, without headings", sockettable.View{Holders: true}, outcomes()[:1], `
left-alone  ESTABLISHED  10.0.0.1:40000  10.0.0.2:5432  -  app[7]  may be in use
destroyed 0, left alone 1
`},
		{"a narrow terminal", sockettable.View{Headings: true, Cells: 80}, outcomes(), `
RESULT      LOCAL                       PEER           AGE    WHY
done        [2001:db8:aa…e:ffff]:40000  [::1]:443      1m30s  -
gone        10.0.0.1:1                  10.0.0.2:80    ≥1h0m  it ended by itself
left-alone  10.0.0.1:40000              10.0.0.2:5432  -      may be in use
destroyed 1, gone 1, left alone 1
`},
		{"nothing", sockettable.View{Headings: true}, nil, "\ndestroyed 0\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			if err := Print(&out, test.targets, &test.view); err != nil {
				t.Fatal(err)
			}
			out.WriteString(SumOf(test.targets, false).String() + "\n")
			if diff := cmp.Diff(test.want, "\n"+out.String()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrintJSON(t *testing.T) {
	var out strings.Builder
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	if err := PrintJSON(&out, outcomes()[1:2], false, at); err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil || len(got) != 1 {
		t.Fatalf("%v in %s", err, out.String())
	}
	want := map[string]any{
		"time": "2026-01-02T03:04:05.000000006Z", "action": "kill", "result": "done", "dry_run": false, "reason": "", "netns": "4026531840",
		"src": "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:40000", "dst": "[::1]:443", "state": "close-wait",
		"in_state_for": 90.0, "idle_for": 1.0, "silent_for": 2.0, "bound": false, "cookie": 9.0, "inode": 2.0, "uid": 0.0, "pid": 7.0, "comm": "app",
		"holders": []any{map[string]any{"pid": 7.0, "comm": "app"}, map[string]any{"pid": 8.0, "comm": "app"}},
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("object (-want +got):\n%s", diff)
	}
}

func TestLeft(t *testing.T) {
	targets := append(outcomes(), outcomes()[0], &Target{Result: engine.Failed, Reason: errors.ErrUnsupported.Error()}, &Target{})
	want := []string{"left alone 2: may be in use", "failed 1: unsupported operation"}
	if diff := cmp.Diff(want, SumOf(targets, false).Left(true)); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
}
