package main

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

func TestCheckListen(t *testing.T) {
	tests := map[string]bool{
		"127.0.0.1:9797": true, ":9797": true, "[::]:0": true, "localhost:http": true, "off": true, "": true,
		"127.0.0.1:65535": true,
		"9797":            false, "127.0.0.1:99999": false, "127.0.0.1:-1": false, ":nothing": false, "127.0.0.1": false, "127.0.0.1:": false, "on": false,
	}
	for address, good := range tests {
		if err := checkListen(address); (err == nil) != good {
			t.Errorf("checkListen(%q) = %v", address, err)
		}
	}
}

func TestCheckListenNames(t *testing.T) {
	for name, good := range map[string]bool{
		"shop": true, "shop.example.com": true, "shop.example.com.": true, "10.0.0.7": true,
		"": false, "shop:9797": false, "http://shop": false, "*.example.com": false, "[::1]": false,
	} {
		if err := checkListenNames([]string{"node-7", name}); (err == nil) != good {
			t.Errorf("checkListenNames(%q) = %v", name, err)
		}
	}
}
