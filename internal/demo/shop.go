package demo

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/sockdog/sockdog/internal/nstest"
)

// shopName is what the program is called in /proc/PID/comm.
const shopName = "leaky-shop"

// workEvery is how often the program uses the connections that it does use.
const workEvery = 100 * time.Millisecond

// Shop is the program that leaks: it opens connections to its database, forgets
// some and works with others, until in ends.
func Shop(in io.Reader) error {
	// The name of the thread group leader, whatever thread this is (comm_write).
	if err := os.WriteFile("/proc/self/comm", []byte(shopName), 0); err != nil {
		return err
	}
	conns := make([]nstest.Socket, len(roles))
	for i := range conns {
		var err error
		if conns[i], err = nstest.Connect(address); err != nil {
			return fmt.Errorf("%s: %w", shopName, err)
		}
	}
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, in) // an error is an end, too
		close(ended)
	}()
	for tick := time.Tick(workEvery); ; {
		select {
		case <-ended:
			return nil
		case <-tick:
		}
		for i, c := range conns {
			if roles[i] == forgot {
				continue
			}
			err := c.Send(1)
			if err == nil && roles[i] == inUse {
				err = c.Receive(1)
			}
			if err != nil {
				return fmt.Errorf("%s: a healthy connection failed: %w", shopName, err)
			}
		}
	}
}

func startShop() (*exec.Cmd, error) {
	cmd := again("demo", "shop")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // it ends with us
		return nil, err
	}
	return cmd, cmd.Start()
}
