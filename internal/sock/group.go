package sock

// Group is what is known of one group of a rule's sockets: what must outlive a
// restart.
type Group struct {
	Key GroupKey // what its sockets have in common
	GroupFacts
}

// GroupFacts is what of a Group has the same size for each.
type GroupFacts struct {
	Rule    uint64  // RuleSum of the rule's fingerprint
	Holding Instant // the rule's condition has held since; 0: it does not
	Firing  Instant // the group has fired since; 0: it does not
	Ended   Instant // it fired until then, and an alert about it goes on; 0: none does
	Known   Instant // all that was so at that instant
	Fresh   uint64  // sockets first seen in the five minutes before that, where the rule asks for growth
}

// GroupKey is a group's properties, in a form that means the same in every run.
type GroupKey string
