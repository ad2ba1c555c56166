package service

import (
	"net"
	"testing"
)

// A link in an alert leads somewhere from where it is read, or is left out.
func TestPage(t *testing.T) {
	tests := []struct{ at, want string }{
		{"127.0.0.1:9797", ""},
		{"[::1]:9797", ""},
		{"0.0.0.0:9797", "http://shop:9797/"},
		{"[::]:9797", "http://shop:9797/"},
		{"10.0.0.7:80", "http://10.0.0.7:80/"},
		{"[2001:db8::7]:80", "http://[2001:db8::7]:80/"},
	}
	for _, test := range tests {
		at, err := net.ResolveTCPAddr("tcp", test.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := page(at, "shop"); got != test.want {
			t.Errorf("page of %s is %q, want %q", test.at, got, test.want)
		}
	}
}
