package events_test

// What the test binary does when it is run again with actEnv in its environment.
const actEnv = "SOCKDOG_EVENTS_TEST"

var acts = map[string]func() error{}
