package rules

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sockdog/sockdog/rules/internal/document"
	"github.com/sockdog/sockdog/rules/internal/message"
)

// shrunk is by how much smaller the files are where the race detector slows everything down.
var shrunk = 1

// fill makes files of one head, one tail, and between them parts, each made from its
// number: as many as a file of so many values and of the largest size takes.
func fill(head string, part func(i int) string, tail string) func(most int) string {
	return func(most int) string {
		var b strings.Builder
		b.Grow(document.MaxBytes)
		b.WriteString(head)
		values := document.CountValues(head) + document.CountValues(tail)
		for i := 0; ; i++ {
			next := part(i)
			values += document.CountValues(next)
			if b.Len()+len(next)+len(tail) > document.MaxBytes/shrunk || values > most {
				break
			}
			b.WriteString(next)
		}
		b.WriteString(tail)
		return b.String()
	}
}

// times is so many parts.
func times(n int, part func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(part(i))
	}
	return b.String()
}

// same is a part that is always the same.
func same(part string) func(int) string { return func(int) string { return part } }

// numbered is a part with its number in it.
func numbered(format string) func(int) string {
	return func(i int) string { return fmt.Sprintf(format, i) }
}

const one = "rules:\n- name: a\n  match: {state: close-wait, in_state_for: 5m}\n  then: [kill]\n"

