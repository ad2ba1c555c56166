// Package dashboard draws examples/grafana/dashboard.json with Grafana's own panel
// components, from a real Prometheus that scraped a real sockdog through a flood
// and a leak. Its name keeps it out of ./...: it takes what .ci/dashboard/run makes.
package dashboard

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/realtest"
)

const (
	root   = "../.."
	scrape = time.Second // stands for the 15 s of a real one: minutes for hours
	target = "127.0.0.1:9797"
	width  = 1600
	great  = 6000 // sockets of the first flood
	small  = 600  // of the second

	patience = 3 * time.Minute // more than any machine takes for what is waited for
)

const rules = `
settings: {interval: 1s, cpu_budget: 10%%}
receivers: {oncall: {alertmanager: {url: %q}}}
rules:
  - name: time-wait-flood
    match: {state: time-wait}
    group_by: [dst, dport]
    when: count > %d
    for: 5s
    then: [{alert: {severity: critical}}]
  - name: postgres-close-wait
    match: {state: close-wait, dport: 5432, in_state_for: 10s}
    then: [{kill: {limit: %s}}]
`

var screenshot = flag.String("screenshot", "", "`file` to keep the picture in")

// The namespaces hold the flood, and keep the browser to itself.
func TestMain(m *testing.M) { nstest.Main(m) }

func TestDashboard(t *testing.T) {
	nstest.Need(t)
	if _, err := os.Stat("dist/index.html"); err != nil {
		t.Fatal("run .ci/dashboard/run, which makes it: ", err)
	}
	realtest.Need(t, "chromium")
	am := realtest.StartAlertmanager(t, "http://127.0.0.1:1/")
	file := filepath.Join(t.TempDir(), "rules.yaml")
	write := func(limit string) {
		if err := os.WriteFile(file, fmt.Appendf(nil, rules, am.URL, small*3/4, limit), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("20/10s")
	run(t, file)
	p := realtest.StartPrometheus(t, target, scrape)
	p.Await(t, `sum(sockdog_sockets)`, 1, patience)
	from := time.Now()
	s := &scene{T: t, raiseLimit: func() { write("100/10s") }}
	s.play(p, am)
	to := time.Now()

	d := open(t, p)
	for at, firing := range s.firing {
		if got := d.draw(from, at).panel("Groups firing").Text; !strings.HasSuffix(got, "\n"+firing) {
			t.Errorf("at %v Groups firing is %q, want %s", at, got, firing)
		}
	}
	drawn := d.draw(from, to)
	check(t, drawn)
	d.picture()
}

// run has sockdog run with a file of rules until the test ends.
func run(t *testing.T, file string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "sockdog")
	if out, err := exec.Command("go", "build", "-o", program, root+"/cmd/sockdog").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var log strings.Builder
	cmd := exec.Command(program, "run", "--rules", file, "--listen", target)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("sockdog said:\n%s", &log)
		}
	})
}

// scene is what happens to sockets.
type scene struct {
	*testing.T
	raiseLimit func()

	mu     sync.Mutex
	kept   []nstest.Socket
	firing map[time.Time]string // how many groups are, at some instants
}

func must[T any](v T, err error) func(*scene) T {
	return func(s *scene) T {
		s.Helper()
		if err != nil {
			s.Fatal(err)
		}
		return v
	}
}

func (s *scene) listen(port uint16) nstest.Socket {
	s.Helper()
	return s.keep(must(nstest.ListenAt(netip.AddrPortFrom(nstest.V4, port), unix.IPPROTO_TCP))(s))
}

func (s *scene) keep(socket nstest.Socket) nstest.Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, socket)
	return socket
}

// play has twelve connections in use, a leak of one a second and one of sixty at
// once, and two floods: the first is over in the end, the second is not.
func (s *scene) play(p realtest.Prometheus, am realtest.Alertmanager) {
	s.Cleanup(func() {
		for _, socket := range s.kept {
			socket.Close()
		}
	})
	// Else a connection on loopback takes the port of one in TIME_WAIT.
	if err := nstest.Sysctl("net.ipv4.tcp_tw_reuse", "0"); err != nil {
		s.Fatal(err)
	}
	database, first, second := s.listen(5432), s.listen(8443), s.listen(8444)
	for range 12 {
		pair := must(nstest.NewPair(database))(s)
		s.keep(pair.Client)
		s.keep(pair.Server)
	}
	stop := s.leaking(database)
	defer stop()

	time.Sleep(5 * time.Second)
	s.flood(first, great)
	s.awaitFiring(p, "1")
	for range 60 {
		s.leak(database)
	}
	p.Await(s.T, `sum(sockdog_held_back_total{reason=~"limit.*"})`, 1, patience)
	s.raiseLimit()
	s.flood(second, small)
	s.awaitFiring(p, "2")
	s.awaitFiring(p, "1")
	var ofGroups []realtest.Alert
	for deadline := time.Now().Add(patience); len(ofGroups) != 1 && time.Now().Before(deadline); time.Sleep(scrape) {
		// That the leak comes back again and again is told as well.
		ofGroups = slices.DeleteFunc(am.Active(s), func(a realtest.Alert) bool { return a.Labels["problem"] == "leak" })
	}
	if len(ofGroups) != 1 || ofGroups[0].Labels["dport"] != "8444" {
		s.Errorf("in Alertmanager there is %+v, want the second flood alone", ofGroups)
	}
}

// flood makes n sockets in TIME_WAIT, in 12 seconds.
func (s *scene) flood(l nstest.Socket, n int) {
	s.Helper()
	const lasts = 12 * time.Second
	start := time.Now()
	for i := range n {
		pair := must(nstest.NewPair(l))(s)
		pair.Client.Close()
		pair.Server.Close()
		time.Sleep(time.Until(start.Add(lasts * time.Duration(i) / time.Duration(n))))
	}
}

