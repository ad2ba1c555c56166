package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parseKeys reads --group-by: names of columns, with commas between them.
func parseKeys(text string) ([]*column, error) {
	if text == "" {
		return nil, nil
	}
	var keys []*column
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		c, err := columnNamed(name, "group by", groupable)
		if err != nil {
			return nil, err
		}
		if slices.Contains(keys, c) {
			return nil, fmt.Errorf("--group-by names %s twice", name)
		}
		keys = append(keys, c)
	}
	return keys, nil
}

// group is the sockets that have the values of some columns in common.
type group struct {
	values         []string
	count          int
	rqueue, wqueue uint64
	oldest         time.Duration
	known, exact   bool // of oldest: of any, of every one
}

// groups counts the sockets by those columns, the largest group first.
func (c *crowd) groups(keys []*column) []*group {
	byText := make(map[string]*group)
	var list []*group
	var text []byte
	ends := make([]int, len(keys))
	for _, r := range c.rows {
		text = text[:0]
		for k, key := range keys {
			text = key.print(c, text, r)
			ends[k] = len(text)
			text = append(text, 0)
		}
		g := byText[string(text)]
		if g == nil {
			g = &group{exact: true}
			begin := 0
			for _, end := range ends {
				g.values = append(g.values, string(text[begin:end]))
				begin = end + 1
			}
			byText[string(text)] = g
			list = append(list, g)
		}
		g.count++
		g.rqueue += uint64(r.rqueue)
		g.wqueue += uint64(r.wqueue)
		g.oldest = max(g.oldest, r.inState)
		g.known = g.known || r.known
		g.exact = g.exact && r.exact
	}
	slices.SortFunc(list, func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(b.oldest, a.oldest), slices.Compare(a.values, b.values))
	})
	return list
}

// printGroups prints a line for each group, or an object under the names of the
// columns. A narrow terminal goes without the queues.
func (l *listing) printGroups(out io.Writer, screen screen) error {
	groups := l.crowd.groups(l.keys)
	if l.output == "json" {
		var objects []map[string]any
		for _, g := range groups {
			objects = append(objects, g.object(l.keys))
		}
		return printJSON(out, objects)
	}
	header := []string{"COUNT"}
	for _, key := range l.keys {
		header = append(header, key.head)
	}
	header = append(header, "RECV-Q", "SEND-Q", "OLDEST")
	if l.bare {
		header = nil
	}
	var rows [][]string
	for _, g := range groups {
		cells := append([]string{strconv.Itoa(g.count)}, g.values...)
		rows = append(rows, append(cells, strconv.FormatUint(g.rqueue, 10), strconv.FormatUint(g.wqueue, 10),
			string(appendAge(nil, g.oldest, g.known, g.exact))))
	}
	queues := len(l.keys) + 1
	return printTable(out, header, rows, screen.width, queues+1, queues)
}

// object is the group in -o json; what is not known is absent.
func (g *group) object(keys []*column) map[string]any {
	o := map[string]any{"count": g.count, "rqueue": g.rqueue, "wqueue": g.wqueue, "bound": !g.exact}
	if g.known {
		o["oldest"] = seconds(g.oldest)
	}
	for i, key := range keys {
		value := g.values[i]
		switch n, err := strconv.ParseUint(value, 0, 64); {
		case value == "-":
		case key.number && err == nil:
			o[key.name] = n
		case key.name == "state":
			o[key.name] = strings.ToLower(value)
		default:
			o[key.name] = value
		}
	}
	return o
}