// largest are files that are hard to judge, by name.
var largest = map[string]func(most int) string{
	"states misspelt":            fill("rules:\n- name: a\n  match:\n    state:\n", numbered("    - close-wayt%07d-some-longer-name\n"), ""),
	"states misspelt, in flow":   fill("rules: [{name: a, match: {state: [", same("close-wayt,"), "]}}]"),
	"states misspelt, short":     fill("rules: [{name: a, match: {state: [", same("x,"), "]}}]"),
	"state of 1 MB":              fill("rules: [{name: a, match: {state: ", same("x"), "}}]"),
	"keys unknown":               fill(one, numbered("  kee%d: 1\n"), ""),
	"keys unknown, in flow":      fill("rules: [{", numbered("k%d,"), "}]"),
	"keys unknown, at the top":   fill(one, numbered("kee%d: 1\n"), ""),
	"keys unknown, in receivers": fill("receivers: {a: {webhook: {", numbered("k%d,"), "}}}\nrules: []"),
	"key of 1 MB":                fill(one+"  ? ", same("x"), "\n  : 1\n"),
	"key of 1000":                fill(one, func(i int) string { return fmt.Sprintf("  k%d%s: 1\n", i, strings.Repeat("x", 900)) }, ""),
	"keys the same":              fill(one, same("  then: log\n"), ""),
	"keys the same, in flow":     fill("rules: [{", same("a,"), "}]"),
	"keys x-":                    fill(one, numbered("x-%d: 1\n"), ""),
	"keys that are lists":        fill("rules:\n- {", same("[]: 1,"), "}\n"),
	"ports":                      fill("rules: [{name: a, match: {dport: [", same("1,"), "]}}]"),
	"ports, all":                 fill("rules: [{name: a, match: {dport: [", func(i int) string { return fmt.Sprint(i%65535+1, ",") }, "]}}]"),
	"ports, in block":            fill("rules:\n- name: a\n  match:\n    dport:\n", same("    - 1\n"), ""),
	"ports, ranges":              fill("rules: [{name: a, match: {dport: [", func(i int) string { return fmt.Sprintf("%d-%d,", i*7%60000+1, i*7%60000+i%9+2) }, "]}}]"),
	"ports out of range":         fill("rules: [{name: a, match: {dport: [", same("0,"), "]}}]"),
	"port of 1 MB":               fill("rules: [{name: a, match: {dport: ", same("1"), "}}]"),
	"port a name":                fill("rules: [{name: a, match: {dport: [", numbered("s%d,"), "]}}]"),
	"port a name of 1 MB":        fill("rules: [{name: a, match: {dport: ", same("s"), "}}]"),
	"addresses":                  fill("rules: [{name: a, match: {dst: [", func(i int) string { return fmt.Sprintf("10.%d.%d.%d,", i>>16, i>>8&255, i&255) }, "]}}]"),
	"addresses, wrong":           fill("rules: [{name: a, match: {dst: [", same("a,"), "]}}]"),
	"address of 1 MB":            fill("rules: [{name: a, match: {dst: \"", same("1:"), "\"}}]"),
	"users unknown":              fill("rules: [{name: a, match: {user: [", same("u,"), "]}}]"),
	"user of 1 MB":               fill("rules: [{name: a, match: {user: ", same("u"), "}}]"),
	"users, numbers":             fill("rules: [{name: a, match: {user: [", numbered("%d,"), "]}}]"),
	"verdicts":                   fill("rules: [{name: a, match: {verdict: [", same("eof-unread,"), "]}}]"),
	"verdicts, wrong":            fill("rules: [{name: a, match: {verdict: [", same("eof,"), "]}}]"),
	"verdict of 1 MB":            fill("rules: [{name: a, match: {verdict: ", same("v"), "}}]"),
	"duration of 1 MB":           fill("rules: [{name: a, match: {in_state_for: ", same("1h"), "}}]"),
	"duration of digits":         fill("rules: [{name: a, match: {in_state_for: ", same("1"), "}}]"),
	"boolean of 1 MB":            fill("rules: [{name: a, match: {in_backlog: ", same("t"), "}}]"),
	"threshold of 1 MB":          fill("rules: [{name: a, match: {unread: \"", same(">"), "\"}}]"),
	"rate of 1 MB":               fill("settings: {limit: ", same("1"), "}\nrules: []"),
	"percentage of 1 MB":         fill("settings: {cpu_budget: ", same("1"), "%}\nrules: []"),
	"filters":                    fill("rules: [{name: a, match: {filter: [", same("dport=1,"), "]}}]"),
	"filters, wrong":             fill("rules: [{name: a, match: {filter: [", same("x,"), "]}}]"),
	"filters, mixed":             fill("rules: [{name: a, match: {filter: [", same("dev = a and dev = b or dev = c,"), "]}}]"),
	"filters of 60 KB": fill("rules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {filter: \"dport = 1%s\"}}\n", i, strings.Repeat(" or dport = 2", 4600))
	}, ""),
	"filters of 60 KB, nested": fill("rules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {filter: \"dport = 1%s\"}}\n", i, strings.Repeat(" and (dev = a or dev = b)", 2400))
	}, ""),
	"filters of 60 KB, late error": fill("rules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {filter: \"dport = 1%s x\"}}\n", i, strings.Repeat(" and dev = b", 4600))
	}, ""),
	"filters with errors on one line": fill("rules: [", numbered("{name: a%d, match: {filter: \"dport = 1 and x\"}},"), "]"),
	"filter of 1 MB":                  fill("rules: [{name: a, match: {filter: \"dport = 1", same(" or dport = 2"), "\"}}]"),
	"filters with ports":              fill("rules: [{name: a, match: {filter: [", func(i int) string { return fmt.Sprintf("dport=%d and dst 10.0.%d.%d,", i%65536, i>>8&255, i&255) }, "]}}]"),
	"rules":                           fill("rules:\n", numbered("- {name: a%d, match: {state: close-wait, dport: 80, in_state_for: 5m}, then: [kill]}\n"), ""),
	"rules, small":                    fill("rules: [", numbered("{name: a%d,match: {dport: 1}},"), "]"),
	"rules, not mappings":             fill("rules: [", same("a,"), "]"),
	"rules, empty":                    fill("rules: [", same("{},"), "]"),
	"rules, in block":                 fill("rules:\n", same("- a\n"), ""),
	"rules of one name":               fill("rules:\n", same("- {name: a, match: {dport: 1}}\n"), ""),
	"rules, 1000, that overlap": fill("rules:\n", func(i int) string {
		if i > 999 {
			return "#\n"
		}
		return fmt.Sprintf("- {name: a%d, match: {state: close-wait, dport: %d, in_state_for: 5m}, then: [kill]}\n", i, i+1)
	}, ""),
	"rules, 900, that overlap in lists": fill("rules:\n", func(i int) string {
		var b strings.Builder
		for j := range 150 {
			fmt.Fprintf(&b, "%d,", 1+(i*37+j*2)%60000)
		}
		return fmt.Sprintf("- {name: a%d, match: {state: close-wait, dport: [%s], in_state_for: 5m}, then: [kill]}\n", i, b.String())
	}, ""),
	"rules, 999, by an alias": fill("x-p: &p ["+strings.Repeat("1,", 99)+"1]\nrules:\n", func(i int) string {
		if i > 998 {
			return "#\n"
		}
		return fmt.Sprintf("- {name: a%d, match: {state: close-wait, dst: 10.0.0.%d, dport: *p, in_state_for: 5m}, then: [kill]}\n", i, i%256)
	}, ""),
	"matches of one rule": fill("rules:\n- name: a\n  then: [kill]\n  match:\n", numbered("  - {state: close-wait, in_state_for: %ds}\n"), ""),
	"matches of two rules": fill("rules:\n- name: a\n  then: [kill]\n  match:\n"+
		times(6000, func(i int) string {
			return fmt.Sprintf("  - {state: close-wait, dst: 10.1.%d.%d, in_state_for: 5m}\n", i>>8, i&255)
		})+
		"- name: b\n  then: [kill]\n  match:\n",
		func(i int) string {
			return fmt.Sprintf("  - {state: close-wait, dst: 10.2.%d.%d, in_state_for: 5m}\n", i>>8, i&255)
		}, ""),
	"protect and a match each": fill("protect:\n"+times(12000, func(i int) string { return fmt.Sprintf("- src 10.1.%d.%d\n", i>>8, i&255) })+
		"rules:\n- name: a\n  then: [kill]\n  match:\n",
		func(i int) string {
			return fmt.Sprintf("  - {state: close-wait, dst: 10.2.%d.%d, in_state_for: 5m}\n", i>>8, i&255)
		}, ""),
	"protect":          fill("protect: [", same("dport=1,"), "]\nrules: []"),
	"actions":          fill("rules:\n- name: a\n  match: {dport: 1}\n  then: [", same("log,"), "]\n"),
	"actions, wrong":   fill("rules:\n- name: a\n  match: {dport: 1}\n  then: [", same("x,"), "]\n"),
	"action of 1 MB":   fill("rules:\n- name: a\n  match: {dport: 1}\n  then: ", same("x"), "\n"),
	"alerts":           fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n- name: a\n  match: {dport: 1}\n  when: count > 1\n  then: [", numbered("{alert: {severity: s%d}},"), "]\n"),
	"alerts, the same": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n- name: a\n  match: {dport: 1}\n  when: count > 1\n  then: [", same("alert,"), "]\n"),
	"alerts to many": fill("receivers:\n"+times(8000, numbered("  r%d: {webhook: {url: http://a/}}\n"))+
		"rules:\n- name: a\n  match: {dport: 1}\n  when: count > 1\n  then:\n  - alert:\n      to: [", numbered("r%d,"), "]\n"),
	"alerts to nobody":          fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n- name: a\n  match: {dport: 1}\n  when: count > 1\n  then:\n  - alert:\n      to: [", numbered("r%d,"), "]\n"),
	"labels":                    fill("rules:\n- name: a\n  match: {dport: 1}\n  labels:\n", numbered("    l%d: x\n"), ""),
	"labels, wrong":             fill("rules:\n- name: a\n  match: {dport: 1}\n  labels: {", numbered("%d,"), "}\n"),
	"label of 1 MB":             fill("rules:\n- name: a\n  match: {dport: 1}\n  labels: {l: ", same("x"), "}\n"),
	"alerts of two labels each": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n- name: a\n  match: {dport: 1}\n  when: count > 1\n  then: [", numbered("{alert: {labels: {l: a%d}}},"), "]\n"),
	"templates": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {dport: 1}, when: count > 1, then: {alert: {summary: \"{{.Count}}\"}}}\n", i)
	}, ""),
	"templates of 8 KB": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {dport: 1}, when: count > 1, then: {alert: {summary: \"%s\"}}}\n", i, strings.Repeat("{{printf `%d` .Count}}", 370))
	}, ""),
	"bodies of 8 KB": fill("rules: []\nreceivers:\n", func(i int) string {
		return fmt.Sprintf("  r%d: {webhook: {url: http://a, body: '[%s%d]'}}\n", i, strings.Repeat("{{if .Firing}}1,{{end}}", 30)+strings.Repeat("{{json .Text}},", 480), i)
	}, ""),
	"bodies, the same": fill("rules: []\nreceivers:\n", numbered("  r%d: {webhook: {url: http://a, body: '{{json .}}'}}\n"), ""),
	"bodies, wrong":    fill("rules: []\nreceivers:\n", numbered("  r%d: {webhook: {url: http://a, body: '{{json .Foo}} %[1]d'}}\n"), ""),
	"templates of 8 KB, wrong": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {dport: 1}, when: count > 1, then: {alert: {summary: \"%s\"}}}\n", i, strings.Repeat("{{.Cont}}", 800))
	}, ""),
	"templates of 8 KB, keys": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {dport: 1}, when: count > 1, then: {alert: {summary: \"%s\"}}}\n", i, strings.Repeat("{{.Group.x}}", 680))
	}, ""),
	"templates of 8 KB, in a block": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n", func(i int) string {
		return fmt.Sprintf("- name: a%d\n  match: {dport: 1}\n  when: count > 1\n  then:\n    alert:\n      summary: |\n%s", i, strings.Repeat("        {{.Cont}}\n", 580))
	}, ""),
	"template of 1 MB": fill("rules:\n- name: a\n  match: {dport: 1}\n  when: count > 1\n  then: {alert: {summary: \"", same("{{.Count}}"), "\"}}\n"),
	"template nested": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {dport: 1}, when: count > 1, then: {alert: {summary: \"%s%s\"}}}\n", i, strings.Repeat("{{if .Count}}", 380), strings.Repeat("{{end}}", 380))
	}, ""),
	"template with parentheses": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {dport: 1}, when: count > 1, then: {alert: {summary: \"{{%s.Count%s}}\"}}}\n", i, strings.Repeat("(print ", 1000), strings.Repeat(")", 1000))
	}, ""),
	"template with variables": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {dport: 1}, when: count > 1, then: {alert: {summary: \"%s\"}}}\n", i, strings.Repeat("{{$a := 1}}{{$a}}", 450))
	}, ""),
	"conditions":                         fill("rules:\n- name: a\n  match: {dport: 1}\n  when: [", same("count>1,"), "]\n"),
	"conditions, wrong":                  fill("rules:\n- name: a\n  match: {dport: 1}\n  when: [", same("x,"), "]\n"),
	"condition of 1 MB":                  fill("rules:\n- name: a\n  match: {dport: 1}\n  when: count > ", same("1"), "\n"),
	"conditions that hold less and less": fill("rules:\n- name: a\n  match: {dport: 1}\n  when: [", numbered("count > %d,"), "]\n"),
	"until many":                         fill("rules:\n- name: a\n  match: {dport: 1}\n  when: count > 5\n  until: [", same("count<1,"), "]\n"),
	"group_by":                           fill("rules:\n- name: a\n  match: {dport: 1}\n  when: port_usage > 1%\n  group_by: [", same("user,"), "]\n"),
	"group_by and conditions":            fill("rules:\n- name: a\n  match: {dport: 1}\n  when: ["+strings.Repeat("port_usage>1%,", 30000)+"]\n  group_by: [", same("user,"), "]\n"),
	"backlog_usage and matches":          fill("rules:\n- name: a\n  when: ["+strings.Repeat("backlog_usage>1%,", 20000)+"]\n  match: [", same("{dport: 1},"), "]\n"),
	"group_by and labels":                fill("rules:\n- name: a\n  match: {dport: 1}\n  when: count > 1\n  labels: {user: a}\n  group_by: [", same("user,"), "]\n"),
	"receivers":                          fill("receivers:\n", numbered("  r%d: {webhook: {url: http://a/}}\n"), "rules: []\n"),
	"receivers, wrong":                   fill("receivers:\n", numbered("  R%d: {}\n"), "rules: []\n"),
	"receivers, in flow":                 fill("receivers: {", numbered("R%d,"), "}\nrules: []\n"),
	"headers":                            fill("receivers:\n  r:\n    webhook:\n      url: http://a/\n      headers:\n", numbered("        H%d: a\n"), "rules: []\n"),
	"headers, wrong":                     fill("receivers: {r: {webhook: {url: http://a/, headers: {", numbered("(%d: a,"), "}}}}\nrules: []\n"),
	"urls":                               fill("receivers: {r: {webhook: {urls: [", numbered("http://a/%d,"), "]}}}\nrules: []\n"),
	"urls, wrong":                        fill("receivers: {r: {webhook: {urls: [", same("a,"), "]}}}\nrules: []\n"),
	"url of 1 MB":                        fill("receivers: {r: {webhook: {url: http://a/", same("x"), "}}}\nrules: []\n"),
	"version of 1 MB":                    fill("version: ", same("1"), "\nrules: []\n"),
	"namespaces of 1 MB":                 fill("settings: {namespaces: ", same("x"), "}\nrules: []\n"),
	"name of 1 MB":                       fill("rules: [{name: ", same("x"), ", match: {dport: 1}}]\n"),
	"description of 1 MB":                fill("rules: [{name: a, match: {dport: 1}, description: ", same("x"), "}]\n"),
	"description in a block":             fill("rules:\n- name: a\n  match: {dport: 1}\n  description: |\n", same("    x\n"), ""),
	"description in many lines":          fill("rules:\n- name: a\n  match: {dport: 1}\n  description: a\n", same("    x\n"), ""),
	"line of 1 MB with mistakes":         fill("rules: [", numbered("{name: a%d,match: {stat: x}},"), "]"),
	"line of 1 MB, wide":                 fill("rules: [", numbered("{name: a%d, match: {stat: 日本日本日本}},"), "]"),
	"line of 1 MB in receivers":          fill("rules: [], receivers: {", numbered("a%d: {x: y},"), "}"),
	"lists, deep":                        fill("rules: ", same("["), ""),
	"lists, deep, 9000":                  func(int) string { return "rules: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) },
	"lists, deep, often":                 fill("rules: [", same(strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+","), "]"),
	"mappings, deep, 9000":               func(int) string { return "rules: " + strings.Repeat("{a: ", 9000) + strings.Repeat("}", 9000) },
	"lists, deep, in block":              fill("rules:\n", same("- "), ""),
	"mappings, deep, in block":           fill("rules:\n", func(i int) string { return strings.Repeat(" ", i+1) + "a:\n" }, ""),
	"keys, deep":                         fill("rules:\n", same("? "), ""),
	"braces":                             fill("rules: ", same("{"), ""),
	"comments":                           fill(one, same("#\n"), ""),
	"comments before":                    fill("", same("#\n"), one),
	"comments, indented":                 fill("rules:\n- name: a\n", same("  # x\n"), "  match: {dport: 1}\n"),
	"comments, after values":             fill("rules: []\nx-a:\n", same("- 1 # x\n"), ""),
	"comments with blank lines":          fill("rules: []\nx-a:\n- 1\n", same("# x\n\n"), "- 1\n"),
	"comment of 1 MB":                    fill("rules: [] #", same("#"), ""),
	"blank lines":                        fill("rules: []\n", same("\n"), ""),
	"blanks":                             fill("rules: []\n", same(" "), "\n"),
	"blanks in lines":                    fill("rules: []\n", same(" \n"), ""),
	"carriage returns":                   fill("rules: []\r\n", same("\r\n"), ""),
	"tabs":                               fill("rules:\n", same("\t"), "- a\n"),
	"anchors":                            fill("x-a: [", numbered("&a%d 1,"), "]\nrules: []\n"),
	"anchors without blanks":             fill("x-a: [", same("&a[],"), "]\nrules: []\n"),
	"tags without blanks":                fill("x-a: [", same("!a,"), "]\nrules: []\n"),
	"aliases of a rule":                  fill("x-r: &r {name: a, match: {stat: close-wait, dport: 0}, then: [kill]}\nrules: [", same("*r,"), "]\n"),
	"aliases of a receiver":              fill("x-r: &r {webhook: {url: ftp://a, tls: {cert_file: a}, basic_auth: {user: a}}}\nrules: []\nreceivers:\n", numbered("  r%d: *r\n"), ""),
	"aliases of labels": fill("x-l: &l {"+times(400, numbered("l%d: a, "))+"z: a}\nreceivers: {c: {webhook: {url: http://a}}}\nrules:\n- name: a\n  match: {dport: 1}\n  when: count > 1\n  then:\n",
		same("  - alert: {labels: *l}\n"), ""),
	"templates of wrong keys": fill("receivers: {c: {webhook: {url: http://a}}}\nrules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {dport: 1}, when: count > 1, then: {alert: {summary: \"%s\"}}}\n", i, strings.Repeat("{{.Group.x}}", 20))
	}, ""),
	"aliases of a filter":   fill("x-a: &a \"dport = 1"+strings.Repeat(" or dport = 2", 4600)+"\"\nrules: [{name: a, match: {filter: [", same("*a,"), "]}}]\n"),
	"aliases of a template": fill("x-a: &a \""+strings.Repeat("{{printf `%d` .Count}}", 370)+"\"\nreceivers: {c: {webhook: {url: http://a}}}\nrules: [", numbered("{name: a%d,match: {dport: 1},when: count>1,then: {alert: {summary: *a}}},"), "]\n"),
	"anchors, nested, with aliases": fill("receivers: {a: "+times(5000, numbered("&a%d ["))+strings.Repeat("1,", 30000)+strings.Repeat("]", 5000)+", b: [",
		func(i int) string { return fmt.Sprintf("*a%d,", i%5000) }, "]}\nrules: []\n"),
	"filters, and": fill("rules:\n", func(i int) string {
		return fmt.Sprintf("- {name: a%d, match: {filter: \"dev = a%s%s\"}}\n", i, strings.Repeat(" and dev = b", 2500), strings.Repeat(" and dport = 1", 2200))
	}, ""),
	"anchors of one name":        fill("x-a: [", same("&a 1,"), "]\nrules: []\n"),
	"aliases":                    fill("x-a: &a 1\nrules: [{name: a, match: {dport: [", same("*a,"), "]}}]\n"),
	"aliases, in receivers":      fill("x-a: &a 1\nrules: []\nreceivers: [", same("*a,"), "]\n"),
	"aliases of a list":          fill("x-a: &a ["+strings.Repeat("1,", 1000)+"]\nrules: [", numbered("{name: a%d, match: {dport: *a}},"), "]\n"),
	"aliases of a mapping":       fill("x-a: &a {"+strings.Repeat("k: 1,", 1000)+"}\nrules: [", same("*a,"), "]\n"),
	"alias in itself":            fill("x-a: &a [", same("*a,"), "]\nrules: *a\n"),
	"alias chain":                fill("receivers:\n  r0: &a0 {webhook: {url: http://a}}\n", func(i int) string { return fmt.Sprintf("  r%d: &a%d {b: *a%d}\n", i+1, i+1, i) }, "rules: []\n"),
	"alias unknown":              fill("rules: *", same("a"), "\n"),
	"anchor of 1 MB":             fill("rules: &", same("a"), " []\n"),
	"merges":                     fill("x-a: &a {state: close-wait}\nrules:\n", numbered("- {name: a%d, match: {<<: *a, dport: 1}}\n"), ""),
	"merges in one":              fill("x-a: &a {state: close-wait}\nrules: [{name: a, match: {<<: [", same("*a,"), "]}}]\n"),
	"merge of a large mapping":   fill("x-a: &a {"+strings.Repeat("x: 1,", 1000)+"}\nrules: [{name: a, match: {<<: [", same("*a,"), "]}}]\n"),
	"tags":                       fill("rules: [", same("!a b,"), "]\n"),
	"tags, alone":                fill("rules: [", same("! ,"), "]\n"),
	"tags behind anchors":        fill("rules:\n", same("- &a\n"), ""),
	"anchors before blank lines": fill("rules:\n- &a\n"+strings.Repeat("\n", 500000)+" b\n", same("- &a b\n"), ""),
	"nulls":                      fill("rules: [{name: a, match: {state: [", same("~,"), "]}}]\n"),
	"nulls, at the top":          fill("rules: []\n", numbered("x%d:\n"), ""),
	"nulls, in keys":             fill("rules: [{name: a, match: {", same("~,"), "}}]\n"),
	"documents":                  fill("rules: []\n", same("---\n"), ""),
	"quotes":                     fill("rules: [", same("'',"), "]\n"),
	"quote not closed":           fill("rules: '", same("x"), "\n"),
	"quotes in quotes":           fill("rules: '", same("''"), "'\n"),
	"escapes":                    fill("rules: \"", same(`\x41`), "\"\n"),
	"escapes in filters":         fill("rules:\n", numbered("- {name: a%d, match: {filter: \"dport = 1\\nand\\nx\"}}\n"), ""),
	"wrong character at the end": fill("rules: []\n#", same("日"), "\x01\n"),
	"not UTF-8":                  fill("", same("\xff"), ""),
	"directives":                 fill("", same("%A b\n"), "--- \nrules: []\n"),
	"colons":                     fill("rules: [", same("a:b,"), "]\n"),
	"keys on lines of their own": fill("rules:\n", same("a\n"), ""),
	"keys later":                 fill("rules: [{name: a, match: [", same("{pod: a},"), "]}]\n"),
	"times in exclude":           fill("rules: [{name: a, match: {dport: 1}, exclude: [", same("{idle_for: 5m},"), "]}]\n"),
	"kills without time":         fill("rules: [{name: a, then: [kill], match: [", same("{},"), "]}]\n"),
	"lint of dry_run":            fill("rules:\n", numbered("- {name: a%d, match: {dport: 1}, dry_run: true}\n"), ""),
	"lint of bounds":             fill("rules: [{name: a, then: [kill], match: [", same("{state: time-wait, in_state_for: 1s},"), "]}]\n"),
}

