package main

import (
	"cmp"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseOrder(t *testing.T) {
	tests := []struct {
		text    string
		reverse bool
		column  string
		down    bool
	}{
		{"age", false, "age", true},
		{"-age", false, "age", false},
		{"age", true, "age", false},
		{"-age", true, "age", true},
		{"local", false, "local", false},
		{"-local", false, "local", true},
	}
	for _, test := range tests {
		o, err := parseOrder(test.text, test.reverse)
		if err != nil || o.by.name != test.column || o.down != test.down {
			t.Errorf("parseOrder(%q, %t) = %s, down %t, %v; want %s, %t", test.text, test.reverse, o.by.name, o.down, err, test.column, test.down)
		}
	}
	for _, bad := range []string{"", "-", "agee", "cgroup", "age,local", "--age"} {
		if _, err := parseOrder(bad, false); err == nil {
			t.Errorf("parseOrder(%q) is no error", bad)
		}
	}
}

// TestSort compares the order by every column, both ways, with that of comparing
// rows.
func TestSort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c crowd
		c.clear()
		for _, r := range rapid.SliceOfN(rapid.Custom(drawRow), 0, 50).Draw(t, "rows") {
			c.append(r)
		}
		for _, by := range columns {
			if !sortable(by) {
				continue
			}
			for _, down := range []bool{false, true} {
				want := make([]int, c.size)
				for i := range want {
					want[i] = i
				}
				slices.SortStableFunc(want, func(i, j int) int { return naive(&c, by, down, c.row(i), c.row(j)) })
				if diff := gocmp.Diff(want, sorted(order{by, down}, &c)); diff != "" {
					t.Fatalf("by %s, down %t (-want +got):\n%s", by.name, down, diff)
				}
			}
		}
	})
}

func sorted(o order, c *crowd) []int {
	s := sorter{order: o}
	for _, page := range c.pages {
		s.add(s.keys(c, page))
	}
	return s.sort()
}

func naive(c *crowd, by *column, down bool, a, b *row) int {
	k, l := by.key(c, a), by.key(c, b)
	if k.unknown != l.unknown {
		if k.unknown {
			return 1
		}
		return -1
	}
	order := cmp.Or(cmp.Compare(k.hi, l.hi), cmp.Compare(k.lo, l.lo), cmp.Compare(k.port, l.port))
	if down {
		order = -order
	}
	age := func(r *row) time.Duration {
		if !r.known {
			return -1
		}
		return r.inState
	}
	return cmp.Or(order, cmp.Compare(age(b), age(a)))
}

func drawRow(t *rapid.T) row {
	r := row{
		rqueue: rapid.SampledFrom([]uint32{0, 1, 300, 1 << 31}).Draw(t, "rqueue"),
		wqueue: rapid.Uint32().Draw(t, "wqueue"),
		inode:  rapid.Uint32Range(0, 3).Draw(t, "inode"),
		uid:    rapid.SampledFrom([]uint32{0, 33, 1000}).Draw(t, "uid"),
		cookie: rapid.Uint64().Draw(t, "cookie"),
		state:  1, verdict: verdict(rapid.IntRange(0, len(verdicts)-1).Draw(t, "verdict")),
		known: rapid.Bool().Draw(t, "known"),
	}
	r.src = place{port: rapid.Uint16Range(0, 3).Draw(t, "port"), ipv4: true}
	r.dst.addr[15] = rapid.ByteRange(0, 3).Draw(t, "last byte")
	r.dst.addr[0] = rapid.ByteRange(0, 1).Draw(t, "first byte")
	if r.known {
		r.inState = time.Duration(rapid.Int64Range(0, 5).Draw(t, "age")) * time.Hour
	}
	return r
}
