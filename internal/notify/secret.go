package notify

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/sockdog/sockdog/rules"
)

// maxSecret bounds what a wrong path can cost: it is far above any bundle of
// certificates.
const maxSecret = 1 << 20

// read returns what a source holds. Its errors say where, and never what.
func read(s rules.Source) (string, error) {
	switch {
	case s.File != "":
		data, err := readFile(s.File)
		if err != nil {
			return "", err
		}
		if data = bytes.TrimSpace(data); len(data) == 0 {
			return "", fmt.Errorf("%s is empty", s.File)
		}
		return string(data), nil
	case s.Env != "":
		value := strings.TrimSpace(os.Getenv(s.Env))
		if value == "" {
			return "", fmt.Errorf("the environment variable %s is not set", s.Env)
		}
		return value, nil
	default:
		return s.Text, nil
	}
}

func readFile(path string) ([]byte, error) {
	// Without O_NONBLOCK, opening a FIFO waits for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file that can be read (%v)", path, info.Mode().Type())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSecret {
		return nil, fmt.Errorf("%s is larger than %d bytes: is it the right file?", path, maxSecret)
	}
	return data, nil
}
