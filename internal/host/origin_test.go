package host

import (
	"fmt"
	"testing"
)

func TestReadBootID(t *testing.T) {
	id, err := readBootID(ProcRoot)
	if again, againErr := readBootID(ProcRoot); err != nil || againErr != nil || again != id || id == "" {
		t.Errorf("boot id %s, then %s, errors %v, %v", id, again, err, againErr)
	}
}

func TestParseBootID(t *testing.T) {
	tests := []struct {
		text string
		want string
		err  string
	}{
		{"00010203-0405-0607-0809-0a0b0c0d0e0f\n", "000102030405060708090a0b0c0d0e0f", "<nil>"},
		{"00010203", "", `the boot id "00010203" is not a UUID`},
		{"0001020304050607080900000000000x", "", `the boot id "0001020304050607080900000000000x" is not a UUID`},
	}
	for _, test := range tests {
		if got, err := parseBootID(test.text); got != test.want || fmt.Sprint(err) != test.err {
			t.Errorf("parseBootID(%q) = %q, %v, want %q, %q", test.text, got, err, test.want, test.err)
		}
	}
}
