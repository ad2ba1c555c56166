package rules

import (
	"errors"
	"math"
	"regexp"
	rxsyntax "regexp/syntax"
	"strings"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// wildcards stand for any text and for one character of a name.
const wildcards = "*?"

// netns is a network namespace, by its name or number.
var netns = document.Scalar("a network namespace", ParseNetns)

// ParseNetns reads the name of a network namespace, or its number.
func ParseNetns(text string) (Netns, error) {
	if document.Only(text, document.Digits) {
		n, err := document.Number(text, 1, math.MaxUint32)
		return Netns{Inode: uint32(n)}, err
	}
	if inner, link := strings.CutPrefix(text, "net:["); link && strings.HasSuffix(inner, "]") {
		return Netns{}, message.Errorf("write the number of the network namespace alone: %s", strings.TrimSuffix(inner, "]"))
	}
	for _, dir := range []string{"/run/netns/", "/var/run/netns/"} {
		if name, below := strings.CutPrefix(text, dir); below && isFileName(name) {
			return Netns{}, message.Errorf("write the name of the network namespace alone: %s", name)
		}
	}
	if !isFileName(text) || strings.ContainsAny(text, wildcards) {
		return Netns{}, message.Errorf("%q is not a network namespace: write a whole name that ip netns shows, or the number in the link /proc/PID/ns/net", text)
	}
	return Netns{Name: text}, nil
}

// isFileName reports whether a text can be the name of a file in a directory.
func isFileName(text string) bool {
	return text != "" && text != "." && text != ".." && len(text) <= 255 && !strings.Contains(text, "/")
}

// cgroup is the path of a cgroup, which may have wildcards.
var cgroup = document.Scalar("the path of a cgroup", parseCgroup)

func parseCgroup(text string) (string, error) {
	if !strings.HasPrefix(text, "/") {
		return "", message.Errorf("%q is not the path of a cgroup: write it from the root on, as it follows the 0:: in /proc/PID/cgroup, such as /system.slice/nginx.service", text)
	}
	clean := ssfilter.CgroupPath(text)
	if strings.Trim(clean, "/"+wildcards) == "" {
		return "", message.Errorf("%q leaves no cgroup out: name one below the root, such as /system.slice", text)
	}
	return clean, plainWildcards(clean)
}

// process is the name of a program, which may have wildcards.
var process = document.Scalar("the name of a program", parseProcess)

func parseProcess(text string) (string, error) {
	switch {
	case strings.Contains(text, "/"):
		return "", message.Errorf("%q is a path: write the name of the program alone, such as nginx", text)
	case strings.Trim(text, wildcards) == "":
		return "", message.Errorf("%q leaves no program out: write a name, such as nginx", text)
	}
	return text, plainWildcards(text)
}

// longestCmdline bounds the regular expressions, each of which every command line is compared
// with.
const longestCmdline = 200

// cmdline is a regular expression for the command line of a program.
var cmdline = document.Scalar("a regular expression", parseCmdline)

func parseCmdline(text string) (string, error) {
	if len(text) > longestCmdline || strings.Contains(text, "\x00") {
		return "", message.Errorf("this regular expression is too long: it may have %d bytes, and no NUL", longestCmdline)
	}
	pattern, err := regexp.Compile(text)
	if syntax, ok := errors.AsType[*rxsyntax.Error](err); ok {
		return "", message.Errorf("%q is not a regular expression (RE2): %s: %s", text, syntax.Code, syntax.Expr)
	}
	if pattern.MatchString("") {
		return "", message.Errorf("%q leaves no command line out: it holds for an empty one", text)
	}
	return text, nil
}

// unit is the name of a unit of systemd, which may have wildcards.
var unit = document.Scalar("the name of a unit", parseUnit)

func parseUnit(text string) (string, error) {
	switch {
	case strings.Contains(text, "/"):
		return "", message.Errorf("%q is a path: write the name of the unit alone, such as nginx.service, or name it by cgroup", text)
	case strings.Trim(text, wildcards) == "":
		return "", message.Errorf("%q leaves no unit out: write a name, such as nginx.service", text)
	case strings.HasSuffix(text, ".slice"):
		return "", message.Errorf("%q holds units, and no process: name it by cgroup, with its path", text)
	case !strings.ContainsAny(text, ".*"):
		return "", message.Errorf("%q lacks the type of a unit: write it as systemctl shows it, such as %s.service", text, text)
	}
	return text, plainWildcards(text)
}

const (
	// A container's id is told by its beginning, as programs show it: docker ps shows 12
	// digits.
	shortestID, longestID = 12, 64

	hexadecimal = document.Digits + "abcdef"
	podLetters  = "abcdefghijklmnopqrstuvwxyz" + document.Digits + "-." + wildcards
)

// IsContainerID reports whether a text in Match.Containers is the beginning of an id, or
// the whole: it is not taken for a name then.
func IsContainerID(text string) bool {
	return len(text) >= shortestID && len(text) <= longestID && document.Only(text, hexadecimal)
}

// container is the name of a container, which may have wildcards, or the beginning of an id.
var container = document.Scalar("a container", parseContainer)

func parseContainer(text string) (string, error) {
	scheme, id, url := strings.Cut(text, "://") // as kubectl shows it
	switch {
	case url && IsContainerID(id):
		return "", message.Errorf("write the id without %s://: %s", scheme, id)
	case strings.Contains(text, "/"):
		return "", message.Errorf("%q is not a container: write its name alone, and the pod in pod", text)
	case strings.Trim(text, wildcards) == "":
		return "", message.Errorf("%q leaves no container out: write a name, such as app", text)
	}
	if err := plainWildcards(text); err != nil {
		return "", err
	}
	if !document.Only(text, podLetters) {
		return "", message.Errorf("%q is not the name of a container in a pod: those have small letters, digits and dashes; others are known by their id, of which 12 digits are enough", text)
	}
	return text, nil
}

// pod is the name of a pod with its namespace, which may have wildcards.
var pod = document.Scalar("a pod", parsePod)

func parsePod(text string) (string, error) {
	if err := plainWildcards(text); err != nil {
		return "", err
	}
	namespace, name, both := strings.Cut(text, "/")
	switch {
	case !both && document.Only(text, podLetters) && text != "":
		return "", message.Errorf("%q lacks the namespace of the pod: write both, such as payments/%s, or */%s for any", text, text, text)
	case !document.Only(namespace, podLetters) || !document.Only(name, podLetters) || namespace == "" || name == "":
		return "", message.Errorf("%q is not a pod: write its namespace and name, such as payments/api-*", text)
	}
	return text, nil
}

// OwnerKeys are the keys of a match that AddOwner takes.
var OwnerKeys = []string{"process", "cmdline", "user", "unit", "container", "pod", "cgroup", "netns"}

// AddOwner adds a value of one of OwnerKeys, as it stands in a file: the match then means
// sockets of that owner, too.
func (m *Match) AddOwner(key, value string) error {
	var err error
	add := func(list *[]string, parse func(text string) (string, error)) {
		if value, err = parse(value); err == nil {
			*list = append(*list, value)
		}
	}
	switch key {
	case "process":
		add(&m.Processes, parseProcess)
	case "cmdline":
		add(&m.Cmdlines, parseCmdline)
	case "user":
		var uid uint32
		if uid, err = ParseUser(value); err == nil {
			m.Users = append(m.Users, uid)
		}
	case "cgroup":
		add(&m.Cgroups, parseCgroup)
	case "unit":
		add(&m.Units, parseUnit)
	case "container":
		add(&m.Containers, parseContainer)
	case "pod":
		add(&m.Pods, parsePod)
	case "netns":
		var n Netns
		if n, err = ParseNetns(value); err == nil {
			m.Netns = append(m.Netns, n)
		}
	default:
		panic("no key of an owner: " + key)
	}
	return err
}

// OfHolder is a key of a match that is about who holds the socket, and what it says.
type OfHolder struct {
	Name   string
	Values []string
}

// OfHolders returns those that are given.
func (m *Match) OfHolders() (given []OfHolder) {
	for _, key := range [...]OfHolder{{"process", m.Processes}, {"cmdline", m.Cmdlines}, {"unit", m.Units}, {"container", m.Containers}, {"pod", m.Pods}} {
		if len(key.Values) > 0 {
			given = append(given, key)
		}
	}
	return given
}

// AsksHolders reports whether there are any for which it is to be looked who holds the socket.
func (m *Match) AsksHolders() bool { return m.NamesHolders() && !m.IfKnown }

// NamesHolders reports whether there are any.
func (m *Match) NamesHolders() bool {
	return len(m.Processes)+len(m.Cmdlines)+len(m.Units)+len(m.Containers)+len(m.Pods) > 0
}

// plainWildcards is the error that a pattern holds what a shell reads as more than text,
// and sockdog would not.
func plainWildcards(pattern string) error {
	if at := strings.IndexAny(pattern, "[{"); at >= 0 {
		return message.Errorf("%q has a %q, and only * and ? are wildcards: write a list for several, and ? for a character that is a bracket", pattern, pattern[at:at+1])
	}
	return nil
}

// coversCgroups reports whether each cgroup of few is one of many or below it; none in
// many means any. A wildcard covers nothing but itself, as it is written.
func coversCgroups(many, few []string) bool {
	within := func(path string) bool {
		for _, outer := range many {
			if path == outer || strings.HasPrefix(path, outer+"/") {
				return true
			}
		}
		return false
	}
	for _, path := range few {
		if len(many) > 0 && !within(path) {
			return false
		}
	}
	return len(many) == 0 || len(few) > 0
}
