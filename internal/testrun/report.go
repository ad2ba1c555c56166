package testrun

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/sockdog/sockdog/internal/term"
)

// FileResult is what came of a file of tests.
type FileResult struct {
	Name    string
	Results []Result
	// Broken is why the file could not be run, in lines; "": it was.
	Broken string
}

// Failed is how many of its tests failed.
func (f *FileResult) Failed() (n int) {
	for i := range f.Results {
		if len(f.Results[i].Failures) > 0 {
			n++
		}
	}
	return n
}

// Print prints a line where all is well, and else what differs.
func (f *FileResult) Print(out io.Writer) {
	failed := f.Failed()
	switch {
	case f.Broken != "":
		fmt.Fprint(out, f.Broken)
		fmt.Fprintf(out, "FAIL  %s: not run\n", f.Name)
		return
	case failed == 0:
		fmt.Fprintf(out, "ok    %s: %s\n", f.Name, term.Count(len(f.Results), "test"))
		return
	}
	for i := range f.Results {
		r := &f.Results[i]
		if len(r.Failures) == 0 {
			continue
		}
		fmt.Fprintf(out, "%s:%d: %s\n", f.Name, r.Case.Line, r.Case.Name)
		for j := range r.Failures {
			r.Failures[j].print(out, f.Name)
		}
	}
	fmt.Fprintf(out, "FAIL  %s: %d of %s failed\n", f.Name, failed, term.Count(len(f.Results), "test"))
}

// print prints a failure.
func (f *Failure) print(out io.Writer, file string) {
	if f.Expected != "" {
		fmt.Fprintf(out, "  expected  %s   (%s:%d)\n  happened  %s\n", f.Expected, file, f.Line, f.Happened)
	} else {
		fmt.Fprintf(out, "  happened  %s, which nothing expects\n", f.Happened)
	}
	for _, why := range f.Why {
		fmt.Fprintf(out, "            %s\n", why)
	}
}

// Object is a test in -o json.
type Object struct {
	File     string          `json:"file"`
	Test     string          `json:"test"`
	Line     int             `json:"line"`
	Passed   bool            `json:"passed"`
	Failures []FailureObject `json:"failures,omitempty"`
	Broken   string          `json:"broken,omitempty"` // of a file that could not be run
}

// FailureObject is a failure in -o json.
type FailureObject struct {
	Line     int      `json:"line"`
	Expected string   `json:"expected,omitempty"`
	Happened string   `json:"happened"`
	Why      []string `json:"why,omitempty"`
}

// PrintJSON prints an object for each test.
func PrintJSON(out io.Writer, files []FileResult) error {
	var all []any
	for i := range files {
		f := &files[i]
		if f.Broken != "" {
			all = append(all, Object{File: f.Name, Broken: f.Broken})
		}
		for j := range f.Results {
			r := &f.Results[j]
			o := Object{File: f.Name, Test: r.Case.Name, Line: r.Case.Line, Passed: len(r.Failures) == 0}
			for _, failure := range r.Failures {
				o.Failures = append(o.Failures, FailureObject(failure))
			}
			all = append(all, o)
		}
	}
	return term.JSONOf(out, all)
}

// The elements of JUnit's XML, as Jenkins, GitLab and GitHub's reporters read it.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string     `xml:"name,attr"`
		Class   string     `xml:"classname,attr"`
		File    string     `xml:"file,attr"`
		Line    int        `xml:"line,attr,omitempty"`
		Failure *junitText `xml:"failure,omitempty"`
		Error   *junitText `xml:"error,omitempty"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the results in JUnit's XML.
func WriteJUnit(out io.Writer, files []FileResult) error {
	var all junitSuites
	for i := range files {
		f := &files[i]
		s := junitSuite{Name: f.Name, Tests: len(f.Results), Failures: f.Failed()}
		if f.Broken != "" {
			first, _, _ := strings.Cut(f.Broken, "\n")
			s.Tests, s.Errors = 1, 1
			s.Cases = append(s.Cases, junitCase{Name: "read the file", Class: f.Name, File: f.Name, Error: &junitText{first, f.Broken}})
		}
		for j := range f.Results {
			s.Cases = append(s.Cases, f.junit(&f.Results[j]))
		}
		all.Tests += s.Tests
		all.Failures += s.Failures
		all.Errors += s.Errors
		all.Suites = append(all.Suites, s)
	}
	if _, err := io.WriteString(out, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(out)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(out, "\n")
	return err
}

func (f *FileResult) junit(r *Result) junitCase {
	c := junitCase{Name: r.Case.Name, Class: f.Name, File: f.Name, Line: r.Case.Line}
	if len(r.Failures) == 0 {
		return c
	}
	var b strings.Builder
	for i := range r.Failures {
		r.Failures[i].print(&b, f.Name)
	}
	first := &r.Failures[0]
	message := first.Happened + ", which nothing expects"
	if first.Expected != "" {
		message = "expected " + first.Expected + ", happened " + first.Happened
	}
	c.Failure = &junitText{message, b.String()}
	return c
}
