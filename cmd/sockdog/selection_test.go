package main

import (
	"testing"

	"github.com/spf13/cobra"

	"github.com/sockdog/sockdog/internal/selection"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

func TestSelection(t *testing.T) {
	usual := ssfilter.AllStates &^ ssfilter.Of(ssfilter.Listening)
	tests := []struct {
		name   string
		args   []string
		states ssfilter.StateSet
		where  string
	}{
		{"nothing", nil, usual, ""},
		{"all", []string{"-a"}, ssfilter.AllStates, ""},
		{"listening", []string{"-l"}, ssfilter.Of(ssfilter.Listening), ""},
		{"a state says more than a flag", []string{"-a", "state", "close-wait"}, ssfilter.Of(ssfilter.CloseWait), ""},
		{"several words", []string{"state", "close-wait", "dport", "=", "22"}, ssfilter.Of(ssfilter.CloseWait), "dport = :22"},
		{"one", []string{"state close-wait\n\tdport = 22"}, ssfilter.Of(ssfilter.CloseWait), "dport = :22"},
		{"parentheses that the shell left", []string{"-tn", "(", "dport", "=", ":22", "or", "sport", "=", ":22", ")"}, usual, "dport = :22 or sport = :22"},
		{"IPv4", []string{"-4"}, usual, "src 0.0.0.0/0"},
		{"IPv6", []string{"-6", "dport = 22 or sport = 22"}, usual, "src [::/0] and ( dport = :22 or sport = :22 )"},
		{"both", []string{"-46"}, usual, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var s selection.Selection
			cmd := &cobra.Command{Use: "test", RunE: func(_ *cobra.Command, args []string) error { return s.Parse(args) }}
			selectionFlags(cmd, &s)
			cmd.SetArgs(append([]string{}, test.args...))
			if err := cmd.Execute(); err != nil {
				t.Fatal(err)
			}
			q := s.Query()
			where := ""
			if q.Where != nil {
				where = q.Where.String()
			}
			if q.States != test.states || where != test.where {
				t.Errorf("%v: states %v where %q, want %v where %q", test.args, q.States, where, test.states, test.where)
			}
		})
	}
}
