package document_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockdog/sockdog/rules/internal/document"
)

func TestReport(t *testing.T) {
	tests := map[string]struct {
		problem document.Problem
		want    string
	}{
		"plain":                 {document.Problem{Line: 3, Column: 5, Msg: "bad", Text: "abcdefg"}, "f:3:5: bad\n    3 | abcdefg\n      |     ^\n"},
		"tabs have one width":   {document.Problem{Line: 1, Column: 3, Msg: "bad", Text: "\t\tx"}, "f:1:3: bad\n    1 |         x\n      |         ^\n"},
		"wide characters":       {document.Problem{Line: 1, Column: 3, Msg: "bad", Text: "日本x"}, "f:1:3: bad\n    1 | 日本x\n      |     ^\n"},
		"combining characters":  {document.Problem{Line: 1, Column: 3, Msg: "bad", Text: "e\u0301x"}, "f:1:3: bad\n    1 | e\u0301x\n      |  ^\n"},
		"no terminal sequences": {document.Problem{Line: 1, Column: 5, Msg: "bad", Text: "\x1b[1mx"}, "f:1:5: bad\n    1 | \uFFFD[1mx\n      |     ^\n"},
		"behind the end":        {document.Problem{Line: 1, Column: 3, Msg: "bad", Text: "ab"}, "f:1:3: bad\n    1 | ab\n      |   ^\n"},
		"empty line":            {document.Problem{Line: 7, Column: 1, Msg: "bad", Text: ""}, "f:7:1: bad\n"},
		"long line, middle": {
			document.Problem{Line: 1, Column: 201, Msg: "bad", Text: strings.Repeat("a", 200) + "X" + strings.Repeat("b", 200)},
			"f:1:201: bad\n    1 | …" + strings.Repeat("a", 50) + "X" + strings.Repeat("b", 49) + "…\n      | " + strings.Repeat(" ", 51) + "^\n",
		},
		"long line, end": {
			document.Problem{Line: 1, Column: 201, Msg: "bad", Text: strings.Repeat("a", 200)},
			"f:1:201: bad\n    1 | …" + strings.Repeat("a", 100) + "\n      | " + strings.Repeat(" ", 101) + "^\n",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, document.Problems{tt.problem}.Report("f")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
