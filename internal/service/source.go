package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/sockdog/sockdog/internal/daemon"
	"github.com/sockdog/sockdog/internal/holders"
	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/source/node"
	"github.com/sockdog/sockdog/internal/status"
)

// watchNamespaces opens the source of sockets, of this network namespace or of all, and has
// the daemon watch it.
func watchNamespaces(h *host.Host, kind node.Kind, all bool, o *daemon.Options) (*node.Source, error) {
	say := daemon.Say(func(level slog.Level, text string, attrs ...slog.Attr) { // until the daemon logs
		o.Log.LogAttrs(context.Background(), level, text, attrs...)
	})
	places, unfit := host.TablePlaces()
	source, err := node.Open(node.Config{
		Now: h.Now, All: all, Kind: kind, Places: places, Unfit: unfit, ProcRoot: host.ProcRoot, OpenConn: h.OpenIn,
		Say: func(level slog.Level, text string, attrs ...slog.Attr) { say(level, text, attrs...) },
	})
	switch {
	case errors.Is(err, node.ErrNoEvents):
		return nil, fmt.Errorf("%w; sockdog doctor says what to do, and --source auto goes on without them", err)
	case err != nil:
		return nil, err
	}
	o.Source = daemon.Source{
		OpenScanner:   func() (daemon.Scanner, error) { return source.OpenScanner() },
		OpenLookup:    func() (daemon.Lookup, error) { return source.OpenLookup() },
		OpenDestroyer: func() (daemon.Destroyer, error) { return source.OpenLookup() },
		OpenCounters:  func() (daemon.Counters, error) { return source.OpenCounters() },
		Want:          source.Want,
		Countable:     source.Countable,
	}
	o.Netns, o.NetnsName, o.Stuck = source.Inode(), source.Name, source.Stuck
	o.Holders = holdersBy(source)
	o.SourceState = func() status.Source { return stateOf(source.State()) }
	o.SourceLog = func(s daemon.Say) {
		say = s
		source.Start()
	}
	return source, nil
}

func stateOf(s node.State) status.Source {
	told := status.Source{
		Kind: status.SourceKind(s.Kind), Reason: s.Reason, Namespaces: s.Namespaces, Older: s.Older, Lost: s.Lost, Missed: s.Missed,
	}
	if s.LeftOut != nil {
		told.LeftOut, told.Few, told.Cure = s.LeftOut.Error(), s.Few, s.Cure
	}
	return told
}

// holdersBy finds holders by events where these tell, and by walks through /proc.
func holdersBy(source *node.Source) daemon.Holders {
	var pass holders.Pass
	if source.HasOwners() {
		pass = source.Owners
	}
	finder := holders.NewFinder(host.ProcRoot, pass)
	finder.Room = host.DescriptorRoom()
	return daemon.Holders{
		FindHolders: finder.Find, FindNew: finder.FindNew, WalkAt: finder.At, AskCmdlines: finder.AskCmdlines, Hung: finder.Hung,
		ReadUsage:       func(pid int) (holders.Usage, error) { return holders.ReadUsage(host.ProcRoot, pid) },
		ReadSockets:     func(pid int) (map[uint32][]int, error) { return holders.ReadSockets(host.ProcRoot, pid) },
		ProcRoot:        host.ProcRoot,
		Contained:       func() bool { return holders.Contained(host.ProcRoot) },
		ReadDescriptors: finder.ReadDescriptors,
	}
}
