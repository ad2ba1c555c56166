package events_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/source/events"
	"github.com/sockdog/sockdog/rules/ssfilter"
)

// flag flags older connections. Where the kernel cannot, it checks that this is said.
func flag(t testing.TB, p *events.Programs) (flagged int, can bool) {
	t.Helper()
	flagged, refused, err := p.FlagOlder()
	if why := p.WhyNoFlag(); why != nil {
		if err == nil {
			t.Fatalf("FlagOlder says nothing, and WhyNoFlag %v", why)
		}
		t.Logf("this kernel cannot: %v", err)
		return 0, false
	}
	if err != nil || refused > 0 {
		t.Fatalf("%d flagged, %d refused: %v", flagged, refused, err)
	}
	return flagged, true
}

// TestFlagOlder: connections that began before Attach are followed once they are flagged, and
// entered at once if they are in a wanted state.
func TestFlagOlder(t *testing.T) {
	p := load(t, 1000)
	undisturbed := alone(t, 0)
	old, older := connect(t, nstest.V4), connect(t, nstest.V6)
	check(t, older.client.CloseWrite())
	check(t, older.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	check(t, p.Attach(string(own)))
	check(t, p.Table().Want(ssfilter.Of(ssfilter.CloseWait)))

	flagged, can := flag(t, p)
	if !can {
		return
	}
	if undisturbed && alone(t, 1) && flagged != 4 {
		t.Errorf("%d connections flagged", flagged)
	}
	entered(t, p.Table(), older.server, ssfilter.CloseWait, 0, 0) // not known since when
	before := now(t)
	check(t, old.client.CloseWrite())
	check(t, old.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	e, _, err := p.Table().Get(cookie(t, old.server))
	if err != nil || e.Entered < before || e.Entered > now(t) {
		t.Errorf("%+v, %v", e, err)
	}

	if again, _ := flag(t, p); again != 0 {
		t.Errorf("%d connections flagged again", again)
	}
	if again, _, _ := p.Table().Get(cookie(t, old.server)); again != e {
		t.Errorf("the entry was %+v and is %+v", e, again)
	}
	check(t, older.server.CloseWrite())
	left(t, p.Table(), older.server)
}

// TestWant: what is wanted changes while the programs run.
func TestWant(t *testing.T) {
	p := attach(t, 1000, 0)
	table := p.Table()
	one, two := connect(t, nstest.V4), connect(t, nstest.V4)
	closeWait := func(p pair) {
		check(t, p.client.CloseWrite())
		check(t, p.server.Await(unix.BPF_TCP_CLOSE_WAIT))
	}
	closeWait(one)
	if all := read(t, table); len(all) > 0 {
		t.Errorf("nothing is wanted, and there is %v", all)
	}
	check(t, table.Want(ssfilter.AllStates))
	closeWait(two)
	since := read(t, table)[cookie(t, two.server)].Entered
	if since == 0 {
		t.Error("a wanted state was not entered")
	}
	check(t, table.Want(ssfilter.Of(ssfilter.LastAck)))
	if all := read(t, table); len(all) > 0 {
		t.Errorf("CLOSE_WAIT is not wanted, and there is %v", all)
	}
	check(t, table.Want(ssfilter.Of(ssfilter.CloseWait)))
	if again := read(t, table)[cookie(t, two.server)].Entered; again != since {
		t.Errorf("entered %v, and then %v", since, again)
	}
	check(t, table.Want(0))
	check(t, two.server.CloseWrite())
	check(t, table.Want(ssfilter.AllStates))
	left(t, table, two.server)

	if _, can := flag(t, p); !can {
		return
	}
	if e, ok := read(t, table)[cookie(t, one.server)]; !ok || e.Entered != 0 {
		t.Errorf("what was in a wanted state already is %+v, %v", e, ok)
	}
}

// TestClosed: after Close everything is an error, and nothing is left.
func TestClosed(t *testing.T) {
	need(t)
	had := fds(t)
	p := must(events.Load(100))(t)
	check(t, p.Attach(string(own)))
	if err := p.Attach(string(own)); err == nil {
		t.Error("attached twice")
	}
	if n := attachedTo(t, own); n != 1 {
		t.Errorf("%d programs are attached", n)
	}
	check(t, p.Attached())
	check(t, p.Detach())
	if p.Attached() == nil || p.Detach() == nil {
		t.Error("it is attached once it is detached")
	}
	if n := attachedTo(t, own); n != 0 {
		t.Errorf("%d programs are attached after Detach", n)
	}
	check(t, p.Attach(string(own)))
	p.Close()
	p.Close()
	if n := attachedTo(t, own); n != 0 {
		t.Errorf("%d programs are attached after Close", n)
	}
	if have := fds(t); have != had {
		t.Errorf("there were %d descriptors, and now %d", had, have)
	}
	_, _, getting := p.Table().Get(1)
	_, losing := p.Table().Lost()
	for _, err := range []error{getting, losing, p.Table().Want(0), p.Table().Forget(1), p.Table().Read(func(*events.Entry) {}), p.Attach(string(own)), p.Attached(), p.Detach()} {
		if err == nil {
			t.Error("no error after Close")
		}
	}
	if _, _, err := p.FlagOlder(); err == nil || errors.Is(err, unix.EBADF) {
		t.Errorf("FlagOlder after Close: %v", err)
	}
}
