package main

import (
	"fmt"
	"net"
	"strings"

	"github.com/sockdog/sockdog/internal/client"
)

func checkListen(address string) error {
	if client.Off(address) {
		return nil
	}
	return checkHostPort("--listen", "HOST:PORT or off", address)
}

// checkHostPort checks the address that a flag has, which is of that form. Whether
// there is such a host, only who asks it can tell.
func checkHostPort(flag, form, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return fmt.Errorf("%s is %s, not %q", flag, form, address)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%s is %s, and there is no port %s", flag, form, port)
	}
	return nil
}

func checkListenNames(names []string) error {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-" // in a Host header, before the port
	for _, name := range names {
		if name == "" || strings.Trim(name, allowed) != "" {
			return fmt.Errorf("--listen-name is the name of a host without a port, not %q", name)
		}
	}
	return nil
}
