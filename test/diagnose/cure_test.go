package diagnose

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// TestCure: what is said of the seed's host is done, and mends it.
func TestCure(t *testing.T) {
	t.Parallel()
	h := nixhost.New(t)
	seed(h)
	root := h.Finish()
	r := diagnose(t, root)
	i := slices.IndexFunc(r.Findings, func(f finding) bool { return f.Code == "runner-override-lost" })
	if i < 0 {
		t.Fatalf("found: %v", r.causes())
	}
	cure(t, r.Findings[i])
	after := diagnose(t, root)
	if got := strings.Join(after.causes(), ","); got != rest {
		t.Errorf("after the cure: %s\n%+v", got, after.Findings)
	}
	// The file that systemd would start hands the credential on.
	out, err := exec.Command(program, "plan", root+"/run/ampoule/adopted/test-vm.microvm", "--json").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"API_KEY"`) {
		t.Errorf("%v: %s", err, out)
	}
}

// cure does what a finding says, as an administrator does who pastes it.
func cure(t *testing.T, f finding) {
	t.Helper()
	bin := t.TempDir()
	if err := os.Symlink(program, filepath.Join(bin, "ampoule")); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(f.Cure, func(l string) bool { return l != "" && !strings.HasPrefix(l, "#") }) {
		t.Fatalf("there is nothing to do: %q", f.Cure)
	}
	cmd := exec.Command("sh", "-e")
	cmd.Stdin = strings.NewReader(strings.Join(f.Cure, "\n") + "\n")
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, strings.Join(f.Cure, "\n"), out)
	}
}
