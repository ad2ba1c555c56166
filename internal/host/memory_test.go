package host

import "testing"

func TestTablePlaces(t *testing.T) {
	for _, test := range []struct {
		limit int64
		want  int
		fails string
	}{
		{0, 0, ""},
		{32 << 20, 21845, ""},
		{1 << 30, 699050, ""},
		{31 << 20, 0, "the memory limit of this cgroup is 31 MiB, and they need 32 MiB"},
	} {
		got, err := tablePlaces(test.limit)
		if got != test.want || (err == nil) != (test.fails == "") || err != nil && err.Error() != test.fails {
			t.Errorf("limit %d: %d places, %v", test.limit, got, err)
		}
	}
}

func TestDescriptorRoom(t *testing.T) {
	for limit, want := range map[int64]int{0: 0, 8 << 20: 1000, 32 << 20: 10240, 128 << 20: 59392} {
		if got := descriptorRoom(limit); got != want {
			t.Errorf("limit %d: %d descriptors, want %d", limit, got, want)
		}
	}
}
