package sockettable

import (
	"fmt"
	"io"
	"slices"

	"github.com/sockdog/sockdog/internal/term"
)

// View is how a table is shown.
type View struct {
	Order    Order
	Keys     []*Column // to group by
	Summary  bool      // counts by state alone
	JSON     bool
	Fields   Fields // in JSON, of each socket
	Wide     bool   // more columns of each socket
	Holders  bool   // the usual columns, and who holds each socket
	Room     bool   // the same, as far as the lines have room for that
	Netns    bool   // the network namespace of each socket, too
	Headings bool
	Most     int // rows at most; 0: all
	Cells    int // in a line; 0: no bound
}

// Walks reports whether the view takes a walk through /proc.
func (v *View) Walks() bool {
	held := func(c *Column) bool { return c.Held }
	switch {
	case v.Summary:
		return false
	case len(v.Keys) > 0:
		return slices.ContainsFunc(v.Keys, held)
	default:
		return v.JSON && v.Fields.Held || v.Order.By.Held || !v.JSON && slices.ContainsFunc(v.columns(), held)
	}
}

func (v *View) columns() []*Column {
	columns := usual
	switch {
	case v.Wide:
		columns = wide
	case v.Holders:
		columns = append(slices.Clone(usual), holderColumn)
	case v.Room:
		columns = append(slices.Clone(usual), spareHolderColumn)
	}
	if v.Netns {
		columns = append([]*Column{netnsColumn}, columns...)
	}
	return columns
}

// Print prints the table.
func (t *Table) Print(out io.Writer, v *View) error {
	switch {
	case v.Summary:
		return t.printSummary(out, v)
	case len(v.Keys) > 0 && v.JSON:
		return t.printGroupsJSON(out, v.Keys)
	case len(v.Keys) > 0:
		return t.printGroups(out, v)
	}
	t.sort(v.Order)
	if v.JSON {
		return term.JSON(out, func(yield func(any) bool) {
			for _, r := range t.rows {
				if l := t.listed(r); !yield(v.Fields.of(&l)) {
					return
				}
			}
		})
	}
	columns := v.columns()
	if v.Wide && slices.ContainsFunc(t.rows, func(r *row) bool { return t.owner(r).PodName() != "" }) {
		at := 1 + slices.Index(columns, holderColumn)
		columns = slices.Insert(slices.Clone(columns), at, columnsOf("pod")...)
	}
	return t.printSockets(out, v, columns)
}

// printSockets prints a line for each socket.
func (t *Table) printSockets(out io.Writer, v *View, columns []*Column) error {
	rows := t.lines(columns, v.most(len(t.rows)))
	t.layOut(rows, columns, v.Order.By)
	return v.print(out, rows, len(t.rows))
}

// lines returns the cells of the first n sockets.
func (t *Table) lines(columns []*Column, n int) *term.Table {
	rows := term.NewTable(headsOf(columns)...)
	rows.Grow(n)
	for _, r := range t.rows[:n] {
		for _, c := range columns {
			rows.Add(c.append(t, rows.Buffer(), r))
		}
	}
	return rows
}

// HasRoom reports whether lines on a terminal have room for the holder beside the usual
// columns, judged by the first sockets: else no walk is to be made for it.
func (t *Table) HasRoom(v *View) bool {
	const judged = 1000
	const holder = 16 // cells for a name, a number and the blanks before them
	if v.Cells == 0 || v.JSON || v.Wide || v.Summary || len(v.Keys) > 0 {
		return false
	}
	usual := *v
	usual.Room = false
	return t.lines(usual.columns(), min(judged, len(t.rows))).Width()+holder <= v.Cells
}

// most returns how many of n rows are shown.
func (v *View) most(n int) int {
	if v.Most > 0 {
		return min(n, v.Most)
	}
	return n
}

// print prints the rows, and how many more there are.
func (v *View) print(out io.Writer, rows *term.Table, n int) error {
	rows.Bare = !v.Headings
	err := rows.Print(out, v.Cells)
	if more := n - v.most(n); more > 0 && err == nil {
		_, err = fmt.Fprintf(out, "... and %d more\n", more)
	}
	return err
}

// layOut says what a narrow terminal goes without: beside columns that tell little,
// verdicts where there are none, and at last a state that all have in common. What the
// rows are sorted by stays.
func (t *Table) layOut(rows *term.Table, columns []*Column, by *Column) {
	for i, c := range columns {
		column := &rows.Columns[i]
		column.Whole, column.Spare = !c.narrows, c.spare
		switch {
		case c == by, c.Name == "state" && len(t.states.States()) > 1:
			column.Spare = 0
		case c.Name == "verdict" && !t.remarks:
			column.Spare = 5
		}
	}
}
