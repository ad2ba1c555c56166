package realtest

import (
	"fmt"
	"testing"
	"time"
)

// Alertmanager is a running one.
type Alertmanager struct{ server }

// Alert is one as Alertmanager shows it.
type Alert struct {
	Labels       map[string]string
	Annotations  map[string]string
	StartsAt     time.Time
	Fingerprint  string
	GeneratorURL string
}

// StartAlertmanager runs an Alertmanager on loopback until the test ends. What it is
// told it tells the webhook at hook.
func StartAlertmanager(t testing.TB, hook string) Alertmanager {
	t.Helper()
	return Alertmanager{serve(t, Need(t, "prometheus-alertmanager", "alertmanager"), fmt.Sprintf(`
route: {receiver: hook, group_by: [alertname], group_wait: 10ms, group_interval: 100ms}
receivers: [{name: hook, webhook_configs: [{url: %q}]}]
`, hook), "--storage.path=data", "--cluster.listen-address=")}
}

// Active returns the alerts that Alertmanager shows as firing.
func (am Alertmanager) Active(t testing.TB) (alerts []Alert) {
	t.Helper()
	if err := am.Get("/api/v2/alerts?active=true", &alerts); err != nil {
		t.Fatal(err)
	}
	return alerts
}
