package sock_test

import (
	"testing"

	"github.com/sockdog/sockdog/internal/sock"
)

func TestIDSum(t *testing.T) {
	base := sock.ID{Family: 2, SPort: [2]byte{0, 80}, DPort: [2]byte{1, 2}, Cookie: 1}
	other := map[string]func(id *sock.ID){
		"family":           func(id *sock.ID) { id.Family = 10 },
		"source port":      func(id *sock.ID) { id.SPort[1]++ },
		"destination port": func(id *sock.ID) { id.DPort[0]++ },
		"source":           func(id *sock.ID) { id.Src[15]++ },
		"destination":      func(id *sock.ID) { id.Dst[0]++ },
		"interface":        func(id *sock.ID) { id.Iface++ },
	}
	for name, change := range other {
		id := base
		change(&id)
		if id.Sum() == base.Sum() {
			t.Errorf("another %s leaves the fingerprint as it is", name)
		}
	}
	id := base
	id.Cookie++
	if id.Sum() != base.Sum() {
		t.Error("the cookie stands beside the fingerprint, not in it")
	}
}
