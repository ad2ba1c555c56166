package sockettable

import (
	"errors"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// Of each socket those fields are printed that were chosen, in that order; what is not known
// is absent.
func TestFields(t *testing.T) {
	oldest, err := ParseOrder("age", false)
	if err != nil {
		t.Fatal(err)
	}
	view := View{Order: oldest, JSON: true}
	if view.Fields, err = ParseFields("in_state_for, comm,rqueue"); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := sightings(t).Print(&b, &view); err != nil {
		t.Fatal(err)
	}
	want := `[{"in_state_for":5400,"comm":"java","rqueue":1},{"in_state_for":60,"comm":"\u001b[2Jx\n","rqueue":0},{"in_state_for":5,"rqueue":1},{"rqueue":0}]`
	if diff := gocmp.Diff(want, strings.NewReplacer("\n", "", " ", "").Replace(b.String())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if names := FieldNames(); !slices.Contains(names, "netns") || !slices.Contains(names, "mptcp") || slices.Contains(names, "") {
		t.Errorf("fields %q", names)
	}
}

// All of several processes that hold a socket are named, and one alone is not named twice.
func TestHoldersInJSON(t *testing.T) {
	oldest, err := ParseOrder("age", false)
	if err != nil {
		t.Fatal(err)
	}
	view := View{Order: oldest, JSON: true}
	if view.Fields, err = ParseFields("pid,holders"); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := sightings(t).Print(&b, &view); err != nil {
		t.Fatal(err)
	}
	want := `[{"pid":1,"holders":[{"pid":1,"comm":"java"},{"pid":20,"comm":"java"}]},{"pid":300},{},{}]`
	if diff := gocmp.Diff(want, strings.NewReplacer("\n", "", " ", "").Replace(b.String())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A walk through /proc is made for those who want to know holders, and for nobody else.
func TestFieldsWalk(t *testing.T) {
	for _, test := range []struct {
		fields, sort string
		walks        bool
	}{
		{"", "age", true}, {"src,dst,age", "age", false}, {"src,dst,state,uid,verdict", "age", false}, {"dst,pid", "age", true}, {"pod", "age", true}, {"holders", "age", true},
		{"src", "process", true},
	} {
		fields, err := ParseFields(test.fields)
		if unknown, ok := errors.AsType[*UnknownColumn](err); ok && test.fields == "src,dst,age" {
			if unknown.Name != "age" {
				t.Errorf("%v", err)
			}
			continue
		}
		order, orderErr := ParseOrder(test.sort, false)
		if err := errors.Join(err, orderErr); err != nil {
			t.Fatal(err)
		}
		if view := (View{JSON: true, Fields: fields, Order: order}); view.Walks() != test.walks {
			t.Errorf("fields %q sorted by %s: walks %v", test.fields, test.sort, !test.walks)
		}
	}
	if _, err := ParseFields("src,src"); err == nil {
		t.Error("a field twice")
	}
}

// The holder has a column where the terminal has room for it.
func TestRoomForHolders(t *testing.T) {
	oldest, err := ParseOrder("age", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		cells int
		room  bool
	}{{0, false}, {80, false}, {147, false}, {200, true}} {
		table, view := sightings(t), View{Order: oldest, Headings: true, Cells: test.cells}
		if view.Room = table.HasRoom(&view); view.Room != test.room || view.Walks() != test.room {
			t.Errorf("%d cells: room %v, walks %v", test.cells, view.Room, view.Walks())
		}
		var b strings.Builder
		if err := table.Print(&b, &view); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(b.String(), "PROCESS") && strings.Contains(b.String(), "java[1]+1"); got != test.room {
			t.Errorf("%d cells:\n%s", test.cells, b.String())
		}
	}
	// A longer name than was thought of takes nothing from the addresses.
	view := View{Order: oldest, Headings: true, Cells: 100, Room: true}
	var b strings.Builder
	if err := sightings(t).Print(&b, &view); err != nil || strings.Contains(b.String(), "PROCESS") {
		t.Errorf("%v\n%s", err, b.String())
	}
}
