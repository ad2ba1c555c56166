package rules

import (
	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// Kind is one kind of action: its name in then, and what the format holds a rule
// to that has it.
type Kind struct {
	Name string
	On   Target
	Via  Via // by which way it reaches a socket, if the action does not say; empty: it needs none of them
	// Destructive kinds take something away from a program. Those on sockets have the options
	// limit and order, and their rules must name states and say for how long.
	Destructive bool
	States      ssfilter.StateSet // in which it changes anything; 0: in all
	// Explicit kinds may be named only where the operator has listed them: what they do goes
	// beyond sockets (sockdog run --allow).
	Explicit bool
	Reverts  bool       // what it does is put back once the group fires no more
	Options  []Option   // that no other kind has
	Needs    Capability // what the kernel and the privileges must allow; empty: something that no other kind needs
}

// Target is what a kind of action acts on.
type Target uint8

// The targets.
const (
	OnNothing Target = iota // it is said, or sent
	OnSocket                // each socket that is due, once for a connection
	OnGroup                 // a group that fires, once for a firing
	OnProcess               // the process that a group is of, once for a firing
)

// OncePerFiring reports whether the action is about a group as a whole: it is done once
// each time that one fires, and not to single sockets.
func (k *Kind) OncePerFiring() bool { return k.On == OnGroup || k.On == OnProcess }

// takesSockets reports whether the action takes single sockets away from a program.
func (k *Kind) takesSockets() bool { return k.Destructive && k.On == OnSocket }

// Capability is something that the kernel and the privileges must allow. What several
// kinds of actions need is possible, or not, for all of them.
type Capability string

// The capabilities that ways to a socket take.
const (
	Destroy    Capability = "destroy"    // to destroy sockets, by SOCK_DESTROY
	Descriptor Capability = "descriptor" // to duplicate the descriptors of other processes, by pidfd_getfd(2)
)

// Via is a way by which an action reaches a socket.
type Via string

// The ways.
const (
	ViaKernel Via = "kernel" // sock_diag(7)
	ViaHolder Via = "holder" // the descriptor of a process that holds the socket
	ViaAny    Via = "any"    // the first of these that the kernel has
)

// Needs is what must be possible for the way; ViaAny needs nothing certain.
func (v Via) Needs() Capability {
	switch v {
	case ViaKernel:
		return Destroy
	case ViaHolder:
		return Descriptor
	default:
		return ""
	}
}

// Via is the way that the action may take.
func (a *Action) Via() Via {
	if via, said := a.Options[viaOption.Name].(Via); said {
		return via
	}
	return a.Kind.Via
}

// viaOption chooses the way of an action that has several.
var viaOption = Option{Name: "via", Doc: "a way to the socket", Read: func(text string) (any, error) {
	if via := Via(text); via == ViaKernel || via == ViaHolder || via == ViaAny {
		return via, nil
	}
	return nil, message.Errorf("%q is not a way to a socket: write kernel, holder or any", text)
}}

// Option is an option of one kind of action, whose value is a scalar.
type Option struct {
	Name, Doc string
	Read      func(text string) (any, error) // the value, or what is wrong with the text
}

// The kinds of actions that every rules file may name.
var (
	Kill = &Kind{Name: "kill", On: OnSocket, Via: ViaAny, Destructive: true, Options: []Option{viaOption}}
	// Shutdown sends the FIN, which is sent once.
	Shutdown = &Kind{
		Name: "shutdown", On: OnSocket, Via: ViaHolder, Destructive: true,
		States: ssfilter.Of(ssfilter.SynSent, ssfilter.Established, ssfilter.CloseWait),
	}
	Alert = &Kind{Name: "alert"} // its keys are those of alertTable
	Log   = &Kind{Name: "log"}
)

var builtInKinds = []*Kind{Kill, Shutdown, Keepalive, Alert, Exec, Signal, Sysctl, Log}

// String is the name of the kind.
func (k *Kind) String() string { return k.Name }

// MarshalText has the kind stand for its name in JSON.
func (k *Kind) MarshalText() ([]byte, error) { return []byte(k.Name), nil }

// destructiveKeys are the options of every destructive kind on sockets.
var destructiveKeys = []document.Key[act]{
	document.Field("limit", rate, func(a *act) *Limit { return &a.Limit }),
	document.Field("order", document.OneOf("order", Oldest, Newest), func(a *act) *Order { return &a.Order }),
}

// options is the table of what the kind may be given.
func (k *Kind) options() document.Table[act] {
	switch k {
	case Alert:
		return alertTable
	case Exec:
		return execTable
	case Signal:
		return signalTable
	case Sysctl:
		return sysctlTable
	}
	t := document.Table[act]{What: k.Name}
	if k.Destructive && k.On == OnSocket {
		t.Keys = append(t.Keys, destructiveKeys...)
	}
	if k.On == OnSocket {
		t.Keys = append(t.Keys, after)
	}
	if k.takesSockets() {
		t.Keys = append(t.Keys,
			document.Field("most", percent, func(a *act) *float64 { return &a.Most }),
			document.Field("max_matches", matches, func(a *act) *int { return &a.MaxMatches }),
			document.Field("canary", canary, func(a *act) **Canary { return &a.Canary }),
		)
	}
	for _, o := range k.Options {
		read := document.Scalar(o.Doc, o.Read)
		t.Keys = append(t.Keys, document.Func(o.Name, func(r *document.Reader, _, n *yaml.Node, a *act) {
			if a.Options == nil {
				a.Options = make(map[string]any)
			}
			a.Options[o.Name] = read(r, n)
		}))
	}
	return t
}
