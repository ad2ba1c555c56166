package ssfilter

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The printed form is the one to compare: it tells every tree from every other.
func TestParseExpr(t *testing.T) {
	tests := []struct {
		name string
		text string
		want string
	}{
		{"port", "sport = :22", "sport = :22"},
		{"port without operator", "dport 22", "dport = :22"},
		{"port without blanks", "dport=22", "dport = :22"},
		{"port without anything", "dport :22", "dport = :22"},
		{"port in hexadecimal", "dport = 0x50", "dport = :80"},
		{"port in octal", "dport = :010", "dport = :8"},
		{"port by service", "dport = https", "dport = :443"},
		{"port of any number", "dport = *", "dport >= :0"},
		{"port not equal", "dport != 22", "dport != :22"},
		{"port not equal, spelled", "dport neq 22", "dport != :22"},
		{"not a port", "not dport = 22", "dport != :22"},
		{"not not", "! not dport = 22", "dport = :22"},
		{"at least", "sport geq 1024", "sport >= :1024"},
		{"at most", "sport<=1023", "sport <= :1023"},
		{"above", "sport gt 1023", "sport >= :1024"},
		{"below", "sport < 1024", "sport <= :1023"},
		{"above all", "sport > 65535", "sport < :0"},
		{"below all", "dport lt 0", "dport < :0"},
		{"range", "sport >= 5000 and sport <= 5999", "sport >= :5000 and sport <= :5999"},
		{"ports unite", "dport = 22 or dport = 80 or dport = 23", "( dport >= :22 and dport <= :23 ) or dport = :80"},
		{"ports that exclude each other", "dport = 22 and dport = 80", "dport < :0"},

		{"address", "src 192.0.2.1", "src 192.0.2.1"},
		{"address with =", "src = 192.0.2.1", "src 192.0.2.1"},
		{"address with !=", "src != 192.0.2.1", "not src 192.0.2.1"},
		{"address and port", "dst 192.0.2.1:22", "dst 192.0.2.1 and dport = :22"},
		{"address and service", "dst 192.0.2.1:ssh", "dst 192.0.2.1 and dport = :22"},
		{"address and any port", "dst 192.0.2.1:*", "dst 192.0.2.1"},
		{"any address", "dst *", "dst *"},
		{"any address and port", "dst *:22", "dport = :22"},
		{"port alone", "dst :22", "dport = :22"},
		{"any port alone", "dst :*", "dst *"},
		{"prefix", "dst 10.1.2.3/8", "dst 10.0.0.0/8"},
		{"prefix and port", "dst 10.0.0.0/8:22", "dst 10.0.0.0/8 and dport = :22"},
		{"family", "src inet:*", "src 0.0.0.0/0"},
		{"family and port", "src inet6:*:22", "src [::/0] and sport = :22"},
		{"family, port alone", "src inet::22", "src 0.0.0.0/0 and sport = :22"},
		{"family and address", "src inet6:[::1]:22", "src [::1] and sport = :22"},
		{"IPv6", "src [2001:db8::1]", "src [2001:db8::1]"},
		{"IPv6 and port", "src [2001:db8::1]:22", "src [2001:db8::1] and sport = :22"},
		{"IPv6 prefix", "src [2001:db8::1/32]", "src [2001:db8::/32]"},
		{"IPv6 prefix without brackets", "src 2001:db8::/32", "src [2001:db8::/32]"},
		{"IPv6 prefix without brackets and port", "src 2001:db8::/32:22", "src [2001:db8::/32] and sport = :22"},
		{"IPv6 without brackets", "src ::1", "src [::1]"},
		{"IPv6 without brackets, eight groups and port", "src 1:2:3:4:5:6:7:8:22", "src [1:2:3:4:5:6:7:8] and sport = :22"},
		{"unspecified IPv6", "src ::", "src [::]"},
		{"mapped address", "src ::ffff:192.0.2.1", "src 192.0.2.1"},
		{"mapped prefix", "src [::ffff:10.0.0.0/104]", "src 10.0.0.0/8"},
		{"prefix around the mapped ones", "src [::/90]", "src [::/90]"},
		{"addresses unite", "dst 10.0.0.0/8 or dst 10.1.0.0/16 or dst 192.0.2.1", "dst 10.0.0.0/8 or dst 192.0.2.1"},
		{"families unite", "dst inet6:* or dst inet:*", "dst *"},

		{"and", "sport = 1 and dport = 2", "sport = :1 and dport = :2"},
		{"and by no word", "sport = 1 dport = 2", "sport = :1 and dport = :2"},
		{"and by ampersands", "sport=1&dport=2&&dst *", "sport = :1 and dport = :2 and dst *"},
		{"or by bars", "sport=1|dport=2||dst *", "sport = :1 or dport = :2 or dst *"},
		{"parentheses", "(sport=1 or dport=1)and dst 10.0.0.0/8", "( sport = :1 or dport = :1 ) and dst 10.0.0.0/8"},
		{"parentheses without need", "((sport=1))", "sport = :1"},
		{"not binds tighter", "not sport = 1 and dport = 2", "sport != :1 and dport = :2"},
		{"not of a list", "!(sport=1 dport=2)", "not ( sport = :1 and dport = :2 )"},
		{"lists of one kind are one", "sport=1 and (dport=2 and dst 192.0.2.1)", "sport = :1 and dport = :2 and dst 192.0.2.1"},
		{"lines and tabs", "sport = 1\n\tor\r\n dport = 1\n", "sport = :1 or dport = :1"},
		{"the default protection", "sport = :22 or dport = :22", "sport = :22 or dport = :22"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseExpr(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.String()); diff != "" {
				t.Errorf("ParseExpr(%q) (-want +got):\n%s", tt.text, diff)
			}
		})
	}
}

