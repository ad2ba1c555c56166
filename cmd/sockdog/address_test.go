package main

import (
	"testing"

	"github.com/spf13/cobra"
)

func TestCheckListen(t *testing.T) {
	tests := map[string]bool{
		"127.0.0.1:9797": true, ":9797": true, "[::]:0": true, "localhost:http": true, "off": true, "": true,
		"127.0.0.1:65535": true,
		"9797":            false, "127.0.0.1:99999": false, "127.0.0.1:-1": false, ":nothing": false, "127.0.0.1": false, "127.0.0.1:": false, "on": false,
	}
	for address, good := range tests {
		var text string
		cmd := &cobra.Command{}
		addressFlag(cmd, &text, "listen", "", "off")
		if err := cmd.Flags().Set("listen", address); (err == nil) != good {
			t.Errorf("--listen %q: %v", address, err)
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
