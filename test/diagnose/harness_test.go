// Package diagnose has the program explain trees of NixOS hosts, each of which got into
// its state by what an administrator did there, and compares what is found exactly: every
// cause that is so, none that is not. A row of a table is a tree with what must be
// found; Near names the cause that a tree nearly has.
package diagnose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

var given = flag.String("program", "", "test this program instead of the one that is built from the tree")

// program is the built ampoule.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "ampoule-diagnose-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // for a user without rights too
	}
	if program = *given; err == nil && program == "" {
		program = filepath.Join(dir, "ampoule")
		cmd := exec.Command("go", "build", "-o", program, "../../cmd/ampoule")
		cmd.Stderr = os.Stderr
		err = cmd.Run()
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// tree is a host and what must be found in it.
type tree struct {
	name string
	near string // the cause that it nearly has
	make func(h *nixhost.Host)
	// want are the causes, as "VM cause", or "- cause" of the host. That root runs what
	// others may replace holds on every host of microvm.nix, and is not in it.
	want string
	// safe says that root runs nothing that others may replace.
	safe bool
}

// finding is one of the program's; report is all that it says.
type finding struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	VM       string `json:"vm"`
	Title    string `json:"title"`
	Evidence []struct {
		Path string `json:"path"`
		Line int    `json:"line"`
		What string `json:"what"`
	} `json:"evidence"`
	Cause string   `json:"cause"`
	Cure  []string `json:"cure"`
}

// partial is what the program says that it does not know.
type partial struct {
	Path    string `json:"path"`
	Why     string `json:"why"`
	Unknown string `json:"unknown"`
}

type report struct {
	Findings []finding `json:"findings"`
	Partial  []partial `json:"partial"`
	VMs      []struct {
		Name      string  `json:"name"`
		Declared  *string `json:"declared"`
		Installed *string `json:"installed"`
		Booted    *string `json:"booted"`
	} `json:"vms"`
}

// exit codes of ampoule diagnose.
const (
	nothing  = 0
	warnings = 1
	failures = 3
)

