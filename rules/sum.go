package rules

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"
)

// sum is a fingerprint of what the rule does and to which sockets. How it is
// written, where it stands and its description are no part of that, so that a
// change of those keeps what the engine has tracked for it.
func (r Rule) sum() string {
	type match struct {
		Match
		Where string
	}
	canonical := func(ms []Match) []match {
		all := make([]match, 0, len(ms))
		for _, m := range ms {
			c := match{Match: m}
			c.Match.Where = nil
			if m.Where != nil {
				c.Where = m.Where.String()
			}
			c.Users = slices.Sorted(slices.Values(m.Users))
			c.Netns = slices.SortedFunc(slices.Values(m.Netns), func(a, b Netns) int {
				return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Inode, b.Inode))
			})
			c.Cgroups = slices.Sorted(slices.Values(m.Cgroups))
			c.Processes, c.Units = slices.Sorted(slices.Values(m.Processes)), slices.Sorted(slices.Values(m.Units))
			c.Cmdlines = slices.Sorted(slices.Values(m.Cmdlines))
			c.Containers, c.Pods = slices.Sorted(slices.Values(m.Containers)), slices.Sorted(slices.Values(m.Pods))
			c.Verdicts = slices.Sorted(slices.Values(m.Verdicts))
			all = append(all, c)
		}
		return all
	}
	text, err := json.Marshal(struct {
		Name            string
		Enabled, DryRun bool
		Match, Exclude  []match
		GroupBy         []GroupKey
		When, Until     []Condition
		For             time.Duration
		Cooldown        time.Duration `json:",omitempty"`
		Labels          map[string]string
		Then            []Action
	}{
		r.Name, r.Enabled, r.DryRun, canonical(r.Match), canonical(r.Exclude),
		r.GroupBy, r.When, r.Until, r.For, r.Cooldown, r.Labels, r.Then,
	})
	if err != nil {
		panic(err) // nothing in it but numbers and strings
	}
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}
