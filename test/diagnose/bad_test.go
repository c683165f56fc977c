package diagnose

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// bad is a tree in which something cannot be read: what is found all the same, and of
// which paths it must be said that they are not known.
type bad struct {
	tree
	unknown []string // parts of paths
	nobody  bool     // ask as a user without rights
}

// lost is the tree in which bad things happen: a cause that is found by many files.
func lost(h *nixhost.Host) *nixhost.VM {
	return one(h, loads(h, "API_KEY"), binScript(loader("API_KEY")), guest("LoadCredential=API_KEY"))
}

const isLost = "test-vm runner-override-lost"

// databases are the states of a database that is not as it should be.
func databases() []bad {
	in := func(name string, d nixhost.Database, unknown ...string) bad {
		return bad{tree: tree{name: name, want: isLost, make: func(h *nixhost.Host) { lost(h); h.Database = d }}, unknown: unknown}
	}
	const file = "/nix/var/nix/db"
	return []bad{
		in("no database", nixhost.NoDatabase, file),
		in("a database of another schema", nixhost.OtherSchema, file),
		in("a database of other tables", nixhost.OtherTables, file),
		in("a database that is cut off", nixhost.Truncated, file),
		in("a database that is none", nixhost.Garbage, file),
		in("a database without a byte", nixhost.Empty, file),
		in("a database with a log alone", nixhost.LogOnly),
		in("a database with a log", nixhost.WAL),
	}
}

// broken are trees that are broken elsewhere.
func broken() []bad {
	return []bad{
		{tree: tree{name: "units are gone", make: func(h *nixhost.Host) {
			lost(h)
			for _, path := range glob(h, "/nix/store/*-unit-microvm-*") {
				h.Remove(path)
			}
		}, safe: true}, unknown: []string{"microvm@.service"}},
		{tree: tree{name: "current and booted are gone", want: "test-vm link-dangling", make: func(h *nixhost.Host) {
			lost(h)
			h.Remove(h.Readlink(h.StateDir + "/test-vm/current"))
		}}},
		{tree: tree{name: "the script is gone", make: func(h *nixhost.Host) {
			lost(h)
			h.Remove(h.Readlink(h.Readlink(h.StateDir+"/test-vm/current") + "/bin/microvm-run"))
		}}, unknown: []string{"microvm-run"}},
		{tree: tree{name: "an older microvm.nix", make: older}},
		{tree: tree{name: "loops", want: "test-vm link-dangling,test-vm imperative-over-declarative", make: func(h *nixhost.Host) {
			one(h)
			h.Link(h.StateDir+"/test-vm/current", "booted")
			h.Link(h.StateDir+"/test-vm/booted", "current")
			h.Link("/nix/var/nix/gcroots/auto/loop", "/nix/var/nix/gcroots/auto/loop")
			h.Link("/nix/var/nix/gcroots/again", "/nix/var/nix/gcroots")
			h.Live = false
		}}},
		{tree: tree{name: "units in a loop", safe: true, make: func(h *nixhost.Host) {
			lost(h)
			h.Link("/etc/static", "/etc/static")
			h.Live = false
		}}, unknown: []string{"/etc"}},
		{tree: tree{name: "hundred VMs", want: strings.Join(dotted(), ","), make: func(h *nixhost.Host) {
			for i := range 100 {
				name := fmt.Sprintf("vm-%d_a", i)
				if i%10 == 0 {
					name = dottedName(i)
				}
				h.VM(name, nixhost.QEMU, func(vm *nixhost.VM) { vm.VCPU = 1 + i%3 })
			}
			h.Switch()
		}}},
		{tree: tree{name: "a user without rights", want: isLost, make: func(h *nixhost.Host) {
			lost(h)
			flake(h, "/etc/nixos", "{ }\n")
			h.Dir("/etc/nixos", 0o700, 0, 0)
			h.Dir("/etc/secrets", 0o700, 0, 0)
		}}, nobody: true, unknown: []string{"/etc/nixos", "/etc/secrets"}},
		{tree: tree{name: "a user who may not see the VMs", make: func(h *nixhost.Host) {
			lost(h)
			h.Dir(h.StateDir, 0o700, nixhost.MicroVM, nixhost.KVM)
		}}, nobody: true, unknown: []string{"/var/lib/microvms"}},
		{tree: tree{name: "a user who may not see the database", want: isLost, make: func(h *nixhost.Host) {
			lost(h)
			h.Dir("/nix/var/nix/db", 0o700, 0, 0)
		}}, nobody: true, unknown: []string{"/nix/var/nix/db"}},
		{tree: tree{name: "names of all kinds", want: "test-vm runner-override-lost", make: func(h *nixhost.Host) {
			lost(h)
			for _, name := range []string{"evil\x1b[31m", "new\nline", "bytes\xff\xfe", "-dash", "sp ace", "..."} {
				h.Dir(h.StateDir+"/"+name, 0o755, nixhost.MicroVM, nixhost.KVM)
				h.File(h.StateDir+"/"+name+"/data.img", "", 0o644)
			}
			h.Link("/nix/store/not-a-store-path", "/nowhere")
			h.File("/nix/store/.links/x", "", 0o444)
			h.File("/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x.lock", "", 0o600)
		}}},
		{tree: tree{name: "pipes in the place of files", make: func(h *nixhost.Host) {
			vm := h.VM("test-vm", nixhost.ByHand(update), nixhost.Loads("API_KEY", "/run/keys/pipe"), nixhost.QEMU, nixhost.Passes("API_KEY"), idle)
			h.Switch()
			h.Create(vm)
			h.Dir("/run/keys", 0o700, 0, 0)
			for _, path := range []string{"/run/keys/pipe", h.StateDir + "/test-vm/flake", "/run/systemd/system/microvm@test-vm.service.d/pipe.conf", "/etc/nixos/flake.nix"} {
				h.File(path, "", 0o600)
				h.Remove(path)
				if err := unix.Mkfifo(h.At(path), 0o600); err != nil {
					panic(err)
				}
				h.Touch(path, h.Now().Add(-time.Hour))
			}
			h.Live = false
		}}, unknown: []string{"pipe.conf", "/test-vm/flake"}},
		{tree: tree{name: "files without end", want: "", make: func(h *nixhost.Host) {
			vm := h.VM("test-vm", nixhost.ByHand(update))
			h.Switch()
			h.Create(vm)
			for _, path := range []string{h.StateDir + "/test-vm/flake", "/run/systemd/system/microvm@test-vm.service.d/big.conf"} {
				h.File(path, "", 0o644)
				if err := os.Truncate(h.At(path), 1<<36); err != nil {
					panic(err)
				}
			}
			h.Live = false
		}}, unknown: []string{"big.conf"}},
	}
}