func TestParseExprErrors(t *testing.T) {
	tests := []struct {
		name string
		text string
		want SyntaxError
	}{
		{"nothing", "", SyntaxError{0, "expected src, dst, sport, dport, not or (, found the end"}},
		{"blanks", "  ", SyntaxError{2, "expected src, dst, sport, dport, not or (, found the end"}},
		{"unknown word", "sport = 1 and prt = 2", SyntaxError{14, `expected src, dst, sport, dport, not or (, found "prt"`}},
		{"nothing after and", "sport = 1 and", SyntaxError{13, "expected src, dst, sport, dport, not or (, found the end"}},
		{"nothing before and", "and sport = 1", SyntaxError{0, `expected src, dst, sport, dport, not or (, found "and"`}},
		{"open parenthesis", "( sport = 1", SyntaxError{11, "expected ) to close the ( at byte 1, found the end"}},
		{"empty parentheses", "( )", SyntaxError{2, `expected src, dst, sport, dport, not or (, found ")"`}},
		{"closed twice", "( sport = 1 ) )", SyntaxError{14, "this ) closes nothing: no ( stands before it"}},
		{"shell's backslash", `\( sport = 1 \)`, SyntaxError{0, "the backslash is for a shell: write parentheses and operators without it"}},
		{"no port", "sport =", SyntaxError{7, "expected a port, found the end"}},
		{"operator for port", "sport = = 1", SyntaxError{8, `expected a port, found "="`}},
		{"port too large", "dport = 65536", SyntaxError{8, "65536 is not a port: ports go from 0 to 65535"}},
		{"port negative", "dport = -1", SyntaxError{8, `"-1" is not a port: write a number from 0 to 65535 or the name of a service`}},
		{"port empty", "dport = :", SyntaxError{8, `"" is not a port: write a number from 0 to 65535 or the name of a service`}},
		{"port unknown", "dport = no-such-service", SyntaxError{8, `"no-such-service" is neither a port number nor a TCP service in /etc/services`}},
		{"port with underscore", "dport = 1_0", SyntaxError{8, `"1_0" is neither a port number nor a TCP service in /etc/services`}},
		{"port range", "dport = 5000-5999", SyntaxError{8, "a range of ports is written dport >= 5000 and dport <= 5999"}},
		{"any port compared", "dport > *", SyntaxError{8, "* stands for every port: it can follow = or !=, and not >"}},
		{"no address", "src and sport = 1", SyntaxError{4, `"and" is not an address, and host names are not looked up: write the address`}},
		{"address compared", "src >= 10.0.0.1", SyntaxError{4, "src takes = or !=, and not >=: addresses have no order"}},
		{"host name", "dst db.example.com", SyntaxError{4, `"db.example.com" is not an address, and host names are not looked up: write the address`}},
		{"host name and port", "dst db:5432", SyntaxError{4, `"db" is not an address, and host names are not looked up: write the address`}},
		{"short prefix", "dst 10/8", SyntaxError{4, `"10/8" is not an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32`}},
		{"prefix too long", "dst 10.0.0.0/33", SyntaxError{4, `"10.0.0.0/33" is not an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32`}},
		{"port after address", "dst 10.0.0.1:99999", SyntaxError{4, "99999 is not a port: ports go from 0 to 65535"}},
		{"bracket left open", "dst [::1", SyntaxError{4, `"[::1" has no ] after its address`}},
		{"prefix length outside", "dst [2001:db8::]/32", SyntaxError{4, `expected : and a port after the ] of "[2001:db8::]/32"; the length of a prefix stands inside the brackets`}},
		{"address or port", "dst 2001:db8::1:22", SyntaxError{4, `"2001:db8::1:22" can be read in two ways: write [2001:db8::1:22] or [2001:db8::1]:22`}},
		{"zone", "dst [fe80::1%eth0]", SyntaxError{4, `"fe80::1%eth0" names an interface: write the address without "%eth0"`}},
		{"wrong family", "dst inet6:192.0.2.1", SyntaxError{4, `192.0.2.1 is not of the family that "inet6:" names`}},
		{"other family", "dst inet:[::1]", SyntaxError{4, `::1 is not of the family that "inet:" names`}},
		{"no family of TCP", "src unix:/run/x", SyntaxError{4, "unix: sockets are not TCP sockets: write an address"}},
		{"dev", "sport = 1 and dev = eth0", SyntaxError{14, "dev is not supported yet"}},
		{"fwmark", "fwmark = 1", SyntaxError{0, "fwmark is not supported yet"}},
		{"cgroup", "cgroup = /x", SyntaxError{0, "cgroup is not supported yet"}},
		{"autobound", "autobound", SyntaxError{0, "autobound is not supported yet"}},
		{"state", "state close-wait dport = 1", SyntaxError{0, "state cannot stand in an expression: use the rule's state key"}},
		{"exclude", "exclude listening", SyntaxError{0, "exclude cannot stand in an expression: use the rule's state key"}},
		{"or before and", "sport = 1 or sport = 2 and dst ::1", SyntaxError{23, "and and or stand side by side: say by parentheses whether you mean" +
			" ( sport = 1 or sport = 2 ) and dst ::1 (as ss reads it, left to right) or sport = 1 or ( sport = 2 and dst ::1 )"}},
		{"and before or", "sport=1 && dport=2 && dst ::1 || dst ::2", SyntaxError{30, "and and or stand side by side: say by parentheses whether you mean" +
			" ( sport=1 and dport=2 and dst ::1 ) or dst ::2 (as ss reads it, left to right) or sport=1 and dport=2 and ( dst ::1 or dst ::2 )"}},
		{"or before no word", "(sport=1 or sport=2 dst ::1)", SyntaxError{20, "and and or stand side by side: say by parentheses whether you mean" +
			" ( sport=1 or sport=2 ) and dst ::1 (as ss reads it, left to right) or sport=1 or ( sport=2 and dst ::1 )"}},
		{"too deep", strings.Repeat("(", 101) + "sport=1" + strings.Repeat(")", 101), SyntaxError{101, "the filter nests deeper than 100 levels"}},
		{"too many nots", strings.Repeat("!", 60000), SyntaxError{101, "the filter nests deeper than 100 levels"}},
		{"too long", strings.Repeat(" ", 1<<16+1), SyntaxError{1 << 16, "the filter is longer than 65536 bytes: use lists of ports and addresses, or several rules"}},
		{"not UTF-8", "\xff\x00", SyntaxError{0, `expected src, dst, sport, dport, not or (, found "\xff\x00"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, err := ParseExpr(tt.text)
			var got *SyntaxError
			if !errors.As(err, &got) {
				t.Fatalf("ParseExpr(%.80q) = %v, %v; want a SyntaxError", tt.text, x, err)
			}
			if diff := cmp.Diff(tt.want, *got); diff != "" {
				t.Errorf("ParseExpr(%.80q) (-want +got):\n%s", tt.text, diff)
			}
		})
	}
}

func TestParseExprNestsAsDeepAsItSays(t *testing.T) {
	if _, err := ParseExpr(strings.Repeat("(", 100) + "sport=1" + strings.Repeat(")", 100)); err != nil {
		t.Error(err)
	}
}

func TestParseExprErrorsStayShort(t *testing.T) {
	long := "sport = " + strings.Repeat("é", 10000)
	many := strings.Repeat("src 10.0.0.1 or ", 4000) + "src 10.0.0.1 and dport = 1"
	for _, text := range []string{long, many, strings.Repeat("\x91", 100)} {
		_, err := ParseExpr(text)
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("ParseExpr(%.40q...): error of %d bytes", text, len(err.Error()))
		}
	}
}

func FuzzParseExpr(f *testing.F) {
	for _, seed := range []string{
		"sport = :22 or dport = :22", "( sport >= 5000 and sport <= 5999 ) or dst 10.0.0.0/8:443", "not src inet6:*:22 dport != https",
		"dst [2001:db8::/32]:0x50", "!(src ::1|src ::ffff:1.2.3.4/100)&&dport<010", "a or b and c", "dst 2001:db8::1:22", "src fe80::1%lo", "((((", "sport > 65535",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		x, err := ParseExpr(text)
		var bad *SyntaxError
		if err != nil {
			if !errors.As(err, &bad) || bad.Offset < 0 || bad.Offset > len(text) || bad.Msg == "" {
				t.Fatalf("%q: error %#v", text, err)
			}
			return
		}
		printed := x.String()
		y, err := ParseExpr(printed)
		if errors.As(err, &bad) && (strings.Contains(bad.Msg, "nests deeper") || strings.Contains(bad.Msg, "longer than")) {
			return
		}
		if err != nil || !reflect.DeepEqual(x, y) {
			t.Fatalf("%q printed as %q is read as %v, %v", text, printed, y, err)
		}
		code, err := Compile(x)
		if err == nil {
			err = audit(code)
		}
		if err != nil && err != ErrTooLarge {
			t.Fatalf("%q: %v", text, err)
		}
		for i, src := range sampleAddrs {
			c := Conn{Established, netip.AddrPortFrom(src, samplePorts[i]), netip.AddrPortFrom(src, samplePorts[i+1])}
			if err == nil && run(code, entryOf(&c, false)) != (x.Eval(&c) == True) {
				t.Fatalf("%q: the program and Eval differ on %v", text, c)
			}
		}
	})
}
