package ssfilter

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestPortsOf(t *testing.T) {
	one := func(port uint16) []PortRange { return []PortRange{{port, port}} }
	tests := []struct {
		expr       string
		src, dst   []PortRange
		srcs, dsts bool
	}{
		{expr: "dport = 22", dst: one(22), dsts: true},
		{expr: "dport = *", dst: []PortRange{{0, 65535}}, dsts: true},
		{expr: "dport > 65535", srcs: true, dsts: true}, // for no socket
		{expr: "sport < 0", srcs: true, dsts: true},
		{expr: "sport = 1 and dport = 2 and dst 10/8", src: one(1), srcs: true, dst: one(2), dsts: true},
		{expr: "sport = 1 or dport = 2"},
		{expr: "( dport = 2 and dst 10/8 ) or dport = 3", dst: []PortRange{{2, 3}}, dsts: true},
		{expr: "( dport = 2 and sport = 7 ) or ( dport = 9 and sport = 8 )", src: []PortRange{{7, 8}}, srcs: true, dst: []PortRange{{2, 2}, {9, 9}}, dsts: true},
		{expr: "( dport = 2 or dport = 5 ) and ( dport = 5 or ( dport = 2 and autobound ) )", dst: []PortRange{{2, 2}, {5, 5}}, dsts: true},
		{expr: "( dport = 2 or dport = 5 ) and ( ( dport = 5 and fwmark = 1 ) or ( dport = 9 and autobound ) )", dst: one(5), dsts: true},
		{expr: "dport != 22", dst: []PortRange{{0, 21}, {23, 65535}}, dsts: true},
		{expr: "not ( dport < 22 or dport > 22 )", dst: one(22), dsts: true},
		{expr: "not ( dport = 22 or dst 10/8 )"},
		{expr: "dst 10/8"},
		{expr: "dev = lo or dport = 2"},
	}
	for _, tt := range tests {
		x, err := ParseExpr(tt.expr)
		if err != nil {
			t.Fatal(err)
		}
		for _, side := range []Side{Src, Dst} {
			want, known := tt.src, tt.srcs
			if side == Dst {
				want, known = tt.dst, tt.dsts
			}
			got, ok := PortsOf(x, side)
			if ok != known || !slices.Equal(got, want) {
				t.Errorf("PortsOf(%s, %v) = %v, %v; want %v, %v", tt.expr, side, got, ok, want, known)
			}
		}
	}
	if _, ok := PortsOf(nil, Src); ok {
		t.Error("every socket has certain ports")
	}
}

// Outside of the ports that PortsOf tells an expression must certainly not hold.
func TestPortsOfLeavesNothingOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawSample(samplePorts, samplePrefixes).Draw(t, "expr").Expr
		c := drawConn(t)
		forget(t, &c)
		for _, side := range []Side{Src, Dst} {
			ranges, ok := PortsOf(x, side)
			if ok && Ports(side, ranges...).Eval(&c) == False && x.Eval(&c) != False {
				t.Fatalf("PortsOf(%v, %v) = %v leaves out %+v", x, side, ranges, c)
			}
			if ok && !cmp.Equal(ranges, newPorts(side, slices.Clone(ranges)).ranges) {
				t.Fatalf("PortsOf(%v, %v) = %v is not in order", x, side, ranges)
			}
		}
	})
}

func TestNamesPort(t *testing.T) {
	tests := map[string]bool{
		"dport = 22":               true,
		"sport 22":                 true,
		"src 10.0.0.1:22":          true,
		"dport = 22 or dport = 80": true,
		"dst 10/8 and ( sport = 1 or dport = 22 )": true,
		"not not dport = 22":                       true,
		"dport != 22":                              false,
		"not ( dport = 22 and dst 10/8 )":          false,
		"dport = 80":                               false,
		"dport <= 22":                              false,
		"dport < 1024":                             false,
		"dst 10/8":                                 false,
	}
	for text, want := range tests {
		x, err := ParseExpr(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := NamesPort(x, 22); got != want {
			t.Errorf("NamesPort(%s, 22) = %v", text, got)
		}
	}
	if NamesPort(nil, 22) {
		t.Error("every socket has port 22")
	}
	if x := Ports(Dst, PortRange{22, 22}); !NamesPortOf(x, Dst, 22) || NamesPortOf(x, Src, 22) {
		t.Errorf("%s names one side", x)
	}
}
