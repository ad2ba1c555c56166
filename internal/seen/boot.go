package seen

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// BootID names one run of the host's kernel.
type BootID [16]byte

// ReadBootID reads the BootID of the running kernel.
func ReadBootID() (BootID, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return BootID{}, fmt.Errorf("read the boot id: %w", err)
	}
	id, err := parseBootID(string(text))
	if err != nil {
		return BootID{}, fmt.Errorf("read the boot id: %s: %w", path, err)
	}
	return id, nil
}

// parseBootID reads a UUID: 32 hexadecimal digits with dashes between.
func parseBootID(text string) (BootID, error) {
	var id BootID
	digits := strings.ReplaceAll(strings.TrimSpace(text), "-", "")
	if len(digits) != 2*len(id) {
		return BootID{}, fmt.Errorf("%q is not a UUID", text)
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return BootID{}, fmt.Errorf("%q is not a UUID", text)
	}
	return id, nil
}