func dottedName(i int) string { return fmt.Sprintf("vm.%d.example-%d", i, i) }

func dotted() []string {
	var out []string
	for i := 0; i < 100; i += 10 {
		out = append(out, dottedName(i)+" name-with-dot")
	}
	return out
}

func glob(h *nixhost.Host, pattern string) []string {
	found, err := filepath.Glob(h.At(pattern))
	if err != nil || len(found) == 0 {
		panic(fmt.Sprint(pattern, ": ", err))
	}
	for i := range found {
		found[i] = strings.TrimPrefix(found[i], h.Root)
	}
	return found
}

// older is a VM by a microvm.nix and nixpkgs of 2023: every word quoted, nothing at run
// time, and fewer files.
func older(h *nixhost.Host) {
	h.Switch()
	vm := h.VM("test-vm", nixhost.ByHand(update))
	h.Create(vm)
	script := h.Script("microvm-test-vm-microvm-run", `set -e
rm -f 'test-vm.sock'

exec '/nix/store/1q8w6gl1ll0mwfkqc3c2yx005s6wwfrl-cloud-hypervisor-32.0/bin/cloud-hypervisor' '--cpus' 'boot=2' '--watchdog' '--console' 'tty' '--serial' 'pty' '--kernel' '/nix/store/3q8w6gl1ll0mwfkqc3c2yx005s6wwfrl-linux-6.1.9-dev/vmlinux' '--cmdline' 'console=hvc0 reboot=t panic=-1 it'\''s' '--memory' 'mergeable=on,shared=on,size=512M' '--disk' 'path=/nix/store/2q8w6gl1ll0mwfkqc3c2yx005s6wwfrl-rootfs.squashfs,readonly=on' '--api-socket' 'test-vm.sock'
`)
	runner := h.Store("microvm-cloud-hypervisor-test-vm", nixhost.Files{"bin/microvm-run": nixhost.LinkTo(script), "share/microvm/system": nixhost.LinkTo("/nix/store/4q8w6gl1ll0mwfkqc3c2yx005s6wwfrl-nixos-system-test-vm-23.05")})
	h.Link(h.StateDir+"/test-vm/current", runner)
	h.Link(h.StateDir+"/test-vm/booted", runner)
	h.Live = false
}

// TestBad: what cannot be read is said to be unknown, and the rest is found.
func TestBad(t *testing.T) {
	for _, c := range slices.Concat(databases(), broken()) {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			h := nixhost.New(t)
			c.make(h)
			root := h.Finish()
			code, stdout, stderr := run(t, c.nobody, "--root", root, "--json")
			r := decode(t, code, stdout, stderr)
			if got := r.causes(); !slices.Equal(got, c.causes()) {
				t.Errorf("found:\n  %s\nand it is so:\n  %s", strings.Join(got, "\n  "), strings.Join(c.causes(), "\n  "))
			}
			for _, part := range c.unknown {
				if !slices.ContainsFunc(r.Partial, func(p partial) bool { return strings.Contains(p.Path, part) }) {
					t.Errorf("it is not said that %s is not known: %+v", part, r.Partial)
				}
			}
			for i, p := range r.Partial {
				if slices.Contains(r.Partial[:i], p) {
					t.Errorf("said twice: %+v", p)
				}
			}
			_, shown, _ := run(t, c.nobody, "--root", root)
			if strings.Contains(shown, "\x1b") || !utf8.ValidString(shown) {
				t.Errorf("bytes of a name go to the terminal:\n%q", shown)
			}
		})
	}
}

