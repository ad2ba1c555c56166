package main

import (
	"encoding/hex"

	"github.com/sockdog/sockdog/internal/seen"
	"github.com/sockdog/sockdog/internal/sockdiag"
	"github.com/sockdog/sockdog/internal/web"
)

// origin tells the instants of this boot and network namespace from all others.
// What cannot be read is empty.
func origin() web.Origin {
	o := web.Origin{Netns: netnsName()}
	if boot, err := seen.ReadBootID(); err == nil {
		o.BootID = hex.EncodeToString(boot[:])
	}
	if cookie, err := sockdiag.NetnsCookie(); err == nil {
		o.NetnsCookie = cookie
	}
	return o
}
