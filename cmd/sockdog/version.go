package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// The linker sets these (-X) for packages and images: a version of the module, a commit's hash and
// its time in RFC 3339. Elsewhere they are empty, and the go command tells what it knows.
var linkedVersion, linkedCommit, linkedDate string

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, its commit and date",
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings := map[string]string{}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					settings[s.Key] = s.Value
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "sockdog %s\ncommit  %s\ndate    %s\ngo      %s\nfor     %s/%s\n", version(),
				cmp.Or(linkedCommit, settings["vcs.revision"], "unknown"), cmp.Or(linkedDate, settings["vcs.time"], "unknown"),
				runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}

// version is that of the module.
func version() string {
	if linkedVersion != "" {
		return linkedVersion
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
