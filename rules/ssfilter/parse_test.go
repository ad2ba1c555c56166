package ssfilter

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

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
		{"prefix of one number", "dst 10/8", "dst 10.0.0.0/8"},
		{"prefix of two numbers and a port", "dst 10.1/16:22", "dst 10.1.0.0/16 and dport = :22"},
		{"prefix of nothing", "dst 0/0", "dst 0.0.0.0/0"},
		{"prefix with a mask", "dst 10.1.2.3/255.255.0.0", "dst 10.1.0.0/16"},
		{"prefix of one number with a mask", "dst 10/255.0.0.0", "dst 10.0.0.0/8"},
		{"prefix with the mask of all", "dst 0/0.0.0.0", "dst 0.0.0.0/0"},
		{"any, as ss spells it too", "src any or src all or src default:22", "src * or sport = :22"},
		{"any in brackets", "src [*]:22", "sport = :22"},
		{"IPv6 and service", "src [::1]:http", "src [::1] and sport = :80"},
		{"zone", "dst fe80::1%eth0", "dst [fe80::1] and dev = eth0"},
		{"zone and port", "dst fe80::1%eth0:22", "dst [fe80::1] and dport = :22 and dev = eth0"},
		{"zone in brackets", "dst [fe80::1%3]:22", "dst [fe80::1] and dport = :22 and dev = 3"},
		{"zone as ss prints it", "src [fe80::1]%eth0:22", "src [fe80::1] and sport = :22 and dev = eth0"},
		{"zone of IPv4 as ss prints it", "src 127.0.0.1%lo:22", "src 127.0.0.1 and sport = :22 and dev = lo"},
		{"zone of a prefix", "src fe80::/10%lo", "src [fe80::/10] and dev = lo"},
		{"zone of any", "src *%lo:22", "sport = :22 and dev = lo"},
		{"zone alone", "src *%lo", "dev = lo"},
		{"zone not", "src != 10.0.0.1%lo", "not ( src 10.0.0.1 and dev = lo )"},
		{"addresses unite", "dst 10.0.0.0/8 or dst 10.1.0.0/16 or dst 192.0.2.1", "dst 10.0.0.0/8 or dst 192.0.2.1"},
		{"families unite", "dst inet6:* or dst inet:*", "dst *"},

		{"device", "dev = eth0", "dev = eth0"},
		{"device without operator", "dev wg-1.2", "dev = wg-1.2"},
		{"device not", "dev!=lo", "dev != lo"},
		{"not device", "not dev eq lo", "dev != lo"},
		{"device by index", "dev = 0x1f", "dev = 31"},
		{"no device", "dev == 0", "dev = 0"},
		{"device with a digit first", "dev 6in4-wan", "dev = 6in4-wan"},
		{"device with a dash first", "dev = -1", "dev = -1"},
		{"mark", "fwmark = 16", "fwmark = 0x10"},
		{"mark without operator", "fwmark 0xffffffff", "fwmark = 0xffffffff"},
		{"mark in octal", "fwmark = 010", "fwmark = 0x8"},
		{"mark not", "fwmark ne 1", "fwmark != 0x1"},
		{"mark and mask", "fwmark = 0x10/0xf0", "fwmark = 0x10/0xf0"},
		{"mark and no mask", "fwmark = 1/0xffffffff", "fwmark = 0x1"},
		{"cgroup", "cgroup = /system.slice/ssh.service", "cgroup = /system.slice/ssh.service"},
		{"cgroup without operator", `cgroup a\x2db/c:d@1/`, `cgroup = /a\x2db/c:d@1`},
		{"cgroup called like a mount point", "cgroup /sys/fs/cgroup/sys/fs/cgroup/a", "cgroup = /sys/fs/cgroup/sys/fs/cgroup/a"},
		{"cgroup not", "cgroup != /", "cgroup != /"},
		{"cgroup below its mount", "cgroup /sys/fs/cgroup/a", "cgroup = /a"},
		{"cgroup below its other mount", "cgroup /sys/fs/cgroup/unified/a", "cgroup = /a"},
		{"cgroup that is the mount", "cgroup /sys/fs/cgroup/", "cgroup = /"},
		{"cgroup with a longer name", "cgroup /sys/fs/cgroups/a", "cgroup = /sys/fs/cgroups/a"},
		{"cgroup of that name", "cgroup /unified/a", "cgroup = /unified/a"},
		{"cgroup with dots", "cgroup ../a/./b//c/..", "cgroup = /a/b"},
		{"autobound", "autobound", "autobound"},
		{"not autobound", "!autobound", "not autobound"},
		{"everything", "(dev lo or fwmark!=1)and not(cgroup=/a||autobound)sport=1", "( dev = lo or fwmark != 0x1 ) and not ( cgroup = /a or autobound ) and sport = :1"},

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

