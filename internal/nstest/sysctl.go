package nstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Sysctl sets a sysctl of the calling thread's network namespace, such as
// net.ipv4.tcp_fin_timeout.
func Sysctl(name, value string) error {
	file := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}
