package docs_test

import (
	"bytes"
	"flag"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/internal/nstest"
)

var update = flag.Bool("update", false, "take the picture of the demo again, if it shows something else")

// built is where sockdog is built for the tests.
var built string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "sockdog-docs-")
	if err != nil {
		panic(err)
	}
	built = dir
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// build builds sockdog, once for all tests.
var build = sync.OnceValues(func() (string, error) {
	sockdog := filepath.Join(built, "sockdog")
	if out, err := exec.Command("go", "build", "-o", sockdog, root+"/cmd/sockdog").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return sockdog, nil
})

// The picture in the README shows the lines that the demo prints, but for their numbers: each run
// has others, and some lines in another order.
func TestPictureOfDemo(t *testing.T) {
	const path = "screenshots/demo.svg"
	sockdog, err := build()
	if err != nil {
		t.Fatal(err)
	}
	var says bytes.Buffer
	cmd := exec.Command(sockdog, "demo")
	cmd.Stderr = &says
	printed, err := cmd.Output()
	if strings.Contains(says.String(), "the demo needs a network namespace of its own") {
		nstest.SkipWithout(t, "a network namespace of its own", err)
	}
	if err != nil {
		t.Fatalf("the demo: %v\n%s%s", err, printed, says.String())
	}
	kept, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	diff := cmp.Diff(masked(string(printed)), masked(textOf(string(kept))))
	if diff != "" && *update {
		err := os.WriteFile(path, []byte(picture(string(printed))), 0o644)
		if err != nil {
			t.Fatal(err)
		}
	} else if diff != "" {
		t.Errorf("%s (-demo +picture): make golden takes it again\n%s", path, diff)
	}
}

var digits = regexp.MustCompile(`[0-9.]+(ms)?`)

// masked are the lines of a text, in the order of the alphabet. All numbers are the same in them,
// and so is the space before these.
func masked(text string) []string {
	text = regexp.MustCompile(` +#`).ReplaceAllString(digits.ReplaceAllString(text, "#"), " #")
	return slices.Sorted(strings.SplitSeq(text, "\n"))
}

var shown = regexp.MustCompile(`<text [^>]*>(.*)</text>`)

// textOf is the text of a picture, without its first line: that is the command.
func textOf(svg string) string {
	var b strings.Builder
	for i, line := range shown.FindAllStringSubmatch(svg, -1) {
		if i > 0 {
			fmt.Fprintln(&b, html.UnescapeString(line[1]))
		}
	}
	return b.String()
}

// The picture is a terminal, dark on any page. Each line comes when it was printed; who asks for
// reduced motion, or sees it without animation, sees all of them.
const (
	pictureHead = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="What sockdog demo prints">
<style>
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #e6edf3; white-space: pre; animation: come .01s both }
.command { fill: #79c0ff } .rules { fill: #d2a8ff } .kill, .healed { fill: #7ee787 } .healed { font-weight: bold }
@keyframes come { from { opacity: 0 } to { opacity: 1 } }
@media (prefers-reduced-motion: reduce) { text { animation: none } }
</style>
<rect x=".5" y=".5" width="%d" height="%d" rx="8" fill="#0d1117" stroke="#57606a"/>
`
	lineHeight, columnWidth, margin = 18, 7.83, 18
)

// picture draws what the demo has printed.
func picture(printed string) string {
	lines := append([]string{"$ go run ./cmd/sockdog demo"}, strings.Split(strings.TrimSuffix(printed, "\n"), "\n")...)
	columns := 0
	for _, line := range lines {
		columns = max(columns, len(line))
	}
	width, height := int(float64(columns)*columnWidth)+2*margin, len(lines)*lineHeight+2*margin
	var b strings.Builder
	fmt.Fprintf(&b, pictureHead, width, height, width-1, height-1)
	stamp, delay := regexp.MustCompile(`^ *([0-9.]+)s  `), "0"
	for i, line := range lines {
		if found := stamp.FindStringSubmatch(line); found != nil {
			delay = found[1]
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d"%s style="animation-delay:%ss" xml:space="preserve">%s</text>`+"\n",
			margin, margin+(i+1)*lineHeight-5, classOf(line, delay), delay, html.EscapeString(line))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// classOf is the attribute by which a line has its colour, if that is another than most.
func classOf(line, delay string) string {
	switch {
	case strings.HasPrefix(line, "$ "):
		return ` class="command"`
	case delay == "0" && strings.HasPrefix(line, "    "):
		return ` class="rules"`
	case strings.Contains(line, "s  sockdog"):
		return ` class="kill"`
	case strings.HasPrefix(line, "Healed"):
		return ` class="healed"`
	}
	return ""
}
