package counters

import (
	"fmt"
	"os"
	"path/filepath"
)

// ReadOverflows reads how many connections a network namespace has turned away since it was
// made because an accept queue was full; net is the directory /proc/PID/net of a process
// in it.
func ReadOverflows(net string) (uint64, error) {
	path := filepath.Join(net, "netstat")
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, ok := column(text, "TcpExt:", "ListenOverflows")
	if !ok {
		return 0, fmt.Errorf("read %s: it tells no ListenOverflows", path)
	}
	return n, nil
}
