package console

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestWatchPatterns(t *testing.T) {
	var found []string
	pattern := func(name, expr string) Pattern {
		return Pattern{Regexp: regexp.MustCompile(expr), Found: func(line string) { found = append(found, name+" "+line) }}
	}
	w := NewWatch(nil,
		pattern("ready", `^ready \d+$`),
		pattern("login", `login: $`),
		pattern("any", `x`),
		Pattern{Regexp: regexp.MustCompile(`x`)}, // nobody to call
	)
	step := func(do func(), want ...string) {
		t.Helper()
		found = nil
		do()
		if !slices.Equal(found, want) {
			t.Errorf("found %q, want %q", found, want)
		}
	}
	write := func(s string) func() { return func() { w.Write([]byte(s)) } }
	step(write("not ready 1\n\x1b[1mrea"))
	step(write("dy 22\x1b[0m"))                     // not ended: could be 222
	step(write("\r\n"), "ready ready 22")           //
	step(write("ready 33\n"))                       // once
	step(write("host login: "))                     // not looked at yet
	step(w.Idle, "login host login: ")              //
	step(w.Idle)                                    // once
	step(write("\nlogin: "))                        //
	step(w.Close)                                   //
	w.Reset()                                       //
	step(write("ready 4\nx"), "ready ready 4")      // anew
	step(w.Close, "any x")                          // the unfinished line counts at the end
	w.Reset()                                       //
	step(write("rea"))                              //
	w.Reset()                                       //
	step(write("dy 5\nready 6\n"), "ready ready 6") // nothing of the boot before
}

func TestWatchCallbacksMayUseTheWatch(t *testing.T) {
	var w *Watch
	calls := 0
	w = NewWatch(func(string) { calls++; w.LastPanic(); w.Reset() },
		Pattern{Regexp: regexp.MustCompile(`a`), Found: func(string) { calls++; w.LastPanic(); w.Reset() }})
	w.Write([]byte("a\nKernel panic - not syncing: x\n"))
	if calls != 2 {
		t.Errorf("%d calls", calls)
	}
}

// The pattern's line may be as long as the limit, and is looked at in pieces
// beyond: memory stays bounded.
func TestWatchLongLine(t *testing.T) {
	longest := 0
	w := NewWatch(nil, Pattern{Regexp: regexp.MustCompile(`x`), Found: func(line string) { longest = len(line) }})
	w.Write([]byte(strings.Repeat("x", 5*LineLimit)))
	if longest != LineLimit {
		t.Errorf("line of %d bytes", longest)
	}
}

const realPanic = "" +
	"[    1.703112] VFS: Cannot open root device \"vda\" or unknown-block(0,0): error -6\r\n" +
	"[    1.704201] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n" +
	"[    1.705233] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0-35-cloud-amd64 #1  Debian 6.1.137-1\r\n" +
	"[    1.706433] Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2-debian-1.16.2-1 04/01/2014\r\n" +
	"[    1.707735] Call Trace:\r\n" +
	"[    1.708117]  <TASK>\r\n" +
	"[    1.708450]  dump_stack_lvl+0x44/0x5c\r\n" +
	"[    1.709017]  panic+0x118/0x2ed\r\n" +
	"[    1.713004]  </TASK>\r\n" +
	"[    1.713470] Kernel Offset: disabled\r\n"

const (
	realEnd    = "[    1.713999] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---\r\n"
	realReboot = "[    1.713999] Rebooting in 10 seconds..\r\n[   11.720001] ACPI MEMORY or I/O RESET_REG.\r\n"
	realReason = "VFS: Unable to mount root fs on unknown-block(0,0)"
)

// unstamped is the same of a kernel without time stamps.
func unstamped(s string) string {
	return regexp.MustCompile(`(?m)^\[ *\d+\.\d+\] `).ReplaceAllString(s, "")
}

