package sockettable

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
)

func TestPrintGroups(t *testing.T) {
	known := func(text string) sock.Fact { return sock.Fact{Text: text, Known: true} }
	tests := []struct {
		keys, output string
		want         string
	}{
		{
			keys: "dst,dport", output: "table",
			want: `
COUNT  DST                                     DPORT  RECV-Q  SEND-Q  OLDEST
2      10.0.0.2                                5432   2       0       1h30m
1      2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff  65535  0       0       ≥1m0s
1      10.0.0.3                                5432   0       0       -
`,
		},
		{
			keys: "process", output: "table", // what is not known is a group, too
			want: `
COUNT  PROCESS  RECV-Q  SEND-Q  OLDEST
2      -        1       0       ≥5s
1      java     1       0       1h30m
1      �[2Jx�   0       0       ≥1m0s
`,
		},
		{
			keys: "unit,container,pod", output: "table",
			want: `
COUNT  UNIT          CONTAINER     POD             RECV-Q  SEND-Q  OLDEST
3      -             -             -               1       0       ≥1m0s
1      shop.service  0123456789ab  payments/api-1  1       0       1h30m
`,
		},
		{
			keys: "state, uid", output: "json",
			want: `
[
  {
    "bound": false,
    "count": 1,
    "oldest": 5400,
    "rqueue": 1,
    "state": "close-wait",
    "uid": 1000,
    "wqueue": 0
  },
  {
    "bound": true,
    "count": 1,
    "oldest": 60,
    "rqueue": 0,
    "state": "established",
    "uid": 1000,
    "wqueue": 0
  },
  {
    "bound": false,
    "count": 1,
    "oldest": 5,
    "rqueue": 1,
    "state": "close-wait",
    "wqueue": 0
  },
  {
    "bound": true,
    "count": 1,
    "rqueue": 0,
    "state": "syn-sent",
    "uid": 1000,
    "wqueue": 0
  }
]
`,
		},
	}
	for _, test := range tests {
		t.Run(test.keys, func(t *testing.T) {
			view := View{JSON: test.output == "json", Headings: true}
			var err error
			if view.Keys, err = ParseKeys(test.keys); err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			table := sightings(t)
			table.Holders[11][0].Owner = &sock.Owner{Unit: known("shop.service"), ContainerID: known("0123456789abcdef"), Pod: "payments/api-1"}
			if err := table.Print(&b, &view); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, "\n"+b.String()); diff != "" {
				t.Errorf("groups (-want +got):\n%s", diff)
			}
		})
	}
}
