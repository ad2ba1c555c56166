package ssfilter

import (
	"strings"
	"testing"
)

func TestParseState(t *testing.T) {
	tests := []struct {
		names string
		want  StateSet
	}{
		{"established ESTABLISHED ESTAB estab TCP_ESTABLISHED", Of(Established)},
		{"syn-sent SYN-SENT SYN_SENT TCP_SYN_SENT", Of(SynSent)},
		{"syn-recv SYN-RECV SYN_RECV syn-rcv TCP_SYN_RECV", Of(SynRecv)},
		{"fin-wait-1 FIN-WAIT-1 FIN_WAIT1 FIN_WAIT_1 fin-wait1", Of(FinWait1)},
		{"fin-wait-2 FIN-WAIT-2 FIN_WAIT2 TCP_FIN_WAIT2", Of(FinWait2)},
		{"time-wait TIME-WAIT TIME_WAIT timewait", Of(TimeWait)},
		{"close closed CLOSE unconnected UNCONN TCP_CLOSE", Of(Close)},
		{"close-wait CLOSE-WAIT CLOSE_WAIT Close-Wait TCP_CLOSE_WAIT", Of(CloseWait)},
		{"last-ack LAST-ACK LAST_ACK", Of(LastAck)},
		{"listen listening LISTEN TCP_LISTEN", Of(Listening)},
		{"closing CLOSING", Of(Closing)},
		{"bound-inactive BOUND_INACTIVE", Of(BoundInactive)},
		{"all ALL", 0xffe},
		{"connected", 0xffe &^ Of(Close, Listening)},
		{"synchronized", 0xffe &^ Of(Close, Listening, SynSent)},
		{"bucket", Of(SynRecv, TimeWait)},
		{"big", 0xffe &^ Of(SynRecv, TimeWait)},
	}
	for _, tt := range tests {
		for name := range strings.FieldsSeq(tt.names) {
			got, err := ParseState(name)
			if err != nil || got != tt.want {
				t.Errorf("ParseState(%q) = %v, %v; want %v", name, got, err, tt.want)
			}
		}
	}
}

// Every state's own name must lead back to it, but for the kernel's request
// sockets, which it reports in SYN_RECV.
func TestParseStateReadsWhatStringPrints(t *testing.T) {
	for s := Established; s <= BoundInactive; s++ {
		set, err := ParseState(s.String())
		if s == NewSynRecv {
			if err == nil {
				t.Errorf("ParseState(%q) = %v, want an error", s, set)
			}
			continue
		}
		if err != nil || set != Of(s) {
			t.Errorf("ParseState(%q) = %v, %v; want %v", s, set, err, s)
		}
	}
}

func TestParseStateNamesTheNearest(t *testing.T) {
	tests := []struct{ name, want string }{
		{"close-wiat", `unknown state "close-wiat": did you mean close-wait?`},
		{"CLOSEWAITS", `unknown state "CLOSEWAITS": did you mean close-wait?`},
		{"fin-wait", `unknown state "fin-wait": did you mean fin-wait-1 or fin-wait-2?`},
		{"new-syn-recv", `unknown state "new-syn-recv": did you mean syn-recv?`},
		{"zombie", `unknown state "zombie": write one of established, syn-sent, syn-recv, fin-wait-1, fin-wait-2, time-wait, closed, close-wait, last-ack, listening, closing, bound-inactive, all, connected, synchronized, bucket, big`},
		{"", `unknown state "": write one of established, syn-sent, syn-recv, fin-wait-1, fin-wait-2, time-wait, closed, close-wait, last-ack, listening, closing, bound-inactive, all, connected, synchronized, bucket, big`},
	}
	for _, tt := range tests {
		if _, err := ParseState(tt.name); err == nil || err.Error() != tt.want {
			t.Errorf("ParseState(%q) error:\n got %v\nwant %s", tt.name, err, tt.want)
		}
	}
}

func TestStateSetString(t *testing.T) {
	if got, want := Of(CloseWait, TimeWait).String(), "time-wait,close-wait"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