// judge finds all that is wrong or unwise in a file, and says it.
func judge(text []byte) (problems, warnings Problems, said string) {
	warnings, err := Lint(bytes.NewReader(text))
	problems, _ = errors.AsType[Problems](err)
	return problems, warnings, problems.Report("f") + problems.Error() + warnings.Report("f")
}

// TestLargestFilesAreJudged holds that no file takes much to judge. It compares with what
// the decoder takes for a long list, and counts what is allocated: each is of the kind
// that once took minutes, gigabytes, or said megabytes.
func TestLargestFilesAreJudged(t *testing.T) {
	list := []byte("rules: [{name: a, match: {dport: [" + strings.Repeat("1,", document.MaxValues-100) + "]}}]")
	judge(list)
	begun := cpu()
	judge(list)
	usual := cpu() - begun

	for name, make := range largest {
		t.Run(name, func(t *testing.T) {
			text := []byte(make(document.MaxValues / shrunk))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begun := cpu()
			problems, warnings, said := judge(text)
			used := cpu() - begun
			runtime.ReadMemStats(&after)
			if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 128<<20 {
				t.Errorf("%d bytes are allocated", allocated)
			}
			if len(problems) > document.MaxProblems || len(warnings) > document.MaxProblems || len(said) > 200_000 {
				t.Errorf("%d problems and %d warnings are told in %d bytes", len(problems), len(warnings), len(said))
			}
			for _, p := range append(problems, warnings...) {
				if len(p.Msg) > message.MaxBytes+len("...") {
					t.Errorf("a message has %d bytes: %s", len(p.Msg), p.Msg)
				}
			}
			const times = 20
			for range 4 { // whatever else the machine did meanwhile
				if used > times*usual {
					begun := cpu()
					judge(text)
					used = cpu() - begun
				}
			}
			if used > times*usual {
				t.Errorf("it takes %v, and a list of ports %v", used, usual)
			}
		})
	}
}

