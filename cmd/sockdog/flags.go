package main

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/action"
	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/rules"
)

// checkedText is the value of a flag whose error says all by itself.
type checkedText struct {
	text  *string
	check func(text string) error
}

func (v *checkedText) Type() string { return "string" }

func (v *checkedText) String() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

func (v *checkedText) Set(text string) error {
	*v.text = text
	return asUsage(v.check(text))
}

// oneOf adds a flag that takes one of some words, by default the first, with a use that
// names them at %s. A word may have a remark for shells behind a tab.
func oneOf(cmd *cobra.Command, text *string, name, letter, use string, words ...string) {
	var names []string
	for _, w := range words {
		plain, _, _ := strings.Cut(w, "\t")
		names = append(names, plain)
	}
	written := "--" + name
	if letter != "" {
		written = "-" + letter
	}
	last := len(names) - 1
	all := strings.Join(names[:last], ", ") + " or " + names[last]
	check := func(text string) error {
		if slices.Contains(names, text) {
			return nil
		}
		return fmt.Errorf("%s is %s, not %q", written, all, text)
	}
	*text = names[0]
	cmd.Flags().VarP(&checkedText{text, check}, name, letter, fmt.Sprintf(use, all))
	completes(cmd, name, words...)
}

// outputFlag adds -o.
func outputFlag(cmd *cobra.Command, text *string) {
	oneOf(cmd, text, "output", "o", "`format`: %s", "table", "json")
}

// wideOutputFlag adds -o where there is a wider table.
func wideOutputFlag(cmd *cobra.Command, text *string) {
	oneOf(cmd, text, "output", "o", "`format`: %s", "table", "wide\tmore columns, with the process", "json")
}

// allowFlag adds a flag that takes the names of actions, with commas between them.
func allowFlag(cmd *cobra.Command, names *[]string, use string) {
	var all []string
	for _, k := range action.Kinds() {
		all = append(all, k.Name)
	}
	cmd.Flags().Func("allow", use, func(text string) error {
		for name := range strings.SplitSeq(text, ",") {
			name = strings.TrimSpace(name)
			if !slices.Contains(all, name) {
				return usage{fmt.Errorf("--allow lists actions, and %q is none: choose from %s", name, strings.Join(all, ", "))}
			}
			*names = append(*names, name)
		}
		return nil
	})
	completesBy(cmd, "allow", cobra.ShellCompDirectiveNoSpace, listWords(func() []string { return all }))
}

// addressFlag adds a flag that takes an address, or "off" if that is one of the words
// for shells. Whether there is such a host, only who asks it can tell.
func addressFlag(cmd *cobra.Command, text *string, name, use string, words ...string) {
	form := "HOST:PORT"
	mayBeOff := slices.Contains(words, "off")
	if mayBeOff {
		form += " or off"
	}
	check := func(address string) error {
		if mayBeOff && client.Off(address) {
			return nil
		}
		_, port, err := net.SplitHostPort(address)
		if err != nil || port == "" {
			return fmt.Errorf("--%s is %s, not %q", name, form, address)
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			return fmt.Errorf("--%s is %s, and there is no port %s", name, form, port)
		}
		return nil
	}
	*text = client.DefaultAddress
	cmd.Flags().Var(&checkedText{text, check}, name, use)
	completes(cmd, name, append(words, client.DefaultAddress)...)
}

// durationFlag adds a flag that takes a duration, of which shells suggest some.
func durationFlag(cmd *cobra.Command, d *time.Duration, name, use string, some ...string) {
	cmd.Flags().Func(name, use, func(text string) (err error) {
		*d, err = rules.ParseDuration(text)
		return err
	})
	completes(cmd, name, some...)
}

// rulesFlag adds --rules.
func rulesFlag(cmd *cobra.Command, file *string, use string) {
	cmd.Flags().StringVar(file, "rules", "", use)
	_ = cmd.MarkFlagFilename("rules", rulesFiles...) // there is such a flag
}

// stateDirFlag adds --state-dir, which is systemd's, the first where the unit names several.
func stateDirFlag(cmd *cobra.Command, dir *string, use string) {
	byDefault, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	cmd.Flags().StringVar(dir, "state-dir", byDefault, use)
	_ = cmd.MarkFlagDirname("state-dir") // there is such a flag
}

// ageFlags say who is asked for ages of which the kernel knows less.
func ageFlags(cmd *cobra.Command, o *client.Observers) {
	addressFlag(cmd, &o.Daemon, "daemon", "`address` to ask for ages, or off", "off")
	stateDirFlag(cmd, &o.StateDir, "state `directory` of a sockdog, which also has ages")
}

