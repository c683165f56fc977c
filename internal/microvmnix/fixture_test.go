package microvmnix

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixrunner"
)

// TestFixtures: of all that microvm.nix really generates nothing is strange, but for words
// that are known only when the script runs, and what share/microvm says is read.
func TestFixtures(t *testing.T) {
	names := nixrunner.Names(t)
	if len(names) < 100 {
		t.Fatalf("only %d fixtures", len(names))
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			runner := nixrunner.Write(t, root, name)
			r, problems := ReadRunner(nixrunner.FS(root), strings.TrimPrefix(runner, "/"))
			want := map[string]string{
				"cloud-hypervisor-app-vm-01": `only when the script runs: "oem_strings=[$OEM_STRINGS]"`,
				"kvmtool-everything":         "only when the script runs: mode=tap,tapif=/dev/tap$(< /sys/class/net/mv-web/ifindex)",
			}[name]
			for _, p := range problems {
				if want == "" || !strings.Contains(p.Error(), want) {
					t.Error(p.Error())
				}
			}
			if want != "" && len(problems) != 1 {
				t.Errorf("%d problems, and not one", len(problems))
			}
			if r == nil || r.Script == nil || r.Script.Exec == nil {
				t.Fatal("no runner, no script, or nothing that it executes")
			}
			if !strings.HasPrefix(name, r.Hypervisor+"-") || r.Script.Hypervisor() != r.Hypervisor {
				t.Errorf("hypervisor %q, and the script's %q", r.Hypervisor, r.Script.Hypervisor())
			}
			if want := nixrunner.Paths(t, name)["share/microvm/system"]; r.System != want {
				t.Errorf("system %q, not %q", r.System, want)
			}
			if !strings.HasPrefix(r.Toplevel(), "/nix/store/") && name != "firecracker-extra-config" { // its init= is /other
				t.Errorf("toplevel %q", r.Toplevel())
			}
			for _, s := range r.Shares {
				if s.Daemon == nil {
					t.Errorf("nothing is known of the daemon of %s", s.Tag)
				}
			}
		})
	}
}

// TestOlderFixtures: likewise of what versions since November 2023 generate.
func TestOlderFixtures(t *testing.T) {
	names := nixrunner.Older(t)
	if len(names) < 39 {
		t.Fatalf("only %d fixtures", len(names))
	}
	for _, name := range names {
		t.Run(strings.TrimPrefix(name, "../older/"), func(t *testing.T) {
			root := t.TempDir()
			runner := nixrunner.Write(t, root, name)
			r, problems := ReadRunner(nixrunner.FS(root), strings.TrimPrefix(runner, "/"))
			for _, p := range problems {
				t.Error(p.Error())
			}
			if r == nil || r.Script == nil || r.Script.Exec == nil {
				t.Fatal("no runner, no script, or nothing that it executes")
			}
			configuration := filepath.Base(name)
			if hypervisor := r.Script.Hypervisor(); hypervisor == "" || !strings.HasPrefix(configuration, hypervisor+"-") || r.Hypervisor != hypervisor {
				t.Errorf("hypervisor %q, and the script's %q", r.Hypervisor, hypervisor)
			}
			want := Generated
			if strings.HasSuffix(configuration, "-devices") { // has a preStart
				want = Customised
			}
			if r.Script.Make != want {
				t.Errorf("it is %s, not %s: %+v", r.Script.Make, want, r.Script.Edits)
			}
			volumes := 0
			for _, s := range r.Script.Statements {
				if s.Kind == MakeVolume && s.Volume != nil && s.Volume.Size > 0 {
					volumes++
				}
			}
			if devices := strings.HasSuffix(configuration, "-devices"); devices && (volumes != 2 || len(r.Taps) != 2) {
				t.Errorf("%d volumes are made, taps %v", volumes, r.Taps)
			}
		})
	}
}