// TestValuesAreCut: what a message repeats of a value is short, and the cure stands
// behind it.
func TestValuesAreCut(t *testing.T) {
	long := strings.Repeat("x", 900_000)
	cut := strings.Repeat("x", message.MaxValue) + "..."
	for text, want := range map[string]string{
		"rules: [{name: a, match: {in_state_for: " + long + "}}]": `"` + cut + `" is not a duration: write numbers with units, such as 30s, 5m, 1h30m or 2d`,
		"rules: [{name: a, match: {verdict: " + long + "}}]":      `unknown value "` + cut + `" in verdict: choose one of eof-unread, eof-read-not-closed, unread-data, still-sending, in-backlog`,
		"rules: [{name: " + long + ", match: {dport: 1}}]":        `"` + cut + `" is not a name for a rule: write up to 100 of a-z, 0-9 and -`,
		"version: " + long + "\nrules: []":                        "unknown format version " + cut + ": this sockdog reads version 1",
		"rules: [{name: a, match: {in_backlog: " + long + "}}]":   `true or false belongs here, not "` + cut + `"`,
		"rules: *" + long: "this alias has no anchor &" + cut + " before it",
	} {
		_, err := Parse(strings.NewReader(text))
		problems, _ := errors.AsType[Problems](err)
		if len(problems) != 1 || problems[0].Msg != want {
			t.Errorf("it is said: %.2000s\nwant %s", err, want)
		}
	}
}

