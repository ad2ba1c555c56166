package host

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sockdog/sockdog/internal/netns"
	"github.com/sockdog/sockdog/internal/sock"
)

// Origin tells the instants and cookies of this boot and network namespace from all
// others. What cannot be read is empty: kernels before 5.14 have no SO_NETNS_COOKIE.
func (h *Host) Origin() (sock.Origin, error) {
	boot, bootErr := readBootID(ProcRoot)
	cookie, cookieErr := netns.Cookie()
	return sock.Origin{BootID: boot, Netns: h.Netns, NetnsCookie: cookie}, errors.Join(bootErr, cookieErr)
}

// BootSeenBy returns the boot id that a process of this host reads. A container may have one of
// its own before the kernel's, as systemd-nspawn(1) does, and a process in it another /proc.
func BootSeenBy(pid int) (string, error) {
	return readBootID(fmt.Sprintf("%s/%d/root/proc", ProcRoot, pid))
}

func readBootID(proc string) (string, error) {
	text, err := os.ReadFile(proc + "/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return parseBootID(string(text))
}

// parseBootID reads a UUID: 32 hexadecimal digits with dashes between.
func parseBootID(text string) (string, error) {
	digits := strings.ReplaceAll(strings.TrimSpace(text), "-", "")
	if b, err := hex.DecodeString(digits); err != nil || len(b) != 16 {
		return "", fmt.Errorf("the boot id %q is not a UUID", text)
	}
	return digits, nil
}
