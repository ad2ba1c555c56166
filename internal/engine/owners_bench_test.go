package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/engine/match"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/rules"
)

// ownedNode is sockets in 100 network namespaces, each of which is that of a pod with one
// process.
type ownedNode struct {
	sockets []sock.Socket
	held    HoldersFound
}

const podsOfNode = 100

func newOwnedNode(n int) *ownedNode {
	node := &ownedNode{held: HoldersFound{Complete: true, Holders: make(map[uint32][]sock.Holder, n)}}
	random := rand.New(rand.NewPCG(1, 2))
	for pod := range podsOfNode {
		at := &sock.Owner{Pod: fmt.Sprint("bench/web-", pod)}
		at.PodUID, at.ContainerID = sock.Fact{Text: fmt.Sprint("uid-", pod), Known: true}, sock.Fact{Text: fmt.Sprintf("%064x", pod), Known: true}
		alone := []sock.Holder{{PID: 100 + pod, Start: uint64(pod), Comm: "web", Exe: "web", Owner: at}}
		for i := pod; i < n; i += podsOfNode {
			s := leaked(i, time.Minute)
			s.ID.Netns = netnsOfPod(pod)
			port := 1 + random.IntN(20000)
			s.ID.DPort = [2]byte{byte(port >> 8), byte(port)}
			s.Dst = s.ID.Peer()
			node.sockets = append(node.sockets, s)
			node.held.Holders[s.Inode] = alone[:1:1]
		}
	}
	return node
}

func netnsOfPod(pod int) uint32 { return 4026532000 + uint32(pod) }

// watching is an engine that has scanned the node so often that it knows who holds its sockets.
type watching struct {
	*Engine
	node  *ownedNode
	now   sock.Instant
	walks int
}

func (n *ownedNode) watch(list ...rules.Rule) *watching {
	s := set(list...)
	w := &watching{Engine: New(Config{Precision: benchJiffy}), node: n, now: benchStart}
	w.Step(w.now, RulesChanged{Program: match.Compile(&s)})
	for range 4 {
		w.scan()
	}
	return w
}

// scan makes one scan and the steps around it, and returns how long these took: not the walk
// through /proc, but what the engine makes of it.
func (w *watching) scan() time.Duration {
	began := time.Now()
	p := w.Step(w.now, CountersRead{})
	for p.Scan == nil {
		w.now = max(p.Wake, w.now.Add(time.Second))
		if p = w.Step(w.now, nil); p.Count {
			p = w.Step(w.now, CountersRead{})
		}
	}
	f := p.Scan.Begin(w.now)
	for i := range w.node.sockets {
		f.Take(&w.node.sockets[i], w.now)
	}
	p = w.Step(w.now, ScanDone{Result: f, Sent: w.now})
	if p.Read != nil {
		p = w.Step(w.now, NewHoldersFound{Holders: w.node.held.Holders})
	}
	if p.Resolve != nil {
		w.walks++
		w.Step(w.now, w.node.held)
	}
	return time.Since(began)
}

// beside times scans by two engines in turns, and reports the medians and their ratio.
func beside(b *testing.B, one, other *watching) {
	var took [2][]float64
	for b.Loop() {
		for i, w := range []*watching{one, other} {
			took[i] = append(took[i], w.scan().Seconds()*1e9/float64(len(w.node.sockets)))
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	first, second := took[0][len(took[0])/2], took[1][len(took[1])/2]
	b.ReportMetric(first, "ns/socket")
	b.ReportMetric(second, "other-ns/socket")
	b.ReportMetric(first/second, "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkOwnerKeys times what the engine makes of 100,000 sockets in 100 network namespaces: by
// a rule on pods beside the same on network namespaces, and by 1,000 rules that name a port,
// with who holds the sockets known and not.
func BenchmarkOwnerKeys(b *testing.B) {
	later := func(r *rules.Rule) { r.Match[0].InStateFor = 5 * time.Minute }
	byPod := killing("pod", later, func(r *rules.Rule) { r.Match[0].Pods = []string{"bench/web-*"} })
	byNetns := killing("netns", later, func(r *rules.Rule) {
		for pod := range podsOfNode {
			r.Match[0].Netns = append(r.Match[0].Netns, rules.Netns{Inode: netnsOfPod(pod)})
		}
	})
	for _, n := range []int{1200, 100_000} {
		b.Run(fmt.Sprintf("pod beside netns/%d", n), func(b *testing.B) {
			node := newOwnedNode(n)
			pods := node.watch(byPod)
			beside(b, pods, node.watch(byNetns))
			if pods.walks == 0 {
				b.Error("nobody asked who holds the sockets")
			}
		})
	}
	var byPort []rules.Rule
	for i := range 1000 {
		byPort = append(byPort, killing(fmt.Sprint("port-", i), later, func(r *rules.Rule) { r.Match[0].Where = port(uint16(1 + 20*i)) }))
	}
	other := killing("other", later, func(r *rules.Rule) { r.Match[0].Where = port(25) })
	asks := killing("asks", later, func(r *rules.Rule) { r.Match[0].Where = port(25); r.Match[0].Processes = []string{"other"} })
	for _, n := range []int{1200, 100_000} {
		b.Run(fmt.Sprintf("ports with holders beside without/%d", n), func(b *testing.B) {
			node := newOwnedNode(n)
			beside(b, node.watch(append(slices.Clone(byPort), asks)...), node.watch(append(slices.Clone(byPort), other)...))
		})
	}
}