// Each file holds malformed filters. Under each stand a caret below the place of
// its error, and what the error says.
func TestMalformed(t *testing.T) {
	for _, tt := range []struct {
		path  string
		parse func(text string) (any, error)
	}{
		{"testdata/malformed-expressions.golden", func(text string) (any, error) { return ParseExpr(text) }},
		{"testdata/malformed-filters.golden", func(text string) (any, error) { return ParseFilter(text, lookup) }},
	} {
		t.Run(filepath.Base(tt.path), func(t *testing.T) {
			file, err := os.ReadFile(tt.path)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for block := range strings.SplitSeq(string(file), "\n\n") {
				text, _, _ := strings.Cut(block, "\n")
				x, err := tt.parse(text)
				var bad *SyntaxError
				if !errors.As(err, &bad) {
					t.Fatalf("%q is read as %v, %v; want a SyntaxError", text, x, err)
				}
				fmt.Fprintf(&got, "%s\n%s^\n%s\n\n", text, strings.Repeat(" ", bad.Offset), bad.Msg)
			}
			report := strings.TrimSuffix(got.String(), "\n")
			if *update {
				if err := os.WriteFile(tt.path, []byte(report), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(file), report); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.path, diff)
			}
		})
	}
}

// lookup knows two hosts.
func lookup(host string) ([]netip.Addr, error) {
	switch host {
	case "db.example.com":
		return []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("::ffff:192.0.2.8")}, nil
	case "four":
		return []netip.Addr{netip.MustParseAddr("192.0.2.4")}, nil
	case "none":
		return nil, nil
	}
	return nil, errors.New("no such host")
}

// These do not fit a line.
func TestMalformedAtLength(t *testing.T) {
	tests := []struct {
		name string
		text string
		want SyntaxError
	}{
		{"nothing", "", SyntaxError{0, "expected src, dst, sport, dport, dev, fwmark, cgroup, autobound, not or (, found the end"}},
		{"blanks", "  ", SyntaxError{2, "expected src, dst, sport, dport, dev, fwmark, cgroup, autobound, not or (, found the end"}},
		{"lines", "sport = 1\nand\n", SyntaxError{14, "expected src, dst, sport, dport, dev, fwmark, cgroup, autobound, not or (, found the end"}},
		{"not UTF-8", "\xff\x00", SyntaxError{0, `expected src, dst, sport, dport, dev, fwmark, cgroup, autobound, not or (, found "\xff\x00"`}},
		{"too deep", strings.Repeat("(", 101) + "sport=1" + strings.Repeat(")", 101), SyntaxError{101, "the filter nests deeper than 100 levels"}},
		{"too many nots", strings.Repeat("!", 60000), SyntaxError{101, "the filter nests deeper than 100 levels"}},
		{"too long", strings.Repeat(" ", 1<<16+1), SyntaxError{1 << 16, "the filter is longer than 65536 bytes: use lists of ports and addresses, or several rules"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseExpr(tt.text)
			if diff := cmp.Diff(error(&tt.want), err); diff != "" {
				t.Errorf("ParseExpr(%.80q) (-want +got):\n%s", tt.text, diff)
			}
			if strings.TrimSpace(tt.text) == "" && len(tt.text) <= maxLength {
				return // every socket
			}
			if _, err := ParseFilter(tt.text, lookup); cmp.Diff(error(&tt.want), err) != "" {
				t.Errorf("ParseFilter(%.80q): %v", tt.text, err)
			}
		})
	}
}

func TestParseFilter(t *testing.T) {
	tests := []struct {
		name string
		text string
		want string
	}{
		{"nothing", "", ""},
		{"blanks", " \n", ""},
		{"an expression", "dport=22", "dport = :22"},
		{"a state", "state close-wait", "state close-wait"},
		{"in the kernel's spelling", "state TCP_CLOSE_WAIT", "state close-wait"},
		{"in netstat's spelling", "state ESTABLISHED state SYN_RECV", "state established state syn-recv"},
		{"more states", "state close-wait state time-wait", "state time-wait state close-wait"},
		{"a group", "state bucket", "state syn-recv state time-wait"},
		{"all", "state all", "state all"},
		{"all, and one that is not among them", "state all state bound-inactive", "state all state bound-inactive"},
		{"excluded from all", "exclude big", "state syn-recv state time-wait"},
		{"excluded in short", "excl connected", "state closed state listening"},
		{"excluded from what was named", "state connected exclude big", "state syn-recv state time-wait"},
		{"excluded and named again", "exclude listening state listening", "state all"},
		{"nothing but what is named last", "exclude all state close-wait", "state close-wait"},
		{"states and an expression", "state close-wait exclude time-wait ( dport = 22 or dst 1.1.1.1 )", "state close-wait dport = :22 or dst 1.1.1.1"},
		{"states and an expression without blanks", "state close-wait(dport=22)", "state close-wait dport = :22"},
		{"states and not", "state close-wait ! dport = 22", "state close-wait dport != :22"},
		{"a host", "dst db.example.com", "dst 192.0.2.7 or dst 192.0.2.8 or dst [2001:db8::7]"},
		{"a host and a port", "dst four:22", "dst 192.0.2.4 and dport = :22"},
		{"not a host", "state time-wait src != four", "state time-wait not src 192.0.2.4"},
		{"a host's addresses of a family", "src inet6:db.example.com", "src [2001:db8::7]"},
		{"a host and a device", "dst four%lo", "dst 192.0.2.4 and dev = lo"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseFilter(tt.text, lookup)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.String()); diff != "" {
				t.Errorf("ParseFilter(%q) (-want +got):\n%s", tt.text, diff)
			}
			again, err := ParseFilter(got.String(), nil)
			if err != nil || !reflect.DeepEqual(got, again) {
				t.Errorf("%q is read as %v, %v", got, again, err)
			}
		})
	}
}

