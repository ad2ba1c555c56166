// Package archtest holds the packages to ARCHITECTURE.md: each has one duty, and
// imports what that duty needs. It looks at imports, and at nothing behind them.
package archtest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	root   = "../.."
	module = "github.com/sockdog/sockdog/"
)

// The libraries, and why each is here.
const (
	cobra      = "github.com/spf13/cobra"                   // commands, completion, help
	ebpf       = "github.com/cilium/ebpf"                   // fits eBPF programs to the running kernel, and loads them
	ebpfasm    = "github.com/cilium/ebpf/asm"               // their instructions
	fsnotify   = "github.com/fsnotify/fsnotify"             // inotify
	jsonschema = "github.com/santhosh-tekuri/jsonschema/v6" // a second opinion on our schemas, in tests
	links      = "github.com/vishvananda/netlink"           // devices and their addresses
	netlink    = "github.com/vishvananda/netlink/nl"        // netlink sockets in a namespace
	psx        = "kernel.org/pub/linux/libs/security/libcap/psx"
	sdnotify   = "github.com/coreos/go-systemd/v22/daemon" // READY, RELOADING, WATCHDOG
	unix       = "golang.org/x/sys/unix"                   // system calls
	xterm      = "golang.org/x/term"                       // whether a file is a terminal, and its size
	xwidth     = "golang.org/x/text/width"                 // runes that take two cells
	yaml       = "gopkg.in/yaml.v3"                        // positions in the rules file
)

// impure is what a package that decides must not reach: it takes values and
// returns values, so that a simulation can run it a million times.
var impure = []string{"context", "log", "net", "net/http", "os", "os/exec", "os/signal", "runtime", "sync", "syscall"}

// pkg is a row of the table.
type pkg struct {
	name string
	may  []string // packages of this module, and libraries: no others
	not  []string // of the standard library: everything else
	why  string   // the bounds are there
}

