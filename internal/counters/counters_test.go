package counters

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/sock"
)

const (
	sockstat = `sockets: used 13
TCP: inuse 5 orphan 1 tw 2 alloc 6 mem 253
UDP: inuse 7 mem 0
FRAG: inuse 0 memory 0
`
	snmp = `Ip: Forwarding DefaultTTL InReceives
Ip: 1 64 3400
IcmpMsg: InType3 OutType3
IcmpMsg: 1 1
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 112 2 0 0 0 3378 3002 0 0 2 0
`
)

func TestParse(t *testing.T) {
	tests := []struct {
		name           string
		sockstat, snmp string
		want           sock.Counters
	}{
		{
			name:     "a present kernel",
			sockstat: sockstat, snmp: snmp,
			want: sock.Counters{HasTimeWait: true, HasInSegs: true, TimeWait: 2, InSegs: 3378},
		},
		{
			name:     "columns in another order",
			sockstat: "TCP: tw 4 inuse 1\n", snmp: "Tcp: InSegs CurrEstab\nTcp: 9 1\n",
			want: sock.Counters{HasTimeWait: true, HasInSegs: true, TimeWait: 4, InSegs: 9},
		},
		{
			name:     "fields missing",
			sockstat: "TCP: inuse 1 orphan\n", snmp: "Tcp: RtoAlgorithm RtoMin\nTcp: 1 200\n",
		},
		{
			name:     "fewer values than headings",
			sockstat: "TCP: inuse\n", snmp: "Tcp: RtoAlgorithm InSegs\nTcp: 1\n",
		},
		{
			name: "headings without values",
			snmp: "Tcp: RtoAlgorithm InSegs",
		},
		{
			name:     "no numbers",
			sockstat: "TCP: inuse x tw -1\n", snmp: "Tcp: InSegs\nTcp: 18446744073709551616\n",
		},
		{name: "nothing"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := parse([]byte(test.sockstat), []byte(test.snmp))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("counters (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzParse holds parse to its word on unknown counters: a value that is not
// announced is zero, and one that is stands in the text.
func FuzzParse(f *testing.F) {
	f.Add(sockstat, snmp)
	f.Add("TCP: inuse 1 tw", "Tcp: InSegs\nTcp: \nTcp:")
	f.Fuzz(func(t *testing.T, sockstat, snmp string) {
		c := parse([]byte(sockstat), []byte(snmp))
		for _, field := range []struct {
			has   bool
			value uint64
			text  string
			word  string
		}{
			{c.HasTimeWait, c.TimeWait, sockstat, "tw"},
			{c.HasInSegs, c.InSegs, snmp, "InSegs"},
		} {
			if !field.has && field.value != 0 {
				t.Errorf("%s is %d and unknown", field.word, field.value)
			}
			if field.has && !strings.Contains(field.text, field.word) {
				t.Errorf("%s is known without a word of it", field.word)
			}
		}
	})
}

func TestParseHost(t *testing.T) {
	type result struct {
		Host Host
		OK   bool
	}
	tests := []struct {
		name, sockstat string
		want           result
	}{
		{"a present kernel", sockstat, result{Host{Orphans: 1, BufferPages: 253}, true}},
		{"no memory", "TCP: inuse 1 orphan 2\n", result{Host{Orphans: 2}, false}},
		{"another protocol", "UDP: inuse 7 mem 3 orphan 1\n", result{}},
		{"nothing", "", result{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got result
			got.Host, got.OK = parseHost([]byte(test.sockstat))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("parseHost (-want +got):\n%s", diff)
			}
		})
	}
}
