package action

import "github.com/sockdog/sockdog/rules"

// alert is done by those who tell the receivers, for as long as it fires.
var alert = &Kind{Kind: rules.Alert}