// selectionFlags adds the flags of ss that select, and answers the others with what to
// write instead: people paste.
func selectionFlags(cmd *cobra.Command, s *selection.Selection) {
	f := cmd.Flags()
	f.BoolVarP(&s.IPv4, "ipv4", "4", false, "IPv4 only")
	f.BoolVarP(&s.IPv6, "ipv6", "6", false, "IPv6 only; an IPv4-mapped address is IPv4")
	f.BoolVarP(&s.All, "all", "a", false, "listening sockets, too")
	f.BoolVarP(&s.Listening, "listening", "l", false, "listening sockets only")
	const (
		wide    = "write sockdog list -o wide: it shows "
		tcpOnly = "sockdog knows TCP sockets only"
	)
	accept(cmd, "tcp", "t")
	accept(cmd, "numeric", "n")
	accept(cmd, "oneline", "O")
	for _, other := range [][3]string{
		{"processes", "p", wide + "the process that holds a socket"},
		{"threads", "T", wide + "the process that holds a socket"},
		{"extended", "e", wide + "user, inode and cookie"},
		{"options", "", "the columns AGE and IDLE show what ss's timers let one guess"},
		{"info", "i", "the columns AGE and IDLE show what ss -i lets one guess; for the rest write ss -i"},
		{"memory", "m", "sockdog does not read it: write ss -m"},
		{"resolve", "r", "sockdog prints addresses as numbers; a filter may name hosts"},
		{"events", "E", "write sockdog list --watch"},
		{"net", "N", "write ip netns exec NAME sockdog ..."},
		{"family", "f", "write -4 or -6; sockdog knows TCP over IPv4 and IPv6"},
		{"filter", "F", "write the filter as arguments, such as \"$(cat FILE)\""},
		{"query", "A", tcpOnly},
		{"socket", "", tcpOnly},
		{"udp", "u", tcpOnly},
		{"unix", "x", tcpOnly},
		{"raw", "w", tcpOnly},
		{"dccp", "d", tcpOnly},
		{"sctp", "S", tcpOnly},
		{"packet", "0", tcpOnly},
		{"mptcp", "M", "sockdog list shows MPTCP connections, marked mptcp, beside their subflows, marked subflow"},
	} {
		refuse(cmd, other[0], other[1], other[2])
	}
}

// ownerUses say what the flags that select by owner take.
var ownerUses = map[string]string{
	"process":   "only those of programs of these `names`, such as php-fpm*",
	"cmdline":   "only those of programs whose command line meets a `regex`",
	"user":      "only those of `users`, by name or number",
	"unit":      "only those of these systemd `units`, such as nginx.service",
	"container": "only those of `containers` of these names in pods, or ids",
	"pod":       "only those of these `pods`, such as payments/api-*",
	"cgroup":    "only those of the control group of this `path`, and below it",
	"netns":     "only those of these network `namespaces`, by name or number",
}

// ownerFlags adds flags that select sockets by owner, with the meaning that their names have
// in a rule's match.
func ownerFlags(cmd *cobra.Command, o *selection.Owners, keys ...string) {
	for _, key := range keys {
		cmd.Flags().Var(&ownerFlag{owners: o, key: key}, key, ownerUses[key])
	}
}

// ownerFlag is one of those. It may be given several times, and takes several values with
// commas between them; what may hold a comma is one value.
type ownerFlag struct {
	owners *selection.Owners
	key    string
	text   string
}

func (f *ownerFlag) Type() string   { return "string" }
func (f *ownerFlag) String() string { return f.text }

func (f *ownerFlag) Set(text string) error {
	f.text = text
	if f.key == "cmdline" || f.key == "cgroup" {
		return asUsage(f.owners.Add(f.key, text))
	}
	for value := range strings.SplitSeq(text, ",") {
		if err := f.owners.Add(f.key, strings.TrimSpace(value)); err != nil {
			return asUsage(err)
		}
	}
	return nil
}

// accept adds a flag of ss that says what is so anyway.
func accept(cmd *cobra.Command, name, letter string) {
	cmd.Flags().BoolP(name, letter, true, "as it is anyway; accepted for those who paste from ss")
	cmd.Flags().Lookup(name).Hidden = true
}

// refuse adds a flag of ss that is none here, and is answered with what to write instead.
func refuse(cmd *cobra.Command, name, letter, instead string) {
	written := "--" + name
	if letter != "" {
		written = "-" + letter + ", " + written
	}
	cmd.Flags().BoolFuncP(name, letter, instead, func(string) error { return usage{fmt.Errorf("%s: %s", written, instead)} })
	cmd.Flags().Lookup(name).Hidden = true
}
