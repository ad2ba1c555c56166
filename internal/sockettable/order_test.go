package sockettable

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sockdog/sockdog/rules/ssfilter"
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
		o, err := ParseOrder(test.text, test.reverse)
		if err != nil || o.By.Name != test.column || o.down != test.down {
			t.Errorf("ParseOrder(%q, %t) = %s, down %t, %v; want %s, %t", test.text, test.reverse, o.By.Name, o.down, err, test.column, test.down)
		}
	}
	for _, bad := range []string{"", "-", "agee", "cgroup", "age,local", "--age"} {
		if _, err := ParseOrder(bad, false); err == nil {
			t.Errorf("ParseOrder(%q) is no error", bad)
		}
	}
}

// TestSort compares the order by every column, both ways, with that of comparing
// rows.
func TestSort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(rapid.Custom(drawRow), 0, 50).Draw(t, "rows")
		for _, by := range columnsOf(Sortable()...) {
			for _, down := range []bool{false, true} {
				table := Table{rows: slices.Clone(rows)}
				want := slices.Clone(rows)
				slices.SortStableFunc(want, func(a, b *row) int { return naive(&table, by, down, a, b) })
				if table.sort(Order{by, down}); !slices.Equal(want, table.rows) {
					t.Fatalf("by %s, down %t: %v, want %v", by.Name, down, table.rows, want)
				}
			}
		}
	})
}

func naive(t *Table, by *Column, down bool, a, b *row) int {
	k, l := t.itemOf(by, a), t.itemOf(by, b)
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
		if !r.Known {
			return -1
		}
		return r.InState
	}
	return cmp.Or(order, cmp.Compare(age(b), age(a)))
}

func drawRow(t *rapid.T) *row {
	r := new(row)
	r.RQueue = rapid.SampledFrom([]uint32{0, 1, 300, 1 << 31}).Draw(t, "rqueue")
	r.WQueue = rapid.Uint32().Draw(t, "wqueue")
	r.Inode = rapid.Uint32Range(0, 3).Draw(t, "inode")
	r.UID = rapid.SampledFrom([]uint32{0, 33, 1000}).Draw(t, "uid")
	r.ID.Cookie = rapid.Uint64().Draw(t, "cookie")
	r.State = rapid.SampledFrom([]ssfilter.State{ssfilter.Established, ssfilter.CloseWait}).Draw(t, "state") // of which the latter has a verdict
	r.Known = rapid.Bool().Draw(t, "known")
	r.Src = netip.AddrPortFrom(netip.IPv4Unspecified(), rapid.Uint16Range(0, 3).Draw(t, "port"))
	r.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte{
		0: rapid.ByteRange(0, 1).Draw(t, "first byte"), 15: rapid.ByteRange(0, 3).Draw(t, "last byte"),
	}), 0)
	if r.Known {
		r.InState = time.Duration(rapid.Int64Range(0, 5).Draw(t, "age")) * time.Hour
	}
	return r
}
