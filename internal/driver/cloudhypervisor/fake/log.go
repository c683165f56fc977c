package fake

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// logger writes what the real one logs where that matters: with -v all that may
// hold a secret, and at the default level warnings and errors.
type logger struct {
	mu    sync.Mutex
	out   io.Writer
	level int // 0: warnings and errors, 1: information
	start time.Time
}

func (l *logger) info(where, text string) {
	if l.level > 0 {
		l.write("vmm", "INFO", where, text)
	}
}

func (l *logger) warn(where, text string) { l.write("vmm", "WARN", where, text) }

func (l *logger) error(thread, where, text string) { l.write(thread, "ERROR", where, text) }

func (l *logger) write(thread, level, where, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "cloud-hypervisor: %10.6fs: <%s> %s:%s -- %s\n", time.Since(l.start).Seconds(), thread, level, where, text)
}

// debug writes a value as Rust does for debugging, which is how -v tells
// everybody what a VM's OEM strings are.
func debug(v any) string {
	switch v := v.(type) {
	case *object:
		parts := make([]string, len(v.entries))
		for i, e := range v.entries {
			parts[i] = e.name + ": " + debug(e.value)
		}
		return v.name + " { " + strings.Join(parts, ", ") + " }"
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = debug(item)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case string:
		return quote(v)
	}
	return fmt.Sprint(v)
}
