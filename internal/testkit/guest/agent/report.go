package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The report is one block, printed twice, so that a reader can tell a copy that
// a kernel message broke and take the other:
//
//	AMPOULE-REPORT begin BOOT COPY
//	AMPOULE-REPORT KIND ...                 any number
//	AMPOULE-REPORT end BOOT COPY LINES SHA256
//
// LINES counts the lines between, SHA256 is over them, each with a newline and
// without the prefix. A last line "action WORD" says what the guest does next.

// say prints one line on the console, in one write: the terminal layer does
// not mix the writes of two processes, only kernel messages come between.
func say(text string) error {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("opening the console: %w", err)
	}
	defer console.Close()
	_, err = console.WriteString("AMPOULE-REPORT " + text + "\n")
	return err
}

// testWords returns the words of ampoule.test= on the kernel command line.
func testWords() ([]string, error) { return wordsOf("ampoule.test=") }

func wordsOf(name string) ([]string, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("reading the kernel command line: %w", err)
	}
	var words []string
	for _, parameter := range strings.Fields(string(line)) {
		if value, ok := strings.CutPrefix(parameter, name); ok {
			words = append(words, strings.Split(value, ",")...)
		}
	}
	return words, nil
}

// reportAndAct prints the report and then does what the kernel command line
// asks for with ampoule.test=WORD[,WORD...], the first that applies:
//
//	reboot-once    reboot, unless this is not the first boot of this VM
//	panic-once     crash the kernel, unless this is not the first boot
//	reboot         reboot, every time
//	panic          crash the kernel, every time
//	poweroff       power off
//	halt           stop the processors without powering off
//	stay           nothing; the default
//	ignore-power   (generator) the power button does nothing
//	slow-start     (report) starting takes a while longer
//	slow-stop      (orderly) shutting down takes ten minutes
//	scan           (report) look for the credentials where they must not be
func reportAndAct() error {
	words, err := testWords()
	if err != nil {
		return err
	}
	boot := countBoot()
	if slices.Contains(words, "slow-start") {
		// PID 1 speaks of a job that runs for more than some seconds.
		time.Sleep(15 * time.Second)
	}
	lines, err := gather()
	if err != nil {
		return err
	}
	if slices.Contains(words, "scan") {
		found, err := lookForLeaks()
		if err != nil {
			return err
		}
		lines = append(lines, found...)
	}
	if err := printBlock(boot, lines); err != nil {
		return err
	}
	for _, word := range words {
		switch word {
		case "reboot-once", "panic-once":
			// Where the guest cannot count this would never end.
			if boot != "1" {
				continue
			}
		case "stay", "ignore-power", "slow-start", "slow-stop", "scan":
			continue
		}
		if err := say("action " + word); err != nil {
			return err
		}
		return act(word)
	}
	return say("action stay")
}

// act carries a word out. PID 1 takes these signals as "start the target",
// which needs neither D-Bus nor another process.
func act(word string) error {
	const realTimeMin = 34 // SIGRTMIN as glibc and so systemd count it
	switch word {
	case "reboot", "reboot-once":
		return syscall.Kill(1, realTimeMin+5)
	case "poweroff":
		return syscall.Kill(1, realTimeMin+4)
	case "halt":
		return syscall.Kill(1, realTimeMin+3)
	case "panic", "panic-once":
		return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	default:
		return fmt.Errorf("unknown word %q in ampoule.test=", word)
	}
}

