package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// root says how a guest comes to its root file system.
type root string

const (
	initramfs root = "initramfs" // it is the initial RAM disk
	dracut    root = "dracut"    // an initial RAM disk with systemd switches to a disk
	alone     root = "alone"     // no initial RAM disk: the kernel's drivers are built in
)

// rootLines are those of a guest that gets its credentials by its initial RAM
// disk.
func rootLines(t testing.TB, r root, machine, suite string) []string {
	t.Helper()
	common := []string{"Machine=" + machine, "CredentialChannel=initrd", "Memory=512M", "KernelCommandLine=" + guest.TestParameters}
	if r == initramfs {
		g := guest.Get(t, suite)
		return append(common, "Kernel="+g.Kernel, "Initrd="+g.Initrd)
	}
	g := guest.GetDisk(t, suite)
	disk := g.Overlay(t)
	if r == dracut {
		return append(common, "Kernel="+g.Kernel, "Initrd="+g.Initrd, "Disk="+disk+":qcow2", "KernelCommandLine=root=/dev/vda rw")
	}
	// Debian's cloud kernel has the drivers for NVMe and ext4 built in, those
	// for virtio are modules.
	return append(common, "Kernel="+g.Kernel, "KernelCommandLine=root=/dev/nvme0n1 rw",
		"HypervisorArgs=-drive if=none,id=root,format=qcow2,file="+disk+" -device nvme,serial=root,drive=root")
}

// TestInitrdMatrix: every value of every set at once arrives by the initial RAM
// disk, in both boots, and is nowhere else in the guest.
func TestInitrdMatrix(t *testing.T) {
	need.All(t, need.VM, need.Root, need.QEMU, need.Guest)
	canary := map[string]bool{"microvm+initramfs/257": true, "q35+dracut/252": true}
	for _, machine := range []string{"q35", "microvm"} {
		for _, suite := range []string{"bookworm", "trixie"} {
			for _, r := range []root{initramfs, dracut, alone} {
				if r == alone && machine != "q35" {
					continue // no PCI, and so no NVMe
				}
				systemd := map[string]int{"bookworm": 252, "trixie": 257}[suite]
				name := fmt.Sprintf("%s+%s/%d", machine, r, systemd)
				t.Run(name, func(t *testing.T) {
					if !canary[name] {
						need.All(t, need.VMAll)
					}
					t.Parallel()
					testInitrd(t, r, rootLines(t, r, machine, suite))
				})
			}
		}
	}
}

func testInitrd(t *testing.T, r root, lines []string) {
	dir := t.TempDir()
	set := values()["all"]
	lines = append(lines, "KernelCommandLine=ampoule.test=scan,reboot-once,poweroff")
	for _, v := range set {
		writeSecret(t, filepath.Join(dir, v.name), v.data)
		lines = append(lines, load(dir, v))
	}
	m := start(t, options{lines: lines})
	m.wantExit(0, "the guest powered off", 3*bootTime)
	if strings.Contains(m.words.text(), "ampoule-init in the guest") {
		t.Error("the shim has complained")
	}
	for _, report := range m.reports(2) {
		same(t, fmt.Sprintf("boot %d, PID 1", report.Boot), report.Credentials, set)
		same(t, fmt.Sprintf("boot %d, a service", report.Boot), report.Loaded, set)
		cleanGuest(t, report)
		fs := map[root]string{initramfs: "rootfs", dracut: "ext4 /dev/vda ", alone: "ext4 /dev/nvme0n1 "}[r]
		if got := report.Info["root-fs"]; !strings.HasPrefix(got, fs) && !strings.HasPrefix(got, "ext4 /dev/root ") {
			t.Errorf("the root is %q, want %q", got, fs)
		}
		by := map[root]string{initramfs: "none", dracut: "systemd", alone: "none"}[r]
		if got := report.Info["initrd"]; got != by {
			t.Errorf("the root was found by %q, want %q", got, by)
		}
	}
}

// cleanGuest expects the values in the guest's stores alone, and those closed.
func cleanGuest(t *testing.T, r guest.Report) {
	t.Helper()
	const store = "/run/credentials/@system"
	for _, l := range r.Leaks {
		t.Errorf("boot %d: %s is in %s (%s, mode %s)", r.Boot, l.Credential, l.Path, l.Class, l.Mode)
	}
	var files, bytes int64
	// On a disk /usr is left out; what there is beside it are some two hundred
	// files.
	if _, err := fmt.Sscan(r.Info["leak-scan"], &files, &bytes); err != nil || files < 150 || bytes < 1<<20 {
		t.Errorf("the scan is blind: %q", r.Info["leak-scan"])
	}
	if got := r.Info["environ-variable"]; got != store {
		t.Errorf("PID 1 has the variable %q", got)
	}
	mount := r.Info["mount-credentials"]
	for _, want := range []string{"ramfs " + store + " ramfs ", "nosuid", "nodev", "noexec", "mode=700"} {
		if !strings.Contains(mount, want) {
			t.Errorf("the store is mounted as %q, without %q", mount, want)
		}
	}
}

