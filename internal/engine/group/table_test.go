package group

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTable holds the table to a map, with keys of any width, and whatever it was
// expected to hold.
func TestTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, test := range []struct{ width, kinds, expect int }{{0, 1, 0}, {1, 256, 0}, {2, 5000, 0}, {3, 5000, 5000}, {41, 5000, 100_000}} {
		t.Run(fmt.Sprintf("%d bytes, %d expected", test.width, test.expect), func(t *testing.T) {
			table, want := newTable[int](test.width, MaxGroups, test.expect), make(map[string]int)
			numbers := make(map[string]uint32)
			key := make([]byte, test.width)
			for range 30_000 {
				for i, b := range binary.LittleEndian.AppendUint32(nil, uint32(rng.IntN(test.kinds))) {
					if i < len(key) {
						key[len(key)-1-i] = b
					}
				}
				number, v := table.at(key)
				*v++
				want[string(key)]++
				if n, known := numbers[string(key)]; known && n != number {
					t.Fatalf("%x is number %d, and was %d", key, number, n)
				}
				numbers[string(key)] = number
			}
			got := make(map[string]int)
			table.all(func(number uint32, key []byte, v *int) {
				if numbers[string(key)] != number {
					t.Errorf("%x is number %d, want %d", key, number, numbers[string(key)])
				}
				got[string(key)] = *v
			})
			if diff := cmp.Diff(want, got); diff != "" || table.n != len(want) {
				t.Errorf("%d entries of %d (-want +got):\n%s", table.n, len(want), diff)
			}
			for k, v := range want {
				if p := table.get([]byte(k)); p == nil || *p != v {
					t.Fatalf("%x is not found again", k)
				}
			}
			if test.width > 1 && table.get(make([]byte, test.width-1)) != nil {
				t.Error("a key that was never put in is found")
			}
		})
	}
}

// TestTableIsBounded: what is one too many is refused, and what is there stays.
func TestTableIsBounded(t *testing.T) {
	table := newTable[int](4, 3, 100)
	for round := range 2 {
		for i := range uint32(5) {
			number, v := table.at(binary.LittleEndian.AppendUint32(nil, i))
			if want := i < 3; want != (v != nil) || want && number != i+1 || !want && number != 0 {
				t.Errorf("round %d: entry %d has number %d", round, i, number)
			}
		}
	}
}
