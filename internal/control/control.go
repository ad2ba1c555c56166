// Package control is how a person tells a running sockdog what to do: to pause, to resume,
// to let a rule act again; and asks whether it is ready. One line of JSON goes over a unix socket, and one comes back.
// Only root and the user that the daemon runs as are heard, by what the kernel says of who
// connects (SO_PEERCRED, unix(7)). What is asked for is done by others.
package control

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// version is that of the protocol. A daemon refuses others.
const version = 1

const (
	// maxRequest and maxReply bound what is read of a line, in bytes.
	maxRequest = 4 << 10
	maxReply   = 256 << 10
	// maxClients is how many clients are attended to at once; others wait to be accepted.
	maxClients = 8
	// readWithin is how long a client may take to say what it wants, and doWithin how long
	// the daemon may take for that. After both the connection ends.
	readWithin = 2 * time.Second
	doWithin   = 3 * time.Second
	askWithin  = 10 * time.Second // of a client
)

// The commands.
const (
	CommandPause  = "pause"
	CommandResume = "resume"
	CommandReset  = "reset"
	CommandReady  = "ready"
)

// Request is what a client wants.
type Request struct {
	Version int    `json:"version"`
	Command string `json:"command"`
	Reason  string `json:"reason,omitempty"`      // of a pause
	For     Wait   `json:"for_seconds,omitempty"` // the pause ends by itself after that; 0: it does not
	Rule    string `json:"rule,omitempty"`        // to reset
}

// Wait is a duration that is a number of seconds in JSON.
type Wait float64

// Duration is a Wait as such.
func (w Wait) Duration() time.Duration { return time.Duration(float64(w) * float64(time.Second)) }

// Reply is what the daemon answers.
type Reply struct {
	Version int      `json:"version"`
	PID     int      `json:"pid"`             // of the daemon, in its PID namespace
	Error   string   `json:"error,omitempty"` // it is not done; empty: it is
	Warning string   `json:"warning,omitempty"`
	Was     bool     `json:"was"`               // a pause was in force, or a rule had stopped itself, that has ended now
	Ready   bool     `json:"ready,omitempty"`   // who asked for that knows: rules are in force, and one scan is done
	Instead string   `json:"instead,omitempty"` // which rules are in force in the place of the file's, and why; empty: those are
	Rules   []string `json:"rules,omitempty"`   // that there are, where one is asked for that there is not
}

// Off says in the place of a path that there is to be no socket.
const Off = "off"

// socketName is that of the socket in its directory, which is made at DefaultDir.
const (
	socketName = "control.sock"
	defaultDir = "/run/sockdog"
)

// Paths are where the socket may be, by what the flags say, the most wanted first: a
// daemon listens on all that it can make, and a client asks on the first that somebody listens
// on, or on that of the state directory alone. A unit with RuntimeDirectory=sockdog has one at
// the default path.
func Paths(flag, stateDir string) []string {
	if flag != "" {
		return []string{flag}
	}
	var paths []string
	runtimeDir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":") // systemd.exec(5)
	for _, dir := range []string{cmp.Or(runtimeDir, defaultDir), stateDir} {
		if dir != "" {
			paths = append(paths, filepath.Join(dir, socketName))
		}
	}
	return paths
}
