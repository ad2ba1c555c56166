package seen

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// ReadBootID reads the number of this run of the host's kernel: 32 hexadecimal digits.
func ReadBootID() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	id, err := parseBootID(string(text))
	if err != nil {
		return "", fmt.Errorf("read the boot id: %s: %w", path, err)
	}
	return id, nil
}

// parseBootID reads a UUID: 32 hexadecimal digits with dashes between.
func parseBootID(text string) (string, error) {
	digits := strings.ReplaceAll(strings.TrimSpace(text), "-", "")
	if b, err := hex.DecodeString(digits); err != nil || len(b) != 16 {
		return "", fmt.Errorf("%q is not a UUID", text)
	}
	return digits, nil
}