// TestLocked: somebody writes to the database.
func TestLocked(t *testing.T) {
	t.Parallel()
	h := nixhost.New(t)
	lost(h)
	root := h.Finish()
	h.Lock()
	if got := strings.Join(diagnose(t, root).causes(), ","); got != "- root-runs-replaceable,"+isLost {
		t.Error(got)
	}
}

// TestOutside: no link of the tree leads out of it, wherever it says that it leads.
func TestOutside(t *testing.T) {
	t.Parallel()
	h := nixhost.New(t)
	one(h)
	outside := t.TempDir()
	files := map[string]string{"bin/microvm-run": "#!/bin/sh\nexec outside-marker\n", "share/microvm/hypervisor": "outside-marker\n", "test-vm.conf": "[Service]\nLoadCredential=outside-marker:/x\n", "flake": "/nix/store/outside-marker"}
	for name, text := range files {
		path := filepath.Join(outside, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	up := strings.Repeat("../", 30)
	h.Link(h.StateDir+"/test-vm/current", up+outside)
	h.Link(h.StateDir+"/test-vm/flake", outside+"/flake")
	h.Link("/run/systemd/system/microvm@test-vm.service.d/x.conf", up+outside+"/test-vm.conf")
	h.Link("/run/systemd/system/microvm@.service.d", outside)
	h.Link("/var/lib/microvms/other", up+outside)
	h.Live = false
	root := h.Finish()
	_, stdout, stderr := run(t, false, "--root", root, "--json")
	if strings.Contains(stdout+stderr, "outside-marker") {
		t.Errorf("it was read what lies outside:\n%s", stdout)
	}
}

// TestNothing: what is no host has no causes, and what is not there is bad input.
func TestNothing(t *testing.T) {
	t.Parallel()
	if r := diagnose(t, t.TempDir()); len(r.Findings) > 0 || len(r.VMs) > 0 {
		t.Errorf("%+v", r)
	}
	h := nixhost.New(t)
	one(h)
	root := h.Finish()
	for _, args := range [][]string{{"--root", filepath.Join(root, "nowhere")}, {"--root", filepath.Join(root, "etc/passwd")}, {"--root", root, "no-such-vm"},
		{"--root", root, "test-vm", "--against", "no-such-vm"}, {"--root", root, "--against", "test-vm"}, {"--no-such-flag"}} {
		out, err := exec.Command(program, append([]string{"diagnose"}, args...)...).CombinedOutput()
		if code := exitCode(err); code != 2 || len(out) == 0 || strings.Contains(string(out), "panic") {
			t.Errorf("%q: exit code %d: %s", args, code, out)
		}
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// TestGarbage: whatever file has other bytes, is a directory, or is not there, nothing
// breaks, and no secret is repeated.
func TestGarbage(t *testing.T) {
	t.Parallel()
	h := nixhost.New(t)
	h.SopsUnit()
	source(h, "  microvm.vms.test-vm.config.microvm.hugepageMem = true;")
	lost(h)
	flake(h, "/etc/nixos", "{\n  imports = [ ./users.nix ];\n}\n")
	h.Create(h.VM("by-hand", nixhost.ByHand("git+file:///etc/nixos"), nixhost.QEMU, func(vm *nixhost.VM) { vm.ExtraArgsScript = "echo -s\n" }))
	root := h.Finish()
	tried := 0
	for _, path := range interesting(t, root) {
		for kind, spoil := range map[string]func() error{
			"garbage": func() error {
				return os.WriteFile(path, []byte("\x00\xff[Service]\n\x7f\x00'\"$(`\\\n=\xc3\x28"), 0o644)
			},
			"directory": func() error { return os.Mkdir(path, 0o755) },
			"absent":    func() error { return nil },
		} {
			if err := os.Rename(path, path+".kept"); err != nil {
				t.Fatal(err)
			}
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			tried++
			_, stdout, _ := run(t, false, "--root", root, "--json")
			if !strings.HasPrefix(stdout, "{") {
				t.Errorf("%s: %s: %s", path, kind, stdout)
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".kept", path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if tried < 150 {
		t.Errorf("only %d files were spoiled", tried)
	}
}

// interesting are files and links that the program may read: not the stand-ins for
// programs, and of the store not what is the same in all of it.
func interesting(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	seen := map[string]int{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, root)
		if d.IsDir() {
			if strings.Contains(rel, ".git/objects") || strings.Contains(rel, ".git/hooks") {
				return fs.SkipDir
			}
			return nil
		}
		// Each kind of file of the store a few times.
		if name, ok := strings.CutPrefix(rel, "/nix/store/"); ok {
			if strings.Contains(name, "propagated-build-inputs") || strings.Contains(name, "/bin/") && !strings.Contains(name, "microvm") {
				return nil
			}
			if seen[name[33:]]++; seen[name[33:]] > 2 {
				return nil
			}
		}
		out = append(out, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
