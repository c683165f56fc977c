package notify

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	text := func(s string) *string { return &s }
	number := func(n int) *int { return &n }
	for input, want := range map[string]Message{
		"":                              {},
		"READY=1":                       {Ready: true},
		"READY=1\n":                     {Ready: true},
		"READY=0":                       {},
		"READY=1 ":                      {},
		"ready=1":                       {},
		" READY=1":                      {},
		"READY=1\nREADY=0":              {Ready: true},
		"READY=1\nSTATUS=Ready.":        {Ready: true, Status: text("Ready.")},
		"STOPPING=1\nSTATUS=":           {Stopping: true, Status: text("")},
		"STATUS=a=b":                    {Status: text("a=b")},
		"STATUS=a\x00READY=1":           {Status: text("a\uFFFDREADY=1")},
		"STATUS=a\rMAINPID=1":           {Status: text("a MAINPID=1")},
		"EXIT_STATUS=0":                 {ExitStatus: number(0)},
		"EXIT_STATUS=255":               {ExitStatus: number(255)},
		"EXIT_STATUS=256":               {},
		"EXIT_STATUS=-1":                {},
		"EXIT_STATUS=0x1":               {},
		"EXIT_STATUS=":                  {},
		"EXIT_STATUS=1\nEXIT_STATUS=no": {ExitStatus: number(1)},
		"EXIT_STATUS=3\nX_SYSTEMD_SHUTDOWN=poweroff\nX_SYSTEMD_REBOOT_PARAMETER=x": {ExitStatus: number(3), Shutdown: "poweroff"},
		"X_SYSTEMD_SHUTDOWN=explode":                            {},
		"X_SYSTEMD_HOSTNAME=web-1.example.org":                  {Hostname: "web-1.example.org"},
		"X_SYSTEMD_HOSTNAME=$(reboot)":                          {},
		"X_SYSTEMD_HOSTNAME=" + strings.Repeat("a", 65):         {},
		"X_SYSTEMD_MACHINE_ID=0123456789abcdef0123456789abcdef": {MachineID: "0123456789abcdef0123456789abcdef"},
		"X_SYSTEMD_MACHINE_ID=uninitialized":                    {},
		"X_SYSTEMD_SIGNALS_LEVEL=2":                             {SignalsLevel: 2},
		"X_SYSTEMD_UNIT_ACTIVE=ssh-access.target":               {Targets: map[string]bool{"ssh-access.target": true}},
		"X_SYSTEMD_UNIT_ACTIVE=a.target\nX_SYSTEMD_UNIT_INACTIVE=a.target\nX_SYSTEMD_UNIT_ACTIVE=b.target": {Targets: map[string]bool{"a.target": false, "b.target": true}},
		"X_SYSTEMD_UNIT_ACTIVE=ssh.service": {},
		"X_SYSTEMD_UNIT_ACTIVE=../a.target": {},
		"X_SYSTEMD_UNIT_ACTIVE=.target":     {},
	} {
		if diff := cmp.Diff(want, parse([]byte(input))); diff != "" {
			t.Errorf("%q: %s", input, diff)
		}
	}
}