var table = []pkg{
	{
		name: "rules/ssfilter",
		may:  []string{"rules/internal/message"},
		not:  []string{"os", "os/exec", "syscall", "log", "log/slog"},
		why:  "the filter language is public and makes no system call: others compile and evaluate filters with nothing else of ours",
	},
	{
		name: "rules/internal/message",
		not:  impure,
		why:  "it puts words together, for whoever reads a text of a user's",
	},
	{
		name: "rules/internal/templates",
		may:  []string{"rules/internal/message"},
		not:  []string{"os", "os/exec", "net", "syscall", "log", "log/slog"},
		why:  "it tries templates on whatever data it is given, and knows no rules file",
	},
	{
		name: "rules/internal/schematest",
		may:  []string{jsonschema, yaml},
		why:  "it holds any YAML to any schema, and knows neither rules nor tests of them",
	},
	{
		name: "rules/internal/document",
		may:  []string{"internal/term", "rules/internal/message", yaml},
		not:  []string{"os", "os/exec", "net", "syscall", "log", "log/slog"},
		why:  "it reads any YAML document by tables, every value at its place, and knows none of the keys",
	},
	{
		name: "rules",
		may:  []string{"rules/internal/document", "rules/internal/message", "rules/internal/templates", "rules/ssfilter", yaml},
		not:  []string{"os", "os/exec", "net", "syscall", "log", "log/slog", "sync"},
		why:  "the rules file is public and read from an io.Reader: checking one needs no Linux, no daemon and no file",
	},
	{
		name: "internal/sock",
		may:  []string{"rules/ssfilter", unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "the vocabulary that everything shares may depend on nothing that changes",
	},
	{
		name: "internal/netns",
		may:  []string{unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "it opens the door of a namespace: what is done inside is for those who enter",
	},
	{
		name: "internal/cgroup",
		may:  []string{unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "it names what is mounted, and a mount that is missing is no trouble of its own",
	},
	{
		name: "internal/source/sockdiag",
		may:  []string{"internal/cgroup", "internal/netns", "internal/sock", "rules/ssfilter", links, netlink, unix},
		not:  []string{"log", "log/slog"},
		why:  "one package speaks netlink, and it knows of no rules: another source of sockets can stand in its place",
	},
	{
		name: "internal/source/events",
		may:  []string{"internal/cgroup", "internal/sock", "rules/ssfilter", ebpf, ebpfasm, unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "it tells what events told, and where they cannot be had, why: what to believe, and what else to ask, is for who calls",
	},
	{
		name: "internal/source/node",
		may: []string{
			"internal/counters", "internal/netns", "internal/sock", "internal/source/events", "internal/source/patient", "internal/source/sockdiag", "rules/ssfilter", unix,
		},
		not: []string{"log", "net"},
		why: "it joins what others tell of sockets, in each namespace: what a rule wants, and what is done, is not its business",
	},
	{
		name: "internal/source/patient",
		may:  []string{"internal/sock"},
		not:  []string{"log", "log/slog", "net", "os", "syscall"},
		why:  "it waits for a source's answers, whatever that asks, so that no kernel is needed to hold one up",
	},
	{
		name: "internal/counters",
		may:  []string{"internal/netns", "internal/sock", "rules/ssfilter", unix},
		not:  []string{"log", "log/slog"},
		why:  "it reads two files of /proc and judges nothing",
	},
	{
		name: "internal/owner",
		may:  []string{"internal/sock"},
		not:  impure,
		why:  "what the path of a cgroup says is told by the path alone",
	},
	{
		name: "internal/podnames",
		may:  []string{"internal/owner"},
		not:  []string{"log", "log/slog", "net", "syscall"},
		why:  "it lists two directories that a kubelet fills: who runs in a pod is for those who walk through /proc",
	},
	{
		name: "internal/holders",
		may:  []string{"internal/owner", "internal/podnames", "internal/sock", unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "it answers who holds an inode; who asks, and why, is not its business",
	},
	{
		name: "internal/pidfd",
		may:  []string{"internal/holders", "internal/sock", unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "it hands over a descriptor that is certainly of the socket that was meant: what is done through it is for who asked",
	},
	{
		name: "internal/statedir",
		may:  []string{unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "what it opens is trusted by all that write with privileges: it opens, checks and knows of no content",
	},
	{
		name: "internal/sysctl",
		may:  []string{"internal/statedir", unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "it changes and puts back what it is told; which settings are safe, and when to set them, is not its business",
	},
	{
		name: "internal/seen",
		may:  []string{"internal/sock", "internal/statedir", "rules/ssfilter"},
		not:  []string{"log", "log/slog", "net"},
		why:  "a store keeps what it is given: what a record means is the engine's",
	},
	{
		name: "internal/pause",
		may:  []string{"internal/statedir", "internal/status"},
		not:  []string{"net"},
		why:  "it keeps a pause, and tells whoever acts: what that means is not its business",
	},
	{
		name: "internal/control",
		may:  []string{"internal/status", unix},
		not:  []string{"log", "log/slog", "net/http"},
		why:  "it hears who may tell the daemon what to do, and has others do it",
	},
	{
		name: "internal/journal",
		may:  []string{"internal/statedir"},
		not:  []string{"net"},
		why:  "the record outlives the program: its form must not follow the types of the moment",
	},
	{
		name: "internal/sim",
		may:  []string{"internal/sock", "rules/ssfilter"},
		not:  impure,
		why:  "it is the truth that a watchdog is held to, and so may not know of one",
	},
	{
		name: "internal/sim/world",
		may:  []string{"internal/engine", "internal/engine/match", "internal/engine/spin", "internal/sim", "internal/sock", "rules", "rules/ssfilter"},
		not:  impure,
		why:  "it carries out plans in simulated time: what really happens may not come in",
	},
	{
		name: "internal/sim/runner",
		may:  []string{"internal/engine", "internal/engine/match", "internal/engine/spin", "internal/sim", "internal/sock", "rules", "rules/ssfilter"},
		not:  impure,
		why:  "what rules did in simulated time follows from the rules and the sockets, or a test of them proves nothing",
	},
	{
		name: "internal/engine/track",
		may:  []string{"internal/sock", "rules/ssfilter"},
		not:  impure,
		why:  "what is known of one connection hangs on no rule and on no other connection",
	},
	{
		name: "internal/engine/match",
		may:  []string{"internal/engine/subject", "internal/engine/track", "internal/sock", "rules", "rules/ssfilter"},
		not:  impure,
		why:  "whether a rule means a socket hangs on those two, and on nothing that was done before",
	},
	{
		name: "internal/engine/limit",
		may:  []string{"internal/sock", "rules"},
		not:  impure,
		why:  "a window counts instants; what it bounds, and what waits for it, is not its business",
	},
	{
		name: "internal/engine/group",
		may:  []string{"internal/engine/match", "internal/engine/subject", "internal/engine/table", "internal/sock", "rules", "rules/ssfilter"},
		not:  impure,
		why:  "how groups stand hangs on what was counted of them, and not on what is sent or done",
	},
	{
		name: "internal/engine/alerting",
		may:  []string{"internal/engine/group", "internal/engine/match", "internal/engine/subject", "internal/sock", "rules"},
		not:  impure,
		why:  "which alerts fire hangs on how groups stand; what they say, and to whom, is decided behind it",
	},
	{
		name: "internal/engine/acting",
		may:  []string{"internal/engine/group", "internal/engine/match", "internal/sock", "rules"},
		not:  impure,
		why:  "which actions on groups are due hangs on how groups stand; what they do is behind it",
	},
	{
		name: "internal/engine/subject",
		may:  []string{"internal/sock", "rules", "rules/ssfilter"},
		not:  impure,
		why:  "what rules match and group is seen alike by all parts of the engine: it knows none of them",
	},
	{
		name: "internal/engine/table",
		not:  impure,
		why:  "it holds whatever there is much of",
	},
	{
		name: "internal/engine/schedule",
		may:  []string{"internal/engine/match", "internal/sock", "rules/ssfilter"},
		not:  impure,
		why:  "it decides when to scan, and knows neither sockets nor what rules found",
	},
	{
		name: "internal/engine/walk",
		may:  []string{"internal/sock"},
		not:  impure,
		why:  "it decides when to walk, and knows neither /proc nor why a holder is wanted",
	},
	{
		name: "internal/engine/spin",
		may:  []string{"internal/sock"},
		not:  impure,
		why:  "it judges samples that others take, so that a test needs no process that spins",
	},
	{
		name: "internal/engine",
		may: []string{
			"internal/engine/acting", "internal/engine/alerting", "internal/engine/group", "internal/engine/limit", "internal/engine/match", "internal/engine/schedule", "internal/engine/spin", "internal/engine/subject", "internal/engine/table", "internal/engine/track", "internal/engine/walk",
			"internal/sock", "rules", "rules/ssfilter",
		},
		not: impure,
		why: "it decides, purely: no clock, no file, no goroutine, or the simulation proves nothing",
	},
	{
		name: "internal/action",
		may:  []string{"internal/engine", "internal/engine/group", "internal/engine/match", "internal/engine/subject", "internal/sock", "rules", unix},
		not:  []string{"log", "log/slog"},
		why:  "it does what was decided, and lets the engine decide it once more by the last answer; it sees no kernel but through its own interface",
	},
	{
		name: "internal/status",
		may:  []string{"internal/journal", "rules/ssfilter"},
		not:  []string{"context", "log", "log/slog", "net", "net/http", "os", "sync"},
		why:  "it is made in the loop that must not wait, and read everywhere: values, and nothing that could block",
	},
	{
		name: "internal/status/statustest",
		may:  []string{"internal/journal", "internal/status"},
		not:  []string{"net", "net/http"},
		why:  "a status made up for tests may come from nowhere else",
	},
	{
		name: "internal/metrics",
		may:  []string{"internal/status"},
		not:  []string{"log", "log/slog", "net"},
		why:  "a scrape shows what was published, and reads nothing but its own process's /proc",
	},
	{
		name: "internal/metrics/metricstest",
		may:  []string{"internal/metrics", "internal/status", "internal/status/statustest"},
		why:  "it knows the metrics from a scrape, as those who name them do",
	},
	{
		name: "internal/web",
		may:  []string{"internal/sock", "internal/status", "rules/ssfilter", unix},
		not:  []string{"os", "os/exec", "log"},
		why:  "it is where strangers come in: it can read a status and ages, and reach nothing else",
	},
	{
		name: "internal/term",
		may:  []string{xterm, xwidth},
		not:  []string{"log", "log/slog", "net", "os/exec"},
		why:  "it fits text into cells, whatever the text says",
	},
	{
		name: "internal/sockettable",
		may:  []string{"internal/engine/match", "internal/engine/track", "internal/sock", "internal/term", "rules", "rules/ssfilter"},
		not:  []string{"log", "log/slog", "net", "os", "syscall"},
		why:  "it shows the sockets that it is given: who scans them, and why, is not its business",
	},
	{
		name: "internal/selection",
		may: []string{
			"internal/cgroup", "internal/engine/match", "internal/engine/subject", "internal/sock", "internal/source/sockdiag", "rules", "rules/ssfilter",
		},
		not: []string{"log", "log/slog", "os"},
		why: "it says what a person means, for whatever command, and looks up only what a filter names",
	},
	{
		name: "internal/manualkill",
		may: []string{
			"internal/action", "internal/engine", "internal/engine/match", "internal/engine/subject", "internal/engine/track", "internal/sock", "internal/sockettable",
			"internal/term", "rules", "rules/ssfilter", unix,
		},
		not: []string{"log", "log/slog", "net", "os"},
		why: "what a person asks for is held to the engine's own safety rules, and done through an interface to the kernel, so that a test can stand in its place",
	},
	{
		name: "internal/readfile",
		not:  []string{"log", "log/slog", "net"},
		why:  "it hands over bytes; what is in them, and who waits for them, is not its business",
	},
	{
		name: "internal/reload",
		may:  []string{"internal/readfile", fsnotify, unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "it delivers bytes; what they say is for rules",
	},
	{
		name: "internal/notify",
		may:  []string{"internal/alert", "internal/readfile", "rules"},
		not:  []string{"log"},
		why:  "it sends alerts to receivers; what makes one, and what it says, is decided before",
	},
	{
		name: "internal/probe",
		not:  []string{"log", "log/slog"},
		why:  "it asks a service whether it is well; what follows from that, the engine decides",
	},
	{
		name: "internal/alert",
		may:  []string{"internal/engine", "internal/engine/group", "internal/engine/match", "internal/engine/subject", "internal/sock", "rules"},
		not:  impure,
		why:  "it puts an alarm into words, purely: what wakes somebody at night is tested without a network",
	},
	{
		name: "internal/why",
		may:  []string{"internal/engine/match", "internal/engine/track", "internal/sock", "internal/sockettable", "internal/term", "rules", "rules/ssfilter"},
		not:  impure,
		why:  "it judges what others have read, so that every sentence has a test that needs no leak",
	},
	{
		name: "internal/inspect",
		may:  []string{"internal/counters", "internal/engine/track", "internal/holders", "internal/sock", "internal/term", "internal/why", "rules/ssfilter"},
		not:  []string{"log", "log/slog", "net", "os"},
		why:  "it reads what is to be explained, by whatever scanner it is given",
	},
	{
		name: "internal/realtest",
		why:  "it knows what stands around sockdog from outside, as whoever runs it does",
	},
	{
		name: "internal/nstest",
		may:  []string{links, unix},
		not:  []string{"testing"},
		why:  "the demo is built on it too, and is no test",
	},
	{
		name: "internal/daemon",
		may: []string{
			"internal/action", "internal/alert", "internal/counters", "internal/engine", "internal/engine/group", "internal/engine/match", "internal/engine/spin", "internal/engine/subject",
			"internal/holders", "internal/journal", "internal/notify", "internal/sock", "internal/source/patient", "internal/status", "rules", "rules/ssfilter", unix,
		},
		not: []string{"net", "net/http"},
		why: "it owns the state and reaches the kernel, the file and the service manager through interfaces it declares itself, so no sockdiag, no reload and no sd_notify",
	},
	{
		name: "internal/daemon/daemontest",
		may:  []string{"internal/daemon"},
		why:  "tests build a daemon's parts themselves, and it joins them as the daemon wants them",
	},
	{
		name: "internal/host",
		may: []string{
			"internal/cgroup", "internal/engine", "internal/engine/match", "internal/netns", "internal/pidfd", "internal/sock", "internal/source/events", "internal/source/sockdiag", "rules", psx, unix,
		},
		not: []string{"log", "log/slog", "net"},
		why: "it says what is possible here, to the daemon and to every command, and does nothing with it",
	},
	{
		name: "internal/state",
		may:  []string{"internal/engine", "internal/host", "internal/journal", "internal/seen", "internal/statedir", "internal/status"},
		not:  []string{"net"},
		why:  "it opens what is kept, and knows neither the daemon that writes it nor the commands that read it",
	},
	{
		name: "internal/service",
		may: []string{
			"internal/action", "internal/client", "internal/control", "internal/daemon", "internal/holders", "internal/host", "internal/journal", "internal/metrics",
			"internal/pause", "internal/probe", "internal/reload", "internal/source/node", "internal/state", "internal/sysctl", "internal/statedir", "internal/status", "internal/term", "internal/web", "rules", sdnotify, unix,
		},
		why: "it opens all that the daemon works with, and so knows all edges: no other package needs to",
	},
	{
		name: "internal/client",
		may: []string{
			"internal/engine", "internal/holders", "internal/host", "internal/sock", "internal/source/sockdiag", "internal/state", "internal/status", "internal/web",
		},
		not: []string{"log", "log/slog"},
		why: "it reads what a daemon says, and doubts it: so it knows the answers of internal/web, and the kernel that tells who gave them",
	},
	{
		name: "internal/statustext",
		may:  []string{"internal/journal", "internal/status", "internal/term"},
		not:  []string{"context", "log", "log/slog", "net", "net/http", "os"},
		why:  "it puts a status into lines, whoever asked for it",
	},
	{
		name: "internal/doctor",
		may:  []string{"internal/holders", "internal/host", "internal/netns", "internal/source/events", "internal/source/sockdiag", "internal/term", "rules", unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "it tries out what the others rely on, through the packages that they use",
	},
	{
		name: "internal/plan",
		may: []string{
			"internal/action", "internal/daemon", "internal/engine", "internal/engine/group", "internal/engine/match", "internal/engine/spin", "internal/engine/subject",
			"internal/engine/track", "internal/holders", "internal/host", "internal/sock", "internal/sockettable", "internal/source/node", "internal/term", "rules",
		},
		not: []string{"log", "log/slog", "net"},
		why: "it runs the engine that the daemon runs, on one scan, and acts on nothing",
	},
	{
		name: "rules/ruletest",
		may:  []string{"rules", "rules/internal/document", "rules/internal/message", "rules/ssfilter", yaml},
		not:  []string{"os", "os/exec", "net", "syscall", "log", "log/slog", "sync"},
		why:  "a file of tests is read as a rules file is, and no engine is needed to find its mistakes",
	},
	{
		name: "internal/testrun",
		may: []string{
			"internal/action", "internal/engine", "internal/engine/group", "internal/engine/match", "internal/engine/spin", "internal/engine/subject",
			"internal/sim", "internal/sim/runner", "internal/sock", "internal/term", "rules", "rules/ruletest", "rules/ssfilter",
		},
		not: impure,
		why: "what a test shows follows from its file alone: nothing of this machine may come in",
	},
	{
		name: "internal/recording",
		may:  []string{"internal/sock", "rules/ssfilter"},
		not:  []string{"context", "log", "log/slog", "net", "net/http", "os", "os/exec", "sync", "syscall"},
		why:  "what is read of a recording follows from its bytes, whoever wrote them and wherever",
	},
	{
		name: "internal/replay",
		may: []string{
			"internal/action", "internal/engine", "internal/engine/match", "internal/engine/spin", "internal/engine/subject", "internal/engine/track",
			"internal/recording", "internal/sim/runner", "internal/sock", "internal/sockettable", "internal/term", "rules",
		},
		not: []string{"context", "log", "log/slog", "net", "net/http", "os", "os/exec", "sync", "syscall"},
		why: "what rules would have done follows from a recording and the engine alone",
	},
	{
		name: "internal/capture",
		may:  []string{"internal/holders", "internal/recording", "internal/sock", "rules/ssfilter", unix},
		not:  []string{"log", "log/slog", "net"},
		why:  "it writes what it is shown for a time: which sockets, and whence, is for who calls",
	},
	{
		name: "internal/demo",
		may:  []string{"internal/nstest", "internal/sock", "internal/source/sockdiag", "rules", "rules/ssfilter", unix},
		why:  "it runs the real daemon as a program and judges it by the kernel's table, and so may know nothing of how it works",
	},
	{
		name: "cmd/sockdog",
		may: []string{
			"internal/action", "internal/capture", "internal/client", "internal/control", "internal/counters", "internal/daemon", "internal/demo", "internal/doctor", "internal/engine",
			"internal/engine/match", "internal/engine/track", "internal/holders", "internal/host", "internal/inspect", "internal/manualkill", "internal/pause", "internal/plan", "internal/readfile", "internal/recording", "internal/reload", "internal/replay", "internal/selection", "internal/service", "internal/sock",
			"internal/source/events", "internal/source/node", "internal/source/sockdiag", "internal/sockettable", "internal/status", "internal/statustext", "internal/term", "internal/testrun", "internal/why", "rules", "rules/ruletest", "rules/ssfilter", cobra,
		},
		why: "it wires everything together, through the edges above and not around them",
	},
}

// TestImports parses the files itself: of what it reads, go test knows that an old
// result no longer holds; of what a go command tells it, it would not.
func TestImports(t *testing.T) {
	seen := make(map[string]bool)
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "vendor"):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		name, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		i := slices.IndexFunc(table, func(p pkg) bool { return p.name == name })
		if i < 0 && !seen[name] {
			t.Errorf("%s is not in the table: say what it may import, and why no more", name)
		}
		seen[name] = true
		if i < 0 {
			return nil
		}
		return check(t, table[i], file)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range table {
		if !seen[p.name] {
			t.Errorf("%s is in the table and not in the tree", p.name)
		}
	}
}

func check(t *testing.T, p pkg, file string) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return err
	}
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if !p.allows(name) {
			t.Errorf("%s: %s may not import %s: %s", filepath.Base(file), p.name, name, p.why)
		}
	}
	return nil
}

// TestNoSentences keeps words for people out of the engine: it returns typed reasons and
// notes, which package action and daemon/notes.go word. What it panics with is for
// developers.
func TestNoSentences(t *testing.T) {
	err := filepath.WalkDir(filepath.Join(root, "internal/engine"), func(file string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return err
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				name, _ := n.Fun.(*ast.Ident)
				return name == nil || name.Name != "panic"
			case *ast.BasicLit:
				if n.Kind == token.STRING && strings.Contains(n.Value, " ") {
					t.Errorf("%s: the engine says %s", files.Position(n.Pos()), n.Value)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (p pkg) allows(name string) bool {
	if ours, ok := strings.CutPrefix(name, module); ok {
		return slices.Contains(p.may, ours)
	}
	if host, _, _ := strings.Cut(name, "/"); strings.Contains(host, ".") {
		return slices.Contains(p.may, name)
	}
	return name != "C" && !slices.Contains(p.not, name) // cgo would make the binary need a libc
}

// TestArchitecture has the page list the packages of the table, and no others.
func TestArchitecture(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:cmd|internal|rules)[^`]*)`").FindAllSubmatch(page, -1) {
		got = append(got, string(row[1]))
	}
	for _, p := range table {
		want = append(want, p.name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages at the start of a row in ARCHITECTURE.md (-want +got):\n%s", diff)
	}
}

// TestLinked: a template that text/template runs may call any method by its name, for
// which the linker would keep all exported ones.
func TestLinked(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sockdog")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/sockdog/sockdog/cmd/sockdog").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	symbols, err := exec.Command("go", "tool", "nm", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(symbols, []byte(" text/template/parse.Parse\n")) {
		t.Error("the symbols do not name the parser of templates, which is there")
	}
	if bytes.Contains(symbols, []byte(" text/template.(*Template).Execute\n")) {
		t.Error("text/template runs templates")
	}
}