// TestFirstProblemsAreTold: they are the first in the file, in whatever order they are
// found, and each is counted once.
func TestFirstProblemsAreTold(t *testing.T) {
	text := "x-match: &m {stat: close-wait}\nrules:\n" +
		strings.Repeat("- {name: a, match: *m}\n", 150) + // one mistake, found often
		strings.Repeat("- {name: b, match: {dport: 0}, then: [kill]}\n", 70)
	_, err := Parse(strings.NewReader(text))
	problems, _ := errors.AsType[Problems](err)
	// The key once, of each name all but the first, and of each dport two mistakes.
	if want := 1 + 149 + 69 + 3*70; problems.Count() != want || len(problems) != document.MaxProblems {
		t.Errorf("%d of %d problems are told, want %d of %d", len(problems), problems.Count(), document.MaxProblems, want)
	}
	for i, p := range problems {
		if want := max(1, i+3); p.Line != want && i > 0 {
			t.Errorf("problem %d stands on line %d: %s", i, p.Line, p.Msg)
			break
		}
	}
}

// peak runs f and returns by how much the heap was larger at most than before it.
func peak(f func()) uint64 {
	old := debug.SetGCPercent(100)
	defer debug.SetGCPercent(old)
	runtime.GC()
	sample := []runtimemetrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	runtimemetrics.Read(sample)
	before := sample[0].Value.Uint64()
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		most := before
		for {
			runtimemetrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
			select {
			case <-stop:
				done <- most - before
				return
			case <-time.After(500 * time.Microsecond):
			}
		}
	}()
	f()
	close(stop)
	return <-done
}

// cpu is the time that the process has used.
func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkLargest judges the largest files there are of each kind: by their bytes, and
// by their values where they would be refused for these.
func BenchmarkLargest(b *testing.B) {
	for _, name := range slices.Sorted(maps.Keys(largest)) {
		for _, most := range []int{math.MaxInt, document.MaxValues} {
			text := []byte(largest[name](most))
			if most == document.MaxValues && document.CountValues(largest[name](math.MaxInt)) <= document.MaxValues {
				continue
			}
			b.Run(fmt.Sprintf("%s/%dKB", strings.ReplaceAll(name, " ", "_"), len(text)>>10), func(b *testing.B) {
				b.ReportAllocs()
				var kept, length int
				var most uint64
				var used time.Duration
				for b.Loop() {
					before := cpu()
					most = max(most, peak(func() {
						problems, _, said := judge(text)
						kept, length = problems.Count(), len(said)
					}))
					used += cpu() - before
				}
				b.ReportMetric(float64(most)/(1<<20), "peakMB")
				b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms")
				b.ReportMetric(float64(kept), "problems")
				b.ReportMetric(float64(length), "said")
			})
		}
	}
}