// TestMakeOfFixtures: what the operator added is told from what microvm.nix writes.
func TestMakeOfFixtures(t *testing.T) {
	for _, name := range nixrunner.Names(t) {
		text, err := os.ReadFile(filepath.Join(nixrunner.Dir(t), name, "bin/microvm-run"))
		if err != nil {
			t.Fatal(err)
		}
		want := Generated
		_, configuration, _ := strings.Cut(strings.TrimPrefix(name, "cloud-"), "-")
		switch configuration {
		case "app-vm-01":
			want = Foreign
		case "pre-start", "extra-args-script", "everything":
			want = Customised
		}
		if s, _ := ParseScript(name, text); s.Make != want {
			t.Errorf("%s is %s, not %s: %+v", name, s.Make, want, s.Edits)
		}
	}
}

// TestSeed: the deployed script of the seed is the template, and the one that lies in the
// store reads the credentials.
func TestSeed(t *testing.T) {
	root := t.TempDir()
	runner := nixrunner.Write(t, root, "cloud-hypervisor-seed")
	r, problems := ReadRunner(nixrunner.FS(root), strings.TrimPrefix(runner, "/"))
	if len(problems) > 0 || r.Script.Make != Generated || len(r.Script.Credentials) != 0 {
		t.Errorf("deployed: %s, %v, %v", r.Script.Make, r.Script.Credentials, problems)
	}
	others, err := filepath.Glob(filepath.Join(root, "nix/store/*-microvm-test-vm-microvm-run"))
	if err != nil || len(others) != 2 {
		t.Fatalf("%v, %v", others, err)
	}
	for _, file := range others {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if path := "/" + strings.TrimPrefix(strings.TrimPrefix(file, root), "/"); path != r.Bin[1].Target {
			if s, _ := ParseScript(file, text); len(s.Credentials) == 0 || s.Make != Foreign {
				t.Errorf("the operator's: %s, %v", s.Make, s.Credentials)
			}
		}
	}
}

// TestFixturesAreFresh evaluates microvm.nix, where it is, and compares.
func TestFixturesAreFresh(t *testing.T) {
	microvm, lib := os.Getenv("AMPOULE_TEST_MICROVM_NIX"), os.Getenv("AMPOULE_TEST_NIXPKGS_LIB")
	if microvm == "" || lib == "" {
		t.Skip("AMPOULE_TEST_MICROVM_NIX and AMPOULE_TEST_NIXPKGS_LIB name no checkouts")
	}
	for what, committed := range map[string]string{"runners": nixrunner.Dir(t), "units": "../testkit/nixhost/testdata/units"} {
		fresh := t.TempDir()
		cmd := exec.Command("testdata/gen/generate", what, fresh)
		cmd.Env = append(os.Environ(), "MICROVM_NIX="+microvm, "NIXPKGS_LIB="+lib)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		if diff := cmp.Diff(contents(t, fresh), contents(t, committed)); diff != "" {
			t.Errorf("%s is not what testdata/gen/generate makes:\n%s", committed, diff)
		}
	}
}

// TestOlderFixturesAreFresh: AMPOULE_TEST_MICROVM_NIX_OLDER is a directory with checkouts of
// these versions.
func TestOlderFixturesAreFresh(t *testing.T) {
	older, lib := os.Getenv("AMPOULE_TEST_MICROVM_NIX_OLDER"), os.Getenv("AMPOULE_TEST_NIXPKGS_LIB")
	if older == "" || lib == "" {
		t.Skip("AMPOULE_TEST_MICROVM_NIX_OLDER and AMPOULE_TEST_NIXPKGS_LIB name no checkouts")
	}
	for _, version := range []string{"2025-05-28", "v0.4.1", "v0.5.0"} {
		fresh := t.TempDir()
		cmd := exec.Command("testdata/gen/generate", "older", fresh)
		cmd.Env = append(os.Environ(), "MICROVM_NIX="+filepath.Join(older, version), "NIXPKGS_LIB="+lib)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", version, err, out)
		}
		if diff := cmp.Diff(contents(t, fresh), contents(t, filepath.Join("testdata/older", version))); diff != "" {
			t.Errorf("testdata/older/%s is not what testdata/gen/generate makes:\n%s", version, diff)
		}
	}
}

// contents are the files of the directories in a directory, and where its links lead.
func contents(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Dir(file) == root {
			return err
		}
		name := strings.TrimPrefix(file, root+"/")
		if d.Type() == fs.ModeSymlink {
			out[name], err = os.Readlink(file)
			return err
		}
		text, err := os.ReadFile(file)
		out[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
