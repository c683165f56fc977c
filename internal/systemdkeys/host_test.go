package systemdkeys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// install is a systemd on this machine: the one of the machine itself, or one
// below a root directory.
type install struct {
	root    string // "" is the machine's own
	version int
}

// command returns a command of that systemd that does not outlive the test.
func (i install) command(t *testing.T, candidates []string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	for _, path := range candidates {
		if _, err := os.Stat(filepath.Join(i.root, path)); err != nil {
			continue
		}
		if i.root != "" {
			path, args = "chroot", append([]string{i.root, path}, args...)
		}
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "SYSTEMD_COLORS=0", "LC_ALL=C"}
		return cmd
	}
	t.Skipf("none of %v is in %s/", candidates, i.root)
	return nil
}

func (i install) systemd(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := i.command(t, []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"}, args...).Output()
	if err != nil {
		t.Fatalf("systemd %v of %s/: %v", args, i.root, err)
	}
	return out
}

// verify has systemd-analyze read a unit and returns what it says of each line.
func (i install) verify(t *testing.T, text string) (byLine map[int][]string, whole string) {
	t.Helper()
	dir := t.TempDir()
	if i.root != "" {
		var err error
		if dir, err = os.MkdirTemp(filepath.Join(i.root, "tmp"), "systemdkeys"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	path := filepath.Join(dir, "probe.service")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := i.command(t, []string{"/usr/bin/systemd-analyze", "/bin/systemd-analyze"}, "verify", "--man=no", strings.TrimPrefix(path, i.root))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// The exit status says that something was found, which is expected.
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatalf("systemd-analyze of %s/: %v", i.root, err)
	}
	byLine = make(map[int][]string)
	for _, m := range regexp.MustCompile(`probe\.service:(\d+): (.*)`).FindAllStringSubmatch(stderr.String(), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		byLine[n] = append(byLine[n], m[2])
	}
	return byLine, stderr.String()
}

// forEachInstall runs a test on every systemd at hand.
func forEachInstall(t *testing.T, test func(*testing.T, install)) {
	need.All(t, need.Systemd)
	for _, root := range append([]string{""}, filepath.SplitList(os.Getenv("AMPOULE_SYSTEMD_ROOTS"))...) {
		t.Run("root="+root, func(t *testing.T) {
			i := install{root: root}
			m := regexp.MustCompile(`^systemd ([0-9]+)`).FindSubmatch(i.systemd(t, "--version"))
			if m == nil {
				t.Fatalf("systemd in %s/ does not say its version", root)
			}
			var err error
			if i.version, err = strconv.Atoi(string(m[1])); err != nil {
				t.Fatal(err)
			}
			if i.version > Newest {
				t.Skipf("systemd %d is newer than the tables, which end with %d", i.version, Newest)
			}
			t.Logf("systemd %d", i.version)
			test(t, i)
		})
	}
}

// TestSameAsSystemd demands that systemd's own list of its keys and the tables
// are the same. The list leaves out the keys without effect.
func TestSameAsSystemd(t *testing.T) {
	forEachInstall(t, func(t *testing.T, i install) {
		var section string
		var theirs, ours []string
		for line := range strings.Lines(string(i.systemd(t, "--dump-configuration-items"))) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") {
				section = strings.Trim(line, "[]")
			} else if name, _, ok := strings.Cut(line, "="); ok && slices.Contains(Sections(), section) {
				theirs = append(theirs, section+"."+name)
			}
		}
		for _, k := range all() {
			if k.In(i.version) == Honours {
				ours = append(ours, k.Section+"."+k.Name)
			}
		}
		if len(theirs) < 300 {
			t.Fatalf("systemd lists %d keys; the list was not understood", len(theirs))
		}
		for _, k := range theirs {
			if !slices.Contains(ours, k) {
				t.Errorf("systemd %d has %s, the tables say it has not", i.version, k)
			}
		}
		for _, k := range ours {
			if !slices.Contains(theirs, k) {
				t.Errorf("the tables say that systemd %d has %s, but it has not", i.version, k)
			}
		}
	})
}