// gather collects the lines of the report.
func gather() ([]string, error) {
	lines := []string{
		"info cmdline " + text("/proc/cmdline"),
		"info kernel " + text("/proc/sys/kernel/osrelease"),
		"info systemd " + systemdVersion(),
		"info cpus " + strconv.Itoa(runtime.NumCPU()),
		"info memory-kib " + memory(),
		"info machine-id " + text("/etc/machine-id"),
		"info hostname " + text("/proc/sys/kernel/hostname"),
		"info clocksource " + text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
		"info root-fs " + rootFileSystem(),
		"info initrd " + initrd(),
		"info environ-variable " + pid1Variable("CREDENTIALS_DIRECTORY"),
		"info mount-credentials " + strings.Join(mountLines(systemDir), "; "),
		"info power-button " + waitPowerButton(),
		"info uptime " + strings.Fields(text("/proc/uptime"))[0],
	}
	disks, err := filepath.Glob("/sys/block/vd*")
	if err != nil {
		return nil, err
	}
	for _, disk := range disks {
		sectors, err := strconv.ParseInt(text(disk+"/size"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading the size of %s: %w", disk, err)
		}
		lines = append(lines, fmt.Sprintf("disk %s %d %s %s",
			filepath.Base(disk), sectors*512, text(disk+"/ro"), text(disk+"/serial")))
	}
	if _, err := os.Stat(systemDir); err == nil {
		credentials, err := digest("cred", systemDir)
		if err != nil {
			return nil, err
		}
		lines = append(lines, credentials...)
	}
	loaded := strings.Split(text(loadFile), "\n")
	if last := len(loaded) - 1; loaded[last] == loadEnd {
		lines = append(append(lines, loaded[:last]...), "info load-result success")
	} else {
		lines = append(lines, "info load-result failed")
	}
	return lines, nil
}

// printBlock writes both copies, with kernel messages kept off the console.
func printBlock(boot string, lines []string) error {
	const levels = "/proc/sys/kernel/printk"
	before := strings.Fields(text(levels))[0]
	if err := os.WriteFile(levels, []byte("1"), 0); err != nil {
		return fmt.Errorf("silencing the kernel: %w", err)
	}
	block := strings.Join(lines, "\n") + "\n"
	sum := sha256.Sum256([]byte(block))
	for _, number := range []int{1, 2} {
		if err := say(fmt.Sprintf("begin %s %d", boot, number)); err != nil {
			return err
		}
		for _, line := range lines {
			if err := say(line); err != nil {
				return err
			}
		}
		if err := say(fmt.Sprintf("end %s %d %d %x", boot, number, len(lines), sum)); err != nil {
			return err
		}
	}
	return os.WriteFile(levels, []byte(before), 0)
}

// orderly shows on the console that the units were stopped: it is an ExecStop=.
func orderly() error {
	if err := say("orderly-stop"); err != nil {
		return err
	}
	words, err := testWords()
	if err != nil {
		return err
	}
	for _, word := range words {
		if word == "slow-stop" {
			time.Sleep(10 * time.Minute)
		}
	}
	return nil
}

// text is the content of a file without the newline at its end; empty where it
// cannot be read, which the report then shows.
func text(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(content), "\n")
}

// systemdVersion is read off the name of its library: asking the program costs
// a process.
func systemdVersion() string {
	const stem = "libsystemd-shared-"
	files, _ := filepath.Glob("/usr/lib/*/systemd/" + stem + "*.so")
	for _, file := range files {
		return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), stem), ".so")
	}
	return "unknown"
}

// memory is the guest kernel's MemTotal in KiB.
func memory() string {
	for line := range strings.Lines(text("/proc/meminfo")) {
		if value, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			return strings.Fields(value)[0]
		}
	}
	return "unknown"
}

// waitPowerButton waits until logind has the power button's device open; a
// press before that is lost. It answers "ready", "absent" where there is no such
// device after the coldplug, or "deaf" where logind does not take it up in time.
func waitPowerButton() string {
	const step, patience = 100 * time.Millisecond, 30 * time.Second
	for waited := time.Duration(0); waited < patience; waited += step {
		if listens("systemd-logind") {
			return "ready"
		}
		if waited >= 10*time.Second && !strings.Contains(text("/proc/bus/input/devices"), "Power Button") {
			return "absent"
		}
		time.Sleep(step)
	}
	return "deaf"
}

// listens tells whether a process of this name has an input device open.
func listens(name string) bool {
	processes, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, comm := range processes {
		content, _ := os.ReadFile(comm)
		// The kernel cuts names at 15 bytes.
		if !bytes.Equal(bytes.TrimSpace(content), []byte(name[:min(len(name), 15)])) {
			continue
		}
		descriptors, _ := filepath.Glob(filepath.Dir(comm) + "/fd/*")
		for _, fd := range descriptors {
			if target, _ := os.Readlink(fd); strings.HasPrefix(target, "/dev/input/event") {
				return true
			}
		}
	}
	return false
}
