package fake

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

type level int

const (
	levelOff level = iota
	levelError
	levelWarn
	levelInfo
	levelDebug
	levelTrace
)

func (l level) String() string {
	return [...]string{"OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"}[l]
}

func parseLevel(s string) (level, bool) {
	l, ok := map[string]level{"off": levelOff, "error": levelError, "warn": levelWarn, "warning": levelWarn,
		"info": levelInfo, "debug": levelDebug, "trace": levelTrace}[strings.ToLower(s)]
	return l, ok
}

// logger writes what the real program writes, where it writes it: to standard
// output, between the words of the guest, unless a file is named.
type logger struct {
	mu        sync.Mutex
	out       io.Writer
	max       level
	instance  string
	showLevel bool
	module    string
}

// The modules that a filter may name, and the thread that runs most of each.
const (
	inMain    = "firecracker"
	inAPI     = "firecracker::api_server"
	inRequest = "firecracker::api_server::parsed_request"
	inAdapter = "firecracker::api_server_adapter"
	inVMM     = "vmm"
)

func (l *logger) say(at level, module, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at > l.max || !strings.HasPrefix(module, l.module) {
		return
	}
	thread := "main"
	if module == inAPI || module == inRequest {
		thread = "fc_api"
	}
	if l.showLevel {
		thread += ":" + at.String()
	}
	// A line that cannot be written is lost, as there.
	_, _ = fmt.Fprintf(l.out, "%s [%s:%s] %s\n", time.Now().Format("2006-01-02T15:04:05.000000000"), l.instance, thread, fmt.Sprintf(format, args...))
}

// settings are those of the command line or of PUT /logger; nil: not given.
type settings struct {
	path      *string
	level     *level
	showLevel *bool
	module    *string
}

// update takes new settings. A level that is not given is Info again, whatever
// was given before.
func (l *logger) update(s settings) error {
	var file *os.File
	if s.path != nil {
		var err error
		if file, err = openOutput(*s.path); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.max = levelInfo
	if s.level != nil {
		l.max = *s.level
	}
	if file != nil {
		l.out = file
	}
	if s.showLevel != nil {
		l.showLevel = *s.showLevel
	}
	if s.module != nil {
		l.module = *s.module
	}
	return nil
}

// openOutput opens a file or FIFO for logs, metrics and consoles.
func openOutput(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NONBLOCK, 0o666)
}
