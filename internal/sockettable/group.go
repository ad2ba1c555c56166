package sockettable

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sockdog/sockdog/internal/term"
)

// ParseKeys reads --group-by: names of columns, with commas between them.
func ParseKeys(text string) ([]*Column, error) {
	if text == "" {
		return nil, nil
	}
	var keys []*Column
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		c, err := columnNamed(name, "group by", Groupable())
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
func (t *Table) groups(keys []*Column) []*group {
	byText := make(map[string]*group)
	var list []*group
	var text []byte
	for _, r := range t.rows {
		text = text[:0]
		for _, key := range keys {
			text = append(key.append(t, text, r), 0)
		}
		g := byText[string(text)]
		if g == nil {
			g = &group{exact: true, values: strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")}
			byText[string(text)] = g
			list = append(list, g)
		}
		g.count++
		g.rqueue += uint64(r.RQueue)
		g.wqueue += uint64(r.WQueue)
		g.oldest = max(g.oldest, r.InState)
		g.known = g.known || r.Known
		g.exact = g.exact && r.Exact
	}
	slices.SortFunc(list, func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(b.oldest, a.oldest), slices.Compare(a.values, b.values))
	})
	return list
}

// printGroups prints a line for each group, the largest first. A narrow terminal goes
// without the queues.
func (t *Table) printGroups(out io.Writer, v *View) error {
	groups := t.groups(v.Keys)
	heads := slices.Concat([]string{"COUNT"}, headsOf(v.Keys), []string{"RECV-Q", "SEND-Q", "OLDEST"})
	rows := term.NewTable(heads...)
	rows.Columns[len(heads)-2].Spare, rows.Columns[len(heads)-3].Spare = 1, 2
	for _, g := range groups[:v.most(len(groups))] {
		rows.Row(strconv.Itoa(g.count))
		rows.Row(g.values...)
		rows.Row(strconv.FormatUint(g.rqueue, 10), strconv.FormatUint(g.wqueue, 10))
		rows.Add(AppendAge(rows.Buffer(), g.oldest, g.known, g.exact))
	}
	return v.print(out, rows, len(groups))
}

// printGroupsJSON prints an object for each group, under the names of the columns; what
// is not known is absent.
func (t *Table) printGroupsJSON(out io.Writer, keys []*Column) error {
	var objects []map[string]any
	for _, g := range t.groups(keys) {
		o := map[string]any{"count": g.count, "rqueue": g.rqueue, "wqueue": g.wqueue, "bound": !g.exact}
		if g.known {
			o["oldest"] = Seconds(g.oldest)
		}
		for i, key := range keys {
			value := g.values[i]
			switch n, err := strconv.ParseUint(value, 0, 64); {
			case value == "-":
			case key.number != nil && err == nil:
				o[key.Name] = n
			case key.Name == "state":
				o[key.Name] = strings.ToLower(value)
			default:
				o[key.Name] = value
			}
		}
		objects = append(objects, o)
	}
	return term.JSONOf(out, objects)
}