// learnedToReset are the keys that keep their value on an empty assignment in
// the versions since 252 that are older than the one given.
var learnedToReset = map[string]int{"PrivateMounts": 254, "ProtectHostname": 258}

// TestSystemdOnEmptyAssignments has systemd read an empty assignment of every
// key and compares what it says of each with the tables: whether it knows the
// key, and whether it can do anything with the empty value.
func TestSystemdOnEmptyAssignments(t *testing.T) {
	const sentinel = "SentinelOfTheTest"
	forEachInstall(t, func(t *testing.T, i install) {
		var text strings.Builder
		lines := make(map[int]Key)
		n := 0
		for _, section := range Sections() {
			fmt.Fprintf(&text, "[%s]\n", section)
			n++
			for _, table := range tables(section) {
				for _, k := range table {
					if k.Name == "DynamicUser" {
						continue // ends the reading, see below
					}
					fmt.Fprintf(&text, "%s=\n", k.Name)
					n++
					lines[n] = k
				}
			}
		}
		fmt.Fprintf(&text, "[Service]\n%s=1\n", sentinel)
		said, whole := i.verify(t, text.String())
		if !strings.Contains(whole, sentinel) {
			t.Fatalf("systemd did not read to the end:\n%s", whole)
		}
		for n, k := range lines {
			checkSaid(t, i.version, k, strings.Join(said[n], "; "))
		}
	})
}

func checkSaid(t *testing.T, version int, k Key, said string) {
	t.Helper()
	at := fmt.Sprintf("systemd %d on an empty %s.%s said %q", version, k.Section, k.Name, said)
	unknown := strings.Contains(said, "Unknown key")
	switch state := k.In(version); {
	case unknown != (state == NotYet || state == Dropped):
		t.Errorf("%s; the tables say %+v", at, k)
		return
	case unknown:
		return
	case strings.Contains(said, "disabled at compile time"):
		t.Log(at)
		return
	case state == Ignores:
		if !strings.Contains(said, "is ignored") {
			t.Errorf("%s; the tables say that it is ignored", at)
		}
		return
	}
	if version < 252 {
		return // the tables speak of hosts only
	}
	refused := strings.Contains(said, "ignoring") || strings.Contains(said, "Failed") || strings.Contains(said, "Invalid")
	reset, learned := learnedToReset[k.Name]
	want := k.KeepsOnEmpty && k.Kind != Dependencies && (!learned || version < reset)
	if refused != want {
		t.Errorf("%s; the tables say %+v", at, k)
	}
}

// TestSystemdRefusesEmptyDynamicUser shows the one key whose empty assignment
// costs the whole unit.
func TestSystemdRefusesEmptyDynamicUser(t *testing.T) {
	forEachInstall(t, func(t *testing.T, i install) {
		const rest = "\nExecStart=/bin/true\n"
		if _, whole := i.verify(t, "[Service]\nDynamicUser="+rest); !strings.Contains(whole, "bad unit file setting") {
			t.Errorf("systemd %d took it:\n%s", i.version, whole)
		}
		if _, whole := i.verify(t, "[Service]\nDynamicUser=no"+rest); strings.Contains(whole, "bad unit file setting") {
			t.Errorf("systemd %d refuses what it should take:\n%s", i.version, whole)
		}
	})
}

// TestSystemdPassesOverExtensions shows that the prefix X- is taken in keys
// and sections, and in nothing else.
func TestSystemdPassesOverExtensions(t *testing.T) {
	forEachInstall(t, func(t *testing.T, i install) {
		said, whole := i.verify(t, "[Unit]\nX-Mine=1\n[X-Mine]\nAnything=1\n[Service]\nX-=1\nExecStart=/bin/true\nMine=1\n[Sercive]\nExecStart=/bin/false\n[Install]\nX-Mine=1\n")
		if len(said[2])+len(said[4])+len(said[6])+len(said[12]) != 0 {
			t.Errorf("systemd %d minds extensions:\n%s", i.version, whole)
		}
		if len(said[8]) == 0 || len(said[9]) == 0 {
			t.Errorf("systemd %d does not mind an unknown key and section:\n%s", i.version, whole)
		}
	})
}