// TestUnheard: a guest does not speak for the unit.
func TestUnheard(t *testing.T) {
	for _, line := range []string{
		"MAINPID=1", "MAINPIDFDID=1", "FDSTORE=1", "FDSTOREREMOVE=1", "FDNAME=x", "FDPOLL=0", "WATCHDOG=1", "WATCHDOG=trigger",
		"WATCHDOG_USEC=1", "NOTIFYACCESS=all", "MONOTONIC_USEC=1", "RELOADING=1", "BUSERROR=x", "ERRNO=2", "VARLINKERROR=x",
		"EXTEND_TIMEOUT_USEC=1000000", "BARRIER=1", "RESTART_RESET=1", "X_SYSTEMD_REBOOT_PARAMETER=x", "X_ANYTHING=1",
	} {
		if m := parse([]byte(line)); !m.IsZero() {
			t.Errorf("%s: %+v", line, m)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"(1 of 9) A start job is running for /dev/vda (5s / 1min 30s)": "(1 of 9) A start job is running for /dev/vda (5s / 1min 30s)",
		"  a \t\v b  ":             "a b",
		"grün 🎉":                   "grün 🎉",
		"\x1b[31mred\x1b[0m":       "\uFFFD[31mred\uFFFD[0m",
		"bad \xff\xfe":             "bad \uFFFD\uFFFD",
		"a\u202eb\u200bc":          "a\uFFFDb\uFFFDc",
		"a\u2028b\u00a0c\u0085d":   "a b c d",
		strings.Repeat("a", 256):   strings.Repeat("a", 256),
		strings.Repeat("a", 257):   strings.Repeat("a", 253) + "…",
		strings.Repeat("ü", 129):   strings.Repeat("ü", 126) + "…",
		strings.Repeat("\x01", 99): strings.Repeat("\uFFFD", 84) + "…",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestUnfinished(t *testing.T) {
	for text, want := range map[string]bool{
		"":                               true,
		"R":                              true,
		"READY":                          true,
		"READY=":                         true,
		"READY=1":                        false,
		"READY=1\n":                      false,
		"READY=1\nSTATUS":                true,
		"READY=1\nSTATUS=":               false,
		"STATUS=\xf0\x9f\x8e":            true,
		"STATUS=\xf0\x9f\x8e\x89":        false,
		"STATUS=\xff":                    false,
		"X_SYSTEMD_SHUTDOWN=power":       true,
		"X_SYSTEMD_SHUTDOWN=poweroff":    false,
		"X_SYSTEMD_MACHINE_ID=01234":     true,
		"X_SYSTEMD_UNIT_ACTIVE=basic.ta": true,
		"EXIT_STATUS=":                   true,
		"EXIT_STATUS=1":                  false,
		"SOMETHING=":                     false,
	} {
		if got := unfinished([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestMerge(t *testing.T) {
	var m Message
	for _, text := range []string{"STATUS=one", "READY=1\nSTATUS=Ready.", "X_SYSTEMD_HOSTNAME=a\nX_SYSTEMD_UNIT_ACTIVE=a.target", "STATUS=two",
		"X_SYSTEMD_SIGNALS_LEVEL=2", "X_SYSTEMD_MACHINE_ID=0123456789abcdef0123456789abcdef",
		"STOPPING=1", "X_SYSTEMD_UNIT_INACTIVE=a.target", "EXIT_STATUS=7\nX_SYSTEMD_SHUTDOWN=reboot", "UNKNOWN=1"} {
		m.merge(parse([]byte(text)))
	}
	status, exit := "two", 7
	want := Message{Ready: true, Stopping: true, Status: &status, ExitStatus: &exit, Shutdown: "reboot", Hostname: "a",
		MachineID: "0123456789abcdef0123456789abcdef", SignalsLevel: 2, Targets: map[string]bool{"a.target": false}}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
}

func TestTargetsAreBounded(t *testing.T) {
	var m Message
	for i := range 10 * MaxTargets {
		m.merge(parse(fmt.Appendf(nil, "X_SYSTEMD_UNIT_ACTIVE=t%d.target", i)))
	}
	if len(m.Targets) != MaxTargets {
		t.Errorf("%d targets", len(m.Targets))
	}
	m.merge(parse([]byte("X_SYSTEMD_UNIT_INACTIVE=t0.target")))
	if m.Targets["t0.target"] {
		t.Error("one that is known is not changed any more")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"READY=1\nSTATUS=Ready.", "EXIT_STATUS=3\nX_SYSTEMD_SHUTDOWN=poweroff", "STATUS=\xff\n\x00=", "X_SYSTEMD_UNIT_ACTIVE=a.target", "=\n=="} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m := parse(text)
		if m.Status != nil {
			if len(*m.Status) > MaxStatus || !utf8.ValidString(*m.Status) || strings.ContainsFunc(*m.Status, func(r rune) bool { return r != utf8.RuneError && !unicode.IsPrint(r) }) {
				t.Errorf("status %q", *m.Status)
			}
			if again := printable(*m.Status); again != *m.Status {
				t.Errorf("%q becomes %q", *m.Status, again)
			}
		}
		if m.ExitStatus != nil && (*m.ExitStatus < 0 || *m.ExitStatus > 255) {
			t.Errorf("exit status %d", *m.ExitStatus)
		}
		if len(m.Targets) > MaxTargets || len(m.Hostname) > 64 {
			t.Errorf("%+v", m)
		}
		if text := m.Shutdown + m.Hostname + m.MachineID; strings.ContainsFunc(text, func(r rune) bool { return r > '~' || r <= ' ' || r == '=' }) {
			t.Errorf("%q", text)
		}
		var merged Message
		merged.merge(m)
		merged.merge(m)
		if diff := cmp.Diff(m, merged); diff != "" {
			t.Errorf("merging changes it: %s", diff)
		}
		unfinished(text)
	})
}
