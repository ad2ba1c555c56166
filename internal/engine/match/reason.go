package match

// Reason is why nothing is done to a socket, or why what became of it is not known. It is
// also the name under which is counted what kept a rule from acting. Package action has
// the words.
type Reason string

// What stands against any act on a socket, whatever a rule says.
const (
	NotConnected  Reason = "not_connected"
	Protected     Reason = "protected"
	MPTCPSubflow  Reason = "mptcp_subflow"
	InAcceptQueue Reason = "in_accept_queue"
	Orphan        Reason = "orphan" // which this kernel would leak
	HeldByKernel  Reason = "held_by_kernel"
	Own           Reason = "own" // of the watchdog
)

// What else keeps a rule from acting on a socket that is due.
const (
	InUse        Reason = "in_use"
	HolderSpins  Reason = "holder_spins"
	HolderEnded  Reason = "holder_ended"  // several did after the first acts
	ProbeFailed  Reason = "probe_failed"  // after the first acts, and not before
	NoDescriptor Reason = "no_descriptor" // that the action could go by
	// HolderRefuses: the kernel lately refused the descriptors of all that hold it.
	HolderRefuses Reason = "holder_refuses"
	RuleStopped   Reason = "stopped"         // the rule has stopped itself
	CanaryWaits   Reason = "canary"          // the verdict on the first acts is still to come
	UnseenLimit   Reason = "limit_of_unseen" // nobody can tell what acts do to the program
	MaxMatches    Reason = "max_matches"     // the rule means more sockets than it may
	Share         Reason = "share"           // enough was taken of the live connections of a holder, or a port
	RuleLimit     Reason = "limit"
	LimitOfAll    Reason = "limit_of_all_rules"
	Taken         Reason = "taken"        // an earlier rule in the file takes it
	Paused        Reason = "paused"       // somebody has stopped all acting for now
	NotPossible   Reason = "not_possible" // see Capabilities
	GroupIsQuiet  Reason = "group_is_quiet"
	NotStalled    Reason = "not_stalled" // nothing waits to be sent or acknowledged
	NotIdle       Reason = "not_idle"    // something does
	Excluded      Reason = "excluded"
	// HoldersUnknown: not every process could be read, and so another may hold it.
	HoldersUnknown Reason = "holders_unknown"
	// OwnerUnknown: something that the rule asks of a process that holds it is not known.
	OwnerUnknown Reason = "owner_unknown"
	Unmet        Reason = "unmet" // a condition of the rule does not hold, or is not known to
)

// Why an act that was decided is not done after all, or is in doubt.
const (
	Unmatched  Reason = "unmatched"  // its rule does not match it any more
	Replaced   Reason = "replaced"   // another state or connection than was matched
	Progressed Reason = "progressed" // bytes were sent or received meanwhile
	NewRules   Reason = "new_rules"
	NoHolder   Reason = "no_holder"   // no process holds the sockets of its group
	GroupEnded Reason = "group_ended" // its group fires no more, or is not known to
	Stopping   Reason = "stopping"    // the watchdog was told to stop
	HoldersOld Reason = "holders_old" // who holds it was looked for too long ago
	// HolderChanged: who held it does not any more.
	HolderChanged Reason = "holder_changed"
	StillThere    Reason = "still_there" // the kernel said done, and still shows it
	AnswerLost    Reason = "answer_lost" // of the kernel, and the socket has changed since
)
