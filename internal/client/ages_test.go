package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockdog/sockdog/internal/host"
	"github.com/sockdog/sockdog/internal/nstest"
	"github.com/sockdog/sockdog/internal/sock"
	"github.com/sockdog/sockdog/internal/web"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// What listens where a daemon should may be anything: it is believed only if it
// speaks of this namespace, in this boot, by this clock.
func TestAskDaemon(t *testing.T) {
	nstest.Need(t)
	h, err := host.New()
	if err != nil {
		t.Fatal(err)
	}
	origin, _ := h.Origin()
	// said is a good answer, changed.
	said := func(change func(head *web.AgesHead)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			head := web.AgesHead{Version: "v9", Origin: origin, ClockNS: h.Now(), LeftOut: 2}
			change(&head)
			text, _ := json.Marshal(head)
			w.Header().Set("Server", web.Server)
			w.Write(append(bytes.TrimSuffix(text, []byte("}")), `,"sockets":[
				{"cookie":1,"id":"2","state":"close-wait","entered_ns":3,"quiet_ns":4,"queued_ns":0,"bytes_acked":1,"bytes_received":1,"segs_in":1}]}`...))
		}
	}
	sockdogWith := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Server", web.Server)
			w.WriteHeader(status)
			io.WriteString(w, text)
		}
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		why    string // in the error; empty: it is believed
	}{
		{"a daemon", said(func(*web.AgesHead) {}), ""},
		{"another boot", said(func(h *web.AgesHead) { h.BootID = "11" }), "another boot id"},
		{"no boot", said(func(h *web.AgesHead) { h.BootID = "" }), "another boot"},
		{"another namespace", said(func(h *web.AgesHead) { h.Netns = "1" }), "another network namespace"},
		{"another namespace, whose inode was given anew", said(func(h *web.AgesHead) { h.NetnsCookie++ }), "another network namespace"},
		{"a clock behind", said(func(h *web.AgesHead) { h.ClockNS -= 1e10 }), "clock"},
		{"a clock ahead", said(func(h *web.AgesHead) { h.ClockNS += 1e10 }), "clock"},
		{"an older version", sockdogWith(http.StatusNotFound, "404 page not found"), "too old to tell ages"},
		{"a newer version", sockdogWith(http.StatusOK, `{"sockets":{}}`), "another version?"},
		{"a busy one", sockdogWith(http.StatusServiceUnavailable, "busy"), "too busy"},
		{"a redirect", sockdogWith(http.StatusFound, ""), "302 Found"},
		{"half an answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Server", web.Server)
			io.WriteString(w, `{"sockets":[`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "was cut short"},
		{"too much", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Server", web.Server)
			block := bytes.Repeat([]byte(" "), 1<<20)
			for range maxAnswer>>20 + 1 {
				w.Write(block)
			}
		}, "impossibly long"},
		{"another program", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }, "not sockdog"},
		{"one that hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "did not answer within"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(test.answer)
			defer server.Close()
			within := time.Minute
			switch test.why {
			case "did not answer within":
				within = 100 * time.Millisecond
			case "too busy": // it is asked again until then
				within = agesWithin
			}
			told, leftOut, err := askDaemon(context.Background(), server.Listener.Addr().String(), h, within)
			switch {
			case test.why == "" && (err != nil || len(told) != 1 || leftOut != 2):
				t.Errorf("%+v, %v; want it believed", told, err)
			case test.why != "" && (err == nil || !strings.Contains(err.Error(), test.why) || told != nil):
				t.Errorf("%+v, %v; want an error with %q", told, err, test.why)
			}
		})
	}
}

// A container may have a boot id of its own. A daemon that reads the kernel's is believed there, as
// its process is seen to do so; one that tells of a third is not.
func TestAskDaemonWithOwnBootID(t *testing.T) {
	nstest.Need(t)
	h, err := host.New()
	if err != nil {
		t.Fatal(err)
	}
	origin, err := h.Origin()
	if origin.BootID == "" {
		t.Fatal(err)
	}
	ask := func(boot string) error {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			head := web.AgesHead{Version: "v9", Origin: origin, ClockNS: h.Now()}
			head.BootID = boot
			w.Header().Set("Server", web.Server)
			json.NewEncoder(w).Encode(head)
		}))
		defer server.Close()
		_, _, err := askDaemon(t.Context(), server.Listener.Addr().String(), h, time.Minute)
		return err
	}
	const own = "0123456789abcdef0123456789abcdef"
	file := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(file, []byte(own+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	var kernels, third error
	var masked func()
	masked = func() {
		runtime.LockOSThread() // never unlocked: its mounts end with the thread
		if unix.Gettid() == os.Getpid() {
			go masked() // what /proc shows of the process is what this thread sees
			<-t.Context().Done()
			return
		}
		const at = "/proc/sys/kernel/random/boot_id"
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		err = errors.Join(err, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount(file, at, "", unix.MS_BIND, ""))
		if ours, _ := h.Origin(); err == nil && ours.BootID != own {
			err = fmt.Errorf("the boot id is %q", ours.BootID)
		}
		if err == nil {
			kernels, third = ask(origin.BootID), ask("11111111111111111111111111111111")
		}
		done <- err
	}
	go masked()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if kernels != nil {
		t.Errorf("a daemon that reads the kernel's: %v", kernels)
	}
	if third == nil || !strings.Contains(third.Error(), "another boot id") {
		t.Errorf("a daemon of another boot: %v", third)
	}
}

// The kernel knows whether the other end is in this network namespace.
func TestTrustElsewhere(t *testing.T) {
	nstest.Need(t)
	h, err := host.New()
	if err != nil {
		t.Fatal(err)
	}
	local, elsewhere := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}, &net.TCPAddr{IP: net.IPv4(10, 9, 8, 7), Port: 9797}
	_, err = trust("10.9.8.7:9797", local, elsewhere, h)
	if err == nil || !strings.Contains(err.Error(), "not in this network namespace") {
		t.Errorf("error %v", err)
	}
}

// Who is neither root nor the user who asks is believed only as what could kill
// these sockets without being believed.
func TestTrustHolder(t *testing.T) {
	nstest.Need(t)
	l, err := nstest.Listen(nstest.V4)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	inode, err := l.Inode()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		s    sock.Socket
		why  string
	}{
		{"root", sock.Socket{Inode: inode, UID: 0}, ""},
		{"the user who asks", sock.Socket{Inode: inode, UID: uint32(os.Geteuid())}, ""},
		{"closed, and so of nobody", sock.Socket{UID: 0}, "closed the connection"},
		{"somebody else, held by a process of another user", sock.Socket{Inode: inode, UID: 4711}, "user 4711"},
		{"somebody else, held by nobody who is seen", sock.Socket{Inode: 1, UID: 4711}, "user 4711"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := trustHolder("127.0.0.1:9797", &test.s)
			if (err == nil) != (test.why == "") || err != nil && !strings.Contains(err.Error(), test.why) {
				t.Errorf("error %v, want one with %q", err, test.why)
			}
		})
	}
}