// TestInitrdOtherSources: the guest takes its credentials from the initial RAM
// disk and ignores what firmware offers beside it, as the manual says.
func TestInitrdOtherSources(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			// What HypervisorArgs= refuses, a program in the hypervisor's place
			// can do.
			wrapper := filepath.Join(dir, "wrapper")
			script := "#!/bin/sh\nexec /usr/bin/qemu-system-x86_64 \"$@\" -fw_cfg name=opt/io.systemd.credentials/firmware,string=other " +
				"-smbios type=11,value=io.systemd.credential:table=other\n"
			if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			mine := value{"mine", []byte("from the initial RAM disk")}
			writeSecret(t, filepath.Join(dir, mine.name), mine.data)
			lines := append(rootLines(t, initramfs, "q35", suite), "HypervisorPath="+wrapper, load(dir, mine), "KernelCommandLine=ampoule.test=poweroff")
			m := start(t, options{lines: lines})
			m.wantExit(0, "the guest powered off", bootTime)
			same(t, "PID 1", m.reports(1)[0].Credentials, []value{mine})
		})
	}
}

// TestInitrdOwnInit: an init of the user's own runs in the end, with its
// arguments, and finds the credentials.
func TestInitrdOwnInit(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	t.Parallel()
	dir := t.TempDir()
	mine := value{"mine", []byte("sixteen letters.")}
	writeSecret(t, filepath.Join(dir, mine.name), mine.data)
	const script = `set -- $0 $1 $CREDENTIALS_DIRECTORY $(wc -c <$CREDENTIALS_DIRECTORY/mine) $(ls -a / | grep -c ampoule); ` +
		`echo OWN-INIT $*; mount -t proc proc /proc; sleep 1; echo o >/proc/sysrq-trigger; sleep 100`
	lines := append(rootLines(t, initramfs, "microvm", "bookworm"), load(dir, mine),
		"KernelCommandLine=rdinit=/bin/sh -- -c '"+script+"' zero one")
	m := start(t, options{lines: lines})
	m.wantExit(0, "the guest powered off", bootTime)
	if want := "OWN-INIT zero one /run/credentials/@system 16 0"; !strings.Contains(m.console.text(), want) {
		t.Errorf("the console does not say %q", want)
	}
	if !strings.Contains(m.words.text(), "this init is not systemd") {
		t.Error("no warning")
	}
}

// TestInitrdRefused: an initial RAM disk of initramfs-tools, a real one, whose
// /init would hide the credentials.
func TestInitrdRefused(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	g := guest.InitramfsTools(t)
	m := start(t, options{lines: []string{"Kernel=" + g.Kernel, "Initrd=" + g.Initrd, "Disk=" + g.Overlay(t) + ":qcow2", "KernelCommandLine=root=/dev/vda",
		"CredentialChannel=initrd", "SetCredential=a:b"}})
	m.wantExit(2, "it was made by initramfs-tools, and its init, /init, is a script", bootTime)
	if n, _ := m.words.count(lineOf(m, 3)); n != 1 {
		t.Error("the refusal does not name the line of Initrd=")
	}
}

// TestInitrdLeaksNothing: while the guest runs, the host has the values in their
// sources alone.
func TestInitrdLeaksNothing(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	for _, c := range []struct {
		machine, suite string
		root
	}{{"q35", "bookworm", dracut}, {"microvm", "trixie", initramfs}} {
		t.Run(c.machine+"+"+string(c.root), func(t *testing.T) {
			testNoLeaks(t, rootLines(t, c.root, c.machine, c.suite))
		})
	}
}

// TestInitrdTooLittleMemory: what can be seen is refused before the start; what
// only the kernel finds out, at the edge, is repeated as soon as it says so.
func TestInitrdTooLittleMemory(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	g := guest.Get(t, "bookworm")
	lines := []string{"Kernel=" + g.Kernel, "Initrd=" + g.Initrd, "KernelCommandLine=" + guest.TestParameters}
	m := start(t, options{lines: append(lines, "Memory=160M")})
	m.wantExit(2, "Memory=160M: the initial RAM disk does not fit once it is unpacked", bootTime)
	m = start(t, options{lines: append(lines, "Memory=192M")})
	m.waitFor(m.words, "^ampoule: warning: test: the guest's kernel could not unpack all of the initial RAM disk: write error$", 1, bootTime)
}
