package vm

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	chfake "github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nixrunner"
	"github.com/ampoule-vm/ampoule/internal/testkit/tinykernel"
)

// adoptable is a runner of microvm.nix whose script has paths of this host in it.
type adoptable struct {
	root, runner string
	// state is the directory in which the VM's relative paths lie.
	state string
}

// replacement is a pattern in a script, and what stands in the place of all that
// matches.
type replacement struct{ pattern, with string }

// prepare writes a fixture, replaces paths in its script, and makes the disks that
// the script names.
func prepare(t *testing.T, fixture string, replacements ...replacement) adoptable {
	t.Helper()
	a := adoptable{root: t.TempDir(), state: t.TempDir()}
	a.runner = nixrunner.Write(t, a.root, fixture)
	script := filepath.Join(a.root, nixrunner.Paths(t, fixture)["bin/microvm-run"])
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(a.state, "store.erofs")
	for _, r := range append(replacements, replacement{`/nix/store/[^ ,']*-microvm-store-disk\.erofs`, disk}, replacement{`/var/lib/images/`, a.state + "/"}) {
		re := regexp.MustCompile(r.pattern)
		if !re.Match(text) {
			t.Fatalf("%s has nothing like %s", script, r.pattern)
		}
		text = re.ReplaceAllLiteral(text, []byte(r.with))
	}
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, text, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"store.erofs", "data.img", "db.img", "golden/models v2.img", "efi.img"} {
		file := filepath.Join(a.state, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, make([]byte, (i+1)<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// adopt has the program make a file of the runner, and returns its lines.
func (a adoptable) adopt(t *testing.T, arguments ...string) []string {
	t.Helper()
	cmd := exec.Command(program, append([]string{"adopt", "--root", a.root, a.runner, "--state-dir", a.state}, arguments...)...)
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, words.String())
	}
	_, lines, ok := strings.Cut(string(out), "[MicroVM]\n")
	if !ok || !strings.Contains(words.String(), "none is lost") {
		t.Fatalf("adopt wrote\n%s\nand said\n%s", out, words.String())
	}
	return strings.Split(strings.TrimSuffix(lines, "\n"), "\n")
}

// TestAdoptedQEMU: a VM of microvm.nix, with the text that microvm.nix generates,
// boots with its disks in their order, and with its credential.
func TestAdoptedQEMU(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	g := guest.Get(t, "trixie")
	secret := filepath.Join(t.TempDir(), "api-key")
	key := value{name: "API_KEY", data: []byte("of a runner that was adopted")}
	writeSecret(t, secret, key.data)
	a := prepare(t, "qemu-volumes",
		replacement{`/nix/store/[^ ]*/bin/qemu-system-x86_64`, qemu},
		replacement{`/nix/store/[^ ]*/bzImage`, g.Kernel},
		replacement{`/nix/store/[^ ]*/initrd`, g.Initrd},
		replacement{`loglevel=4`, "loglevel=4 " + guest.TestParameters + " ampoule.test=poweroff"},
		replacement{` -serial chardev:stdio`, " -fw_cfg 'name=opt/io.systemd.credentials/API_KEY,file=" + secret + "' -serial chardev:stdio"},
	)
	m := start(t, options{name: "volumes", lines: a.adopt(t)})
	m.wantExit(0, "the guest powered off", 2*bootTime)
	r := m.reports(1)[0]
	same(t, "PID 1", r.Credentials, []value{key})
	if len(r.Disks) != 5 || r.Disks[2].Serial != "db-0001" {
		t.Fatalf("the guest has the disks %+v", r.Disks)
	}
	for i, d := range r.Disks {
		if want := int64(i+1) << 20; d.Bytes != want {
			t.Errorf("disk %d has %d bytes, want %d: %+v", i, d.Bytes, want, r.Disks)
		}
	}
}

// TestAdoptedCloudHypervisor: with the stand-in, or itself where a variable names it,
// up to a guest of a few instructions.
func TestAdoptedCloudHypervisor(t *testing.T) {
	need.All(t, need.VM, need.Root)
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		t.Skipf("KVM does not open: %v", err)
	} else {
		f.Close()
	}
	dir := t.TempDir()
	kernel, secret := filepath.Join(dir, "vmlinux"), filepath.Join(dir, "api-key")
	if err := os.WriteFile(kernel, tinykernel.ELF(tinykernel.Word+tinykernel.Loop), 0o644); err != nil {
		t.Fatal(err)
	}
	writeSecret(t, secret, []byte("of a runner that was adopted"))
	a := prepare(t, "cloud-hypervisor-volumes",
		replacement{`/nix/store/[^ ]*/bin/cloud-hypervisor`, cmp.Or(os.Getenv("AMPOULE_TEST_CLOUD_HYPERVISOR"), chfake.Install(t))},
		replacement{`/nix/store/[^ ]*/vmlinux`, kernel},
		replacement{` --initramfs [^ ]*`, ""},
		replacement{`loglevel=4`, "loglevel=4 fake.guest=say:OK"},
	)
	lines := a.adopt(t, "--credential", "API_KEY:"+secret)
	m := start(t, options{name: "volumes", lines: lines, prefix: withVirtualisation(t), service: []string{"TimeoutStopSec=1s"}})
	m.waitFor(m.console, "^OK$", 1, bootTime)
	m.waitFor(m.words, "started, guest not observed", 1, bootTime)
	// The disks are open, all that are not read-only for writing.
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", m.hypervisor()))
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]bool{}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			open[strings.TrimPrefix(target, a.state+"/")] = true
		}
	}
	if os.Getenv("AMPOULE_TEST_CLOUD_HYPERVISOR") != "" {
		for _, name := range []string{"store.erofs", "data.img", "db.img", "golden/models v2.img", "efi.img"} {
			if !open[name] {
				t.Errorf("%s is not open: %v", name, open)
			}
		}
	}
	began := time.Now()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := m.exit(bootTime); code != 122 && code != 0 {
		t.Errorf("exit code %d after %s", code, time.Since(began))
	}
}
