package grafana

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/sockdog/sockdog/internal/metrics/metricstest"
	"github.com/sockdog/sockdog/internal/realtest"
)

type target struct{ Expr, RefID string }

type dashboard struct {
	Panels []struct {
		ID      int
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []target
	}
	Annotations struct {
		List []target
	}
}

func read(t *testing.T) (d dashboard, text string) {
	t.Helper()
	bytes, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(bytes, &d); err != nil {
		t.Fatal(err)
	}
	return d, string(bytes)
}

func TestMetrics(t *testing.T) {
	_, text := read(t)
	metricstest.Check(t, text)
}

// promtool reads every expression, as that of a recording rule.
func TestExpressions(t *testing.T) {
	d, _ := read(t)
	promtool := realtest.Need(t, "promtool")
	targets := d.Annotations.List
	for _, p := range d.Panels {
		targets = append(targets, p.Targets...)
	}
	type rule struct{ Record, Expr string }
	var rules []rule
	for i, target := range targets {
		expr := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*").Replace(target.Expr)
		if expr == "" || strings.Contains(expr, "$") {
			t.Errorf("%q: this is not all of an expression", expr)
		}
		rules = append(rules, rule{fmt.Sprintf("r%d", i), expr})
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool check rules: %v\n%s\n%s", err, out, text)
	}
}

// No panel lies on another, or off the 24 columns.
func TestPanels(t *testing.T) {
	d, _ := read(t)
	taken := make(map[[2]int]string)
	ids := make(map[int]bool)
	for _, p := range d.Panels {
		if ids[p.ID] || len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s: its id %d is taken, it shows nothing, or it is too far right", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
	}
}

// On a symmetric logarithmic axis that begins at 0 Grafana puts a tick at -1, over
// the times below it. Mapped to nothing, it is not seen.
func TestSymlog(t *testing.T) {
	_, text := read(t)
	const blank = `"-1": {
                  "text": "",`
	if axes, blanks := strings.Count(text, `"symlog"`), strings.Count(text, blank); axes == 0 || axes != blanks {
		t.Errorf("%d axes are symlog, and %d have no label at -1", axes, blanks)
	}
}
