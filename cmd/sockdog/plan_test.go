package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sockdog/sockdog/internal/client"
	"github.com/sockdog/sockdog/internal/status"
	"github.com/sockdog/sockdog/internal/web"
	"github.com/sockdog/sockdog/rules"
)

// What a running sockdog does not do now is said beside the plan, of the rules that are planned.
func TestPlanWarnsOfRest(t *testing.T) {
	running := status.Status{Time: time.Now(), Netns: "7", Paused: &status.Pause{Reason: "moved", By: "uid 0"}, Rules: []status.Rule{{Name: "leak", Mode: status.Stopped}, {Name: "other", Mode: status.Stopped}, {Name: "fine", Mode: status.Enabled}}}
	store := web.NewStore()
	store.Show(&running)
	server := httptest.NewServer(web.Handler(store, nil, http.NotFoundHandler()))
	defer server.Close()
	var said strings.Builder
	set := &rules.Set{Rules: []rules.Rule{{Name: "leak"}, {Name: "fine"}}}
	warnOfRest(t.Context(), set, true, &client.Observers{Daemon: server.Listener.Addr().String()}, &said)
	const want = `sockdog: acting is paused, and nothing of this is done until it is resumed: moved (uid 0)
sockdog: rule leak has stopped itself, and does nothing of this until it is changed, or sockdog rule reset leak
`
	if said.String() != want {
		t.Errorf("said:\n%swant:\n%s", said.String(), want)
	}
	said.Reset()
	warnOfRest(t.Context(), set, true, &client.Observers{Daemon: "off"}, &said)
	if said.Len() > 0 {
		t.Errorf("said where nobody was to be asked: %s", said.String())
	}
}
