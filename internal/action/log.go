package action

import "github.com/sockdog/sockdog/rules"

// log is done by the record that every action has.
var log = &Kind{Kind: rules.Log}