// run runs the program, as root or as a user who owns nothing.
func run(t *testing.T, nobody bool, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a program that hangs
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append([]string{"diagnose"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Dir = "/"
	if nobody {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if code = cmd.ProcessState.ExitCode(); code != nothing && code != warnings && code != failures || strings.Contains(errs.String(), "panic") {
		t.Fatalf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
	if strings.Contains(out.String()+errs.String(), "hunter2") {
		t.Errorf("a secret is repeated:\n%s%s", out.String(), errs.String())
	}
	return code, out.String(), errs.String()
}

// diagnose gives what the program finds in a tree.
func diagnose(t *testing.T, root string, args ...string) report {
	t.Helper()
	code, stdout, stderr := run(t, false, append([]string{"--root", root, "--json"}, args...)...)
	return decode(t, code, stdout, stderr)
}

func decode(t *testing.T, code int, stdout, stderr string) report {
	t.Helper()
	var r report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v\n%s%s", err, stdout, stderr)
	}
	worst := nothing
	for _, f := range r.Findings {
		switch f.Severity {
		case "error":
			worst = failures
		case "warning":
			worst = max(worst, warnings)
		case "note":
		default:
			t.Errorf("%s: severity %q", f.Code, f.Severity)
		}
		// That systemd refuses a unit is an error of a cause that is a warning otherwise, and
		// of SetCredential= nobody knows whether its value is a secret.
		other := map[string]string{"execstart-shadowed": "error", "secret-in-store": "warning"}
		if !slices.Contains(severities[f.Severity], f.Code) && other[f.Code] != f.Severity {
			t.Errorf("%s is no %s", f.Code, f.Severity)
		}
		if f.Title == "" || f.Cause == "" || len(f.Evidence) == 0 || len(f.Cure) == 0 || strings.Contains(f.Title, "\n") {
			t.Errorf("%s is not explained: %+v", f.Code, f)
		}
	}
	if code != worst {
		t.Errorf("the exit code is %d, and of the findings it would be %d", code, worst)
	}
	for _, p := range r.Partial {
		if p.Path == "" || p.Why == "" || p.Unknown == "" {
			t.Errorf("what is not known is not explained: %+v", p)
		}
	}
	return r
}

// causes are the findings as a tree has them.
func (r report) causes() []string {
	var out []string
	for _, f := range r.Findings {
		vm := f.VM
		if vm == "" {
			vm = "-"
		}
		out = append(out, vm+" "+f.Code)
	}
	slices.Sort(out)
	return out
}

func (c tree) causes() []string {
	var out []string
	for line := range strings.SplitSeq(c.want, ",") {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	if !c.safe {
		out = append(out, "- root-runs-replaceable")
	}
	slices.Sort(out)
	return out
}

// check runs trees, each in parallel to the others.
func check(t *testing.T, trees []tree) {
	for _, c := range trees {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			h := nixhost.New(t)
			c.make(h)
			r := diagnose(t, h.Finish())
			if got := r.causes(); !slices.Equal(got, c.causes()) {
				t.Errorf("found:\n  %s\nand it is so:\n  %s", strings.Join(got, "\n  "), strings.Join(c.causes(), "\n  "))
				for _, f := range r.Findings {
					if !slices.Contains(c.causes(), strings.TrimPrefix(f.VM+" "+f.Code, " ")) && f.Code != "root-runs-replaceable" {
						t.Logf("%s %s: %s\n  %+v", f.VM, f.Code, f.Title, f.Evidence)
					}
				}
			}
			for _, p := range r.Partial {
				if h.Live && h.Database == nixhost.Clean {
					t.Errorf("not known in a tree that has all: %+v", p)
				}
			}
		})
	}
}

// severities are all causes by their severity.
var severities = map[string][]string{
	"error": {"runner-override-lost", "credentials-unread", "source-untracked", "running-not-booted", "credential-name-mismatch", "secret-in-argv",
		"secret-in-store", "secret-in-oem-strings", "secret-missing", "secret-too-open", "link-dangling"},
	"warning": {"flake-pinned", "flake-install-once", "built-not-switched", "running-not-in-profile", "restart-not-wanted", "trigger-unchanged", "name-with-dot",
		"imperative-over-declarative", "target-inactive", "vm-removed", "secret-newer", "secret-after-unit", "root-runs-replaceable", "gc-root-lost",
		"execstart-shadowed", "option-ignored", "script-edited"},
	"note": {"host-kernel-old"},
}

// all are the trees of all tables.
func all() []tree {
	return slices.Concat(healthy(), deployed(), triggers(), installs(), systems(), roots(), runners(), readers(), running(), credentials(), secrets(), opened(), late(), stores(), sources(), combined(), several())
}

// TestTables: each cause is so in two trees at least, and nearly so in one.
func TestTables(t *testing.T) {
	so, near, many, names := map[string]int{}, map[string]int{}, 0, map[string]bool{}
	for _, c := range all() {
		if names[c.name] {
			t.Errorf("two trees are called %q", c.name)
		}
		names[c.name] = true
		causes := c.causes()
		for _, line := range slices.Compact(causes) {
			_, code, _ := strings.Cut(line, " ")
			so[code]++
		}
		if len(c.causes()) > 2 && !c.safe {
			many++
		}
		if near[c.near]++; c.near != "" && slices.ContainsFunc(causes, func(l string) bool { return strings.HasSuffix(l, " "+c.near) && c.near != "root-runs-replaceable" }) {
			t.Errorf("%s: it has %s, and not nearly", c.name, c.near)
		}
	}
	if len(all()) < 60 || many < 10 {
		t.Errorf("%d trees, %d with more causes than one", len(all()), many)
	}
	for _, codes := range severities {
		for _, code := range codes {
			if so[code] < 2 || near[code] < 1 {
				t.Errorf("%s is so in %d trees, and nearly in %d", code, so[code], near[code])
			}
			delete(so, code)
			delete(near, code)
		}
	}
	delete(near, "")
	for code := range so {
		t.Errorf("there is no cause %s", code)
	}
	for code := range near {
		t.Errorf("there is no cause %s", code)
	}
}