// leak makes a socket in CLOSE_WAIT that nobody closes.
func (s *scene) leak(l nstest.Socket) {
	pair, err := nstest.NewPair(l)
	if err != nil {
		s.Error(err)
		return
	}
	s.keep(pair.Client)
	pair.Server.Close()
}

// leaking leaks a socket a second, until it is stopped.
func (s *scene) leaking(l nstest.Socket) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Second):
				s.leak(l)
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// awaitFiring waits until so many groups are firing, and notes when.
func (s *scene) awaitFiring(p realtest.Prometheus, n string) {
	s.Helper()
	p.Await(s.T, "sum(sockdog_rule_firing) == "+n, 0, patience)
	time.Sleep(2 * scrape) // until queries that end on a whole second see it
	if s.firing == nil {
		s.firing = make(map[time.Time]string)
	}
	s.firing[time.Now()] = n
}

// display is the app in a browser.
type display struct {
	*realtest.Tab
	t   *testing.T
	url string
}

// drawn is what the app handed to Grafana's components, and the text of them.
type drawn struct {
	Variables   map[string][]string
	Annotations []struct{ At []float64 }
	Panels      []panel
}

type panel struct {
	Title  string
	Text   string
	Series map[string][]*float64 // by the name in the legend
}

func (d drawn) panel(title string) panel {
	i := slices.IndexFunc(d.Panels, func(p panel) bool { return p.Title == title })
	if i < 0 {
		return panel{}
	}
	return d.Panels[i]
}

// open serves the app, the dashboard and Prometheus at one address.
func open(t *testing.T, p realtest.Prometheus) display {
	t.Helper()
	api, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	app := http.FileServer(http.Dir("dist"))
	mux.Handle("/", app)
	mux.Handle("/public/build/", http.StripPrefix("/public/build", app))
	mux.Handle("/api/", httputil.NewSingleHostReverseProxy(api))
	mux.HandleFunc("/dashboard.json", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, root+"/examples/grafana/dashboard.json")
	})
	server := httptest.NewServer(mux)
	d := display{realtest.OpenTab(t), t, server.URL}
	t.Cleanup(server.Close)
	d.resize(900)
	return d
}

func (d display) resize(height int) {
	d.t.Helper()
	d.Call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// draw shows the dashboard of a time.
func (d display) draw(from, to time.Time) (all drawn) {
	d.t.Helper()
	d.Show(fmt.Sprintf("%s/?from=%d&to=%d&scrape=%v", d.url, from.UnixMilli(), to.UnixMilli(), scrape.Seconds()))
	d.Await(`window.drawn != null || window.failed != null`)
	if failed := d.Eval(`window.failed ?? ""`); failed != "" {
		d.t.Fatal(failed)
	}
	if err := json.Unmarshal([]byte(d.Eval(`JSON.stringify(window.drawn)`)), &all); err != nil {
		d.t.Fatal(err)
	}
	return all
}

// picture takes one of all that is drawn.
func (d display) picture() {
	d.t.Helper()
	var height int
	if _, err := fmt.Sscan(d.Eval(`document.documentElement.scrollHeight`), &height); err != nil {
		d.t.Fatal(err)
	}
	d.resize(height)
	var taken struct{ Data []byte }
	d.Call("Page.captureScreenshot", map[string]any{"format": "png"}, &taken)
	if *screenshot != "" {
		if err := os.WriteFile(*screenshot, taken.Data, 0o644); err != nil {
			d.t.Fatal(err)
		}
	}
}

// check holds what was drawn to what happened.
func check(t *testing.T, d drawn) {
	t.Helper()
	for name, want := range map[string]string{"job": "sockdog", "instance": target} {
		if got := d.Variables[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("the variable %s has the values %q, want %s", name, got, want)
		}
	}
	if len(d.Annotations) != 1 || len(d.Annotations[0].At) != 1 {
		t.Errorf("the rules were reloaded once, and the annotations are %v", d.Annotations)
	}
	for _, p := range d.Panels {
		if len(p.Series) == 0 {
			t.Errorf("%s: no data", p.Title)
		}
		for name, values := range p.Series {
			if _, ok := most(values); !ok {
				t.Errorf("%s: %s has no values", p.Title, name)
			}
		}
	}
	for title, names := range map[string]map[string]float64{
		"Sockets by state":               {"time-wait": great, "close-wait": 60, "established": 24},
		"Sockets that each rule matches": {"time-wait-flood": great, "postgres-close-wait": 1},
		"Candidates of each rule":        {"postgres-close-wait": 60},
		"Oldest socket of each rule":     {"postgres-close-wait": 10},
		"Firing groups of each rule":     {"time-wait-flood": 2, "postgres-close-wait": 0},
		"Actions":                        {"postgres-close-wait: kill done": 60},
		"Held back":                      {"postgres-close-wait: limit": 1},
		"Alerts":                         {"oncall: sent": 1},
		"Scan interval":                  {target: 0},
		"What sockdog costs":             {"CPU of " + target: 0, "memory of " + target: 1 << 20},
	} {
		p := d.panel(title)
		for name, least := range names {
			if got, ok := most(p.Series[name]); !ok || got < least || !strings.Contains(p.Text, name) {
				t.Errorf("%s: %s reaches %v, want %v, and the name in its legend:\n%s", title, name, got, least, p.Text)
			}
		}
	}
}

// most is the greatest of those values that there are.
func most(values []*float64) (greatest float64, ok bool) {
	for _, v := range values {
		if v != nil && (!ok || *v > greatest) {
			greatest, ok = *v, true
		}
	}
	return greatest, ok
}
