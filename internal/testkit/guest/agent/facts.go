package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest/scan"
)

// mountLines returns the lines of /proc/mounts for a mount point, the one on top
// last.
func mountLines(point string) []string {
	var lines []string
	for line := range strings.Lines(text("/proc/mounts")) {
		if fields := strings.Fields(line); len(fields) > 2 && scan.Unescape(fields[1]) == point {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// rootFileSystem is the type of what is mounted at / and the options, by which
// ro and rw can be told: "ext4 /dev/vda ro,relatime". An initramfs that is the
// root is not always among the mounts.
func rootFileSystem() string {
	lines := mountLines("/")
	if len(lines) == 0 {
		return "rootfs"
	}
	fields := strings.Fields(lines[len(lines)-1])
	return fields[2] + " " + fields[0] + " " + fields[3]
}

// initrd says what was there before the root: "systemd" where a systemd handed
// over to this one, "other" where an initrd left its directory behind, "none".
func initrd() string {
	arguments, _ := os.ReadFile("/proc/1/cmdline")
	for argument := range strings.SplitSeq(string(arguments), "\x00") {
		if argument == "--switched-root" {
			return "systemd"
		}
	}
	if _, err := os.Stat("/run/initramfs"); err == nil {
		return "other"
	}
	return "none"
}

// pid1Variable is the value of a variable that PID 1 was started with; empty
// where it has none.
func pid1Variable(name string) string {
	environment, _ := os.ReadFile("/proc/1/environ")
	for variable := range strings.SplitSeq(string(environment), "\x00") {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

// maxLeaks is how many leaks are listed: a serial port is slow.
const maxLeaks = 200

// lookForLeaks scans the guest for what PID 1 received. Its lines are
//
//	leak CLASS MODE PATH NAME       without blanks in PATH, see scan.Escape
//	info leak-scan FILES BYTES      how much was read
//	info leak-needles NEEDLES       what was looked for
//	info leak-unsearched NAME, ...  credentials that are too short
//	info leak-unread N REASON       what could not be read, and the first reason
//	info leak-more N                leaks beyond those listed
//	info leak-milliseconds N        how long it took
func lookForLeaks() ([]string, error) {
	start := time.Now()
	values := map[string][]byte{}
	entries, err := os.ReadDir(systemDir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("listing credentials: %w", err)
	}
	for _, entry := range entries {
		value, err := os.ReadFile(filepath.Join(systemDir, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading a credential: %w", err)
		}
		values[entry.Name()] = value
	}
	result := scan.Machine(values)
	var lines []string
	for i, l := range result.Leaks {
		if i == maxLeaks {
			lines = append(lines, fmt.Sprintf("info leak-more %d", len(result.Leaks)-maxLeaks))
			break
		}
		lines = append(lines, fmt.Sprintf("leak %s %s %s %s", l.Class, l.Mode, scan.Escape(l.Path), l.Credential))
	}
	lines = append(lines,
		fmt.Sprintf("info leak-scan %d %d", result.Files, result.Bytes),
		fmt.Sprintf("info leak-needles %d", result.Needles),
		fmt.Sprintf("info leak-milliseconds %d", time.Since(start).Milliseconds()))
	if len(result.Unsearched) > 0 {
		lines = append(lines, "info leak-unsearched "+strings.Join(result.Unsearched, ", "))
	}
	if n := len(result.Unread); n > 0 {
		lines = append(lines, fmt.Sprintf("info leak-unread %d %s", n, scan.Escape(result.Unread[0])))
	}
	return lines, nil
}