func TestWatchPanic(t *testing.T) {
	init := "Attempted to kill init! exitcode=0x00000100"
	trap := "[    5.100000] Kernel panic - not syncing: " + init + "\n"
	tests := []struct {
		name, in string
		reason   string
		last     bool
	}{
		{"nothing", "", "", false},
		{"ordinary boot", "[    0.000000] Linux version 6.1.0\n[    0.5] panic=-1 given\nhost login: ", "", false},
		{"halts", realPanic + realEnd, realReason, true},
		{"reboots", realPanic + realReboot, realReason, true},
		{"still printing", realPanic, realReason, true},
		{"cut off in a stamp", realPanic + "[    1.71", realReason, true},
		{"cut off in a line", realPanic + "[    1.713999] Reboo", realReason, true},
		{"cut off in the line itself", "[    1.0] x\n[    5.100000] Kernel panic - not syncing: Attem", "Attem", true},
		{"without stamps", unstamped(realPanic + realEnd), realReason, true},
		{"without stamps, reboots", unstamped(realPanic + realReboot), realReason, true},
		{"empty lines after it", realPanic + realEnd + "\r\n\r\n", realReason, true},
		{"warning after the end", realPanic + realEnd + "[    1.720000] ------------[ cut here ]------------\n", realReason, true},
		{"with the caller's mark", "[    1.000000][    T1] Kernel panic - not syncing: " + init + "\n[    1.000001][    T1] CPU: 0\n[    1.000002][  C0", init, true},
		{"behind a prompt", "host login: " + trap, init, true},
		{"segfault of init between", trap + "[    5.100001] init[1]: segfault at 0 ip 0 sp 0 error 4\n", init, true},
		{"stamps of two processors", trap + "[    5.099990] CPU: 1 PID: 0 Comm: swapper/1\n", init, true},
		{"no reason", "[    5.100000] Kernel panic - not syncing\n", "no reason given", true},
		{"colours around", "\x1b[0m[    5.100000] Kernel panic - not syncing: " + init + "\x1b[0m\n", init, true},

		{"reboot's firmware", realPanic + realReboot + "\x1bc\x1b[?7l\x1b[2JSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n", realReason, false},
		{"reboot's kernel", realPanic + realReboot + "[    0.000000] Linux version 6.1.0\n", realReason, false},
		{"early panic, reboot's kernel", "[    0.100000] Kernel panic - not syncing: " + init + "\n[    0.000000] Linux version 6.1.0\n", init, false},
		{"shown by a program", "$ cat log\n" + trap + "[    5.2] x\nhost:~$ ls\n", init, false},
		{"shown by a program, prompt after it", trap + "host:~$ ", init, false},
		{"shown by a program, log lines after it", trap + "[  100.000000] systemd[1]: Started foo.service\n", init, false},
		{"without stamps, text after it", unstamped(realPanic+realEnd) + "ordinary text\n", realReason, false},
		{"without stamps, prompt after it", unstamped(realPanic+realEnd) + "host login: ", realReason, false},
		{"mentioned", "audit: Kernel panic - not syncing: never\n", "", false},
		{"only the end line", realEnd, "", false},
		{"two panics", trap + "other\n" + realPanic, realReason, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var told []string
			w := NewWatch(func(reason string) { told = append(told, reason) })
			w.Write([]byte(tt.in))
			w.Close()
			reason, last := w.LastPanic()
			if reason != tt.reason || last != tt.last {
				t.Errorf("%q, last %v; want %q, last %v", reason, last, tt.reason, tt.last)
			}
			if tt.reason == "" && told != nil || tt.reason != "" && len(told) != 1 {
				t.Errorf("told %q", told)
			}
			w.Reset()
			if reason, last := w.LastPanic(); reason != "" || last {
				t.Errorf("after Reset: %q, %v", reason, last)
			}
		})
	}
}

func TestWatchPanicIsToldAtOnceAndAgainAfterReset(t *testing.T) {
	var told []string
	w := NewWatch(func(reason string) { told = append(told, reason) })
	for boot := range 2 {
		fmt.Fprintf(w, "[    1.000000] Kernel panic - not syncing: boot %d", boot)
		if len(told) != boot {
			t.Fatalf("told %q before the line was complete", told)
		}
		w.Write([]byte("\n"))
		if want := fmt.Sprintf("boot %d", boot); len(told) != boot+1 || told[boot] != want {
			t.Fatalf("told %q", told)
		}
		if reason, last := w.LastPanic(); reason != told[boot] || !last {
			t.Errorf("%q, %v", reason, last)
		}
		w.Reset()
	}
}

// A prompt that stands in the unfinished line counts even before the end.
func TestLastPanicSeesTheUnfinishedLine(t *testing.T) {
	w := NewWatch(nil)
	w.Write([]byte(realPanic + realEnd + "host login: "))
	if _, last := w.LastPanic(); last {
		t.Error("the panic is not the last word")
	}
}

func FuzzPanic(f *testing.F) {
	f.Add([]byte(realPanic + realEnd))
	f.Add([]byte(unstamped(realPanic + realReboot)))
	f.Add([]byte("[    1.000000][    T1] Kernel panic - not syncing: x\n[ 99999999999999999999.000000] y\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		calls := 0
		w := NewWatch(func(reason string) {
			calls++
			if reason == "" {
				t.Error("a panic without a reason")
			}
		})
		w.Write(in)
		w.LastPanic()
		w.Close()
		reason, last := w.LastPanic()
		if (reason != "") != (calls == 1) || last && reason == "" {
			t.Errorf("%d calls, then %q, %v", calls, reason, last)
		}
	})
}

// Consoles of real guests: Debian's kernels 6.1 and 6.12 in QEMU.
func TestWatchRealPanics(t *testing.T) {
	tests := []struct {
		file, reason string
		last         bool
	}{
		{"halts-without-stamps.log", realReason, true},
		{"reboots.log", realReason, true},
		{"init-killed.log", "Attempted to kill init! exitcode=0x00000100", true},
		{"boots-again.log", realReason, false},
	}
	for _, tt := range tests {
		data, err := os.ReadFile(filepath.Join("testdata", tt.file))
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"as it was": string(data), "without stamps": unstamped(string(data))} {
			w := NewWatch(nil)
			w.Write([]byte(text))
			w.Close()
			if reason, last := w.LastPanic(); reason != tt.reason || last != tt.last {
				t.Errorf("%s, %s: %q, last %v", tt.file, name, reason, last)
			}
		}
	}
}