func TestParseFilterWithoutLookup(t *testing.T) {
	_, err := ParseFilter("state close-wait dst four", nil)
	want := &SyntaxError{21, `"four" is not an address, and host names are not looked up: write the address`}
	if diff := cmp.Diff(error(want), err); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseExprNestsAsDeepAsItSays(t *testing.T) {
	text := strings.Repeat("(", 100) + "sport=1" + strings.Repeat(")", 100)
	if _, err := ParseExpr(text); err != nil {
		t.Error(err)
	}
	if _, err := ParseFilter("state all "+text, nil); err != nil {
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

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"sport = :22 or dport = :22", "( sport >= 5000 and sport <= 5999 ) or dst 10.0.0.0/8:443", "not src inet6:*:22 dport != https",
		"dst [2001:db8::/32]:0x50", "!(src ::1|src ::ffff:1.2.3.4/100)&&dport<010", "a or b and c", "dst 2001:db8::1:22", "src fe80::1%lo", "((((", "sport > 65535",
		"dev != lo or dev = 3", "fwmark = 0x10/0xf0", "fwmark 010", "cgroup = /sys/fs/cgroup/unified/a/../b", "cgroup /sys/fs/cgroup/sys/fs/cgroup/a", "dev 6in4-wan", "not autobound", "dst 10.1/255.255.0.0:22", "src [fe80::1]%eth0:22",
		"state close-wait exclude time-wait dst four", "excl all state big", "dst db.example.com or src inet6:db.example.com:22", "stat close-wait",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if x, ok := parseTwice(t, text, func(text string) (any, error) { return ParseExpr(text) }); ok {
			compileAndRun(t, x.(Expr))
		}
		x, ok := parseTwice(t, text, func(text string) (any, error) { return ParseFilter(text, lookup) })
		if ok && x.(Filter).Where != nil {
			compileAndRun(t, x.(Filter).Where)
		}
	})
}

// parseTwice parses text, and then what it is printed as, which must be the same.
// Its result is not ok where text is malformed.
func parseTwice(t *testing.T, text string, parse func(string) (any, error)) (x any, ok bool) {
	x, err := parse(text)
	var bad *SyntaxError
	if err != nil {
		if !errors.As(err, &bad) || bad.Offset < 0 || bad.Offset > len(text) || bad.Msg == "" || len(bad.Msg) > 1000 {
			t.Fatalf("%q: error %#v", text, err)
		}
		return nil, false
	}
	printed := fmt.Sprint(x)
	y, err := parse(printed)
	if errors.As(err, &bad) && (strings.Contains(bad.Msg, "nests deeper") || strings.Contains(bad.Msg, "longer than")) {
		return x, true
	}
	if err != nil || !reflect.DeepEqual(x, y) {
		t.Fatalf("%q printed as %q is read as %v, %v", text, printed, y, err)
	}
	return x, true
}

// compileAndRun holds the program of x to the rules of the kernel, and to Eval.
func compileAndRun(t *testing.T, x Expr) {
	code, err := Compile(x, sampleNames{})
	if err == nil {
		err = audit(code)
	}
	if err == ErrTooLarge {
		return
	}
	if err != nil {
		t.Fatalf("%v: %v", x, err)
	}
	for i, src := range sampleAddrs {
		c := Conn{
			State: Established, Src: netip.AddrPortFrom(src, samplePorts[i]), Dst: netip.AddrPortFrom(src, samplePorts[i+1]),
			Mark: sampleMarks[i%len(sampleMarks)], HasMark: true, Cgroup: sampleCgroups[1+i%3], Autobound: TriOf(i%2 == 0),
		}
		if i%3 > 0 {
			c.Device = sampleDevices[i%3]
			c.Iface, _ = sampleNames{}.DeviceIndex(c.Device)
		}
		if run(code, entryOf(&c, false)) != (x.Eval(&c) == True) {
			t.Fatalf("%v: the program and Eval differ on %+v", x, c)
		}
	}
}

// String prints the filter so that ParseFilter reads the same one from it.
func (f Filter) String() string {
	var words []string
	states := f.States
	if states&AllStates == AllStates {
		words = append(words, "state all")
		states &^= AllStates
	}
	for _, s := range states.States() {
		words = append(words, fmt.Sprintf("state %s", s))
	}
	if f.Where != nil {
		words = append(words, f.Where.String())
	}
	return strings.Join(words, " ")
}
