package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nspawn"
)

// pressure runs on the host: it starts both VMs and a process that holds a
// marker, takes more memory than there is, and tells what was swapped out. The guests' kernels wait for
// a disk that never comes, by which time all of a VM is in place. At the end
// the kernel is asked to take from the units whatever it can, which it does
// where a process could go on using its pages as well.
const pressure = `#!/bin/sh -eu
mkswap /dev/vdb
swapon /dev/vdb
systemd-run --unit=marker sh -c 'read -r marker </etc/secrets/marker; sleep 1000; echo $marker'
systemctl start microvm@kept microvm@loose
for vm in kept loose; do
	until journalctl -u microvm@$vm -o cat | grep -q 'Waiting for root device'; do sleep 1; done
done
systemd-run --unit=hog sh -c '{ head -c 600M /dev/zero; sleep 1000; } | tail'
slice=/sys/fs/cgroup/machine.slice
used() { awk '/^SwapTotal/ { all = $2 } /^SwapFree/ { print all - $2 }' /proc/meminfo; }
until [ "$(used)" -gt 300000 ] && [ "$(cat $slice/microvm@loose.service/memory.swap.current)" -gt 16000000 ]; do sleep 1; done
for unit in machine.slice/microvm@kept machine.slice/microvm@loose system.slice/marker; do
	# An error says that there was not as much to take.
	echo 256M >/sys/fs/cgroup/$unit.service/memory.reclaim || :
done
echo "used $(used)"
for vm in kept loose; do
	cd $slice/microvm@$vm.service
	echo "$vm unit $(cat memory.swap.current)"
	for pid in $(cat cgroup.procs); do
		awk -v vm=$vm '/^Name/ { name = $2 } /^VmSwap/ { print vm, name, $2 }' /proc/$pid/status
	done
done
sync
echo done
`

const pressureUnit = `[Service]
Type=oneshot
ExecStart=/etc/pressure
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
ExecStopPost=systemctl poweroff --force --force
`

// TestSwap: under memory pressure nothing of a VM reaches the host's swap. The
// host is a machine with a kernel of its own, so that its swap can be read to
// the last byte. Beside the VM run another that may be swapped, and a
// process with a marker, to show that the pressure is enough and the search finds
// what is there.
func TestSwap(t *testing.T) {
	need.All(t, need.VMAll, need.Root, need.Guest, need.QEMU)
	secrets := map[string][]byte{"kept": leak.Random(24), "loose": leak.Random(24), "marker": leak.Random(24)}
	swap := filepath.Join(t.TempDir(), "swap")
	if err := os.WriteFile(swap, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(swap, 1<<30); err != nil {
		t.Fatal(err)
	}
	readings := swapHost(t, swapRoot(t, secrets), swap)

	if used := reading(t, readings, "used"); used < 300000 {
		t.Errorf("the host has swapped %d KiB only", used)
	}
	if swapped := reading(t, readings, "loose unit"); swapped < 16<<20 {
		t.Errorf("of the VM that may be swapped %d bytes were", swapped)
	}
	for _, what := range []string{"unit", "ampoule", "qemu-system-x86"} {
		if swapped := reading(t, readings, "kept "+what); swapped != 0 {
			t.Errorf("swapped out: %d of %s", swapped, what)
		}
	}
	if swapped := reading(t, readings, "loose qemu-system-x86"); swapped == 0 {
		t.Error("nothing was swapped of the hypervisor that may be swapped")
	}

	scan, err := leak.New(t, secrets)
	if err != nil {
		t.Fatal(err)
	}
	if err := scan.ScanFile(swap); err != nil {
		t.Fatal(err)
	}
	report := scan.Report()
	found := map[string]bool{}
	for _, row := range report.Rows {
		found[row.Secret+" "+row.Form] = true
		if row.Secret == "kept" {
			t.Errorf("the secret is in the swap, as %s", row.Form)
		}
	}
	// QEMU has the secrets as SMBIOS strings, which are in Base64.
	for _, form := range []string{"loose base64", "marker plain"} {
		if !found[form] {
			t.Errorf("not found in the swap, where it may be: %s", form)
		}
	}
	t.Logf("\n%s\n%s", readings, report.Table())
}

// reading returns the number behind words at the beginning of a line, and the
// sum where several processes have the same name.
func reading(t *testing.T, readings []byte, words string) (sum int) {
	t.Helper()
	lines := regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(words)+` (\d+)$`).FindAllSubmatch(readings, -1)
	if lines == nil {
		t.Fatalf("no reading of %q in\n%s", words, readings)
	}
	for _, line := range lines {
		n, err := strconv.Atoi(string(line[1]))
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// swapRoot makes the host's disk: the root of the other hosts, our package, the
// script, and two VMs that differ in their secrets and in what may be swapped.
// The kernel has its modules in the initrd.
func swapRoot(t *testing.T, secrets map[string][]byte) (image string) {
	t.Helper()
	root := nspawn.Root(t, nspawn.Recipe{Suite: suites[252], Packages: []string{"qemu-system-x86", "qemu-utils", "seabios", "procps"}})
	dir := t.TempDir()
	layer := filepath.Join(dir, "layer")
	image = filepath.Join(dir, "root.ext4")
	files := map[string]string{
		"/etc/pressure":                        pressure,
		"/etc/systemd/system/pressure.service": pressureUnit,
		"/etc/hostname":                        "swap\n",
	}
	for name, secret := range secrets {
		files["/etc/secrets/"+name] = string(secret)
	}
	for _, vm := range []string{"kept", "loose"} {
		files["/etc/ampoule/"+vm+".microvm"] = "[MicroVM]\nKernel=/var/lib/guest/vmlinuz\nKernelCommandLine=root=/dev/vda rootwait " + guest.TestParameters + "\nMemory=96M\n" +
			"Accelerator=tcg\nReadiness=started\nLoadCredential=KEY:/etc/secrets/" + vm + "\n"
	}
	files["/etc/ampoule/loose.microvm"] += "[Service]\nMemorySwapMax=infinity\n"
	for path, text := range files {
		if err := os.MkdirAll(filepath.Join(layer, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o600)
		if strings.HasPrefix(text, "#!") {
			mode = 0o700
		}
		if err := os.WriteFile(filepath.Join(layer, path), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	script := `dpkg --extract "$1/ampoule.deb" "$2" && install -D --mode=644 "$3" "$2/var/lib/guest/vmlinuz" && mkdir "$2.root" &&
		mount -t overlay -o "lowerdir=$2:$4" ampoule "$2.root" && mkfs.ext4 -q -d "$2.root" "$5" 768M`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", packageDir(t), layer, guest.GetDisk(t, "bookworm").Kernel, root, image)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making the host's disk: %v\n%s", err, out)
	}
	return image
}

// swapHost runs the host until it powers off, and returns what the script said.
func swapHost(t *testing.T, root, swap string) []byte {
	t.Helper()
	g := guest.GetDisk(t, "bookworm")
	said := filepath.Join(t.TempDir(), "said")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	args := []string{
		"-M", "q35", "-accel", "tcg", "-smp", "2", "-m", "448M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "stdio", "-serial", "file:" + said, "-kernel", g.Kernel, "-initrd", g.Initrd, "-append",
		"console=ttyS0 panic=-1 tsc_early_khz=2000000 root=/dev/vda rw systemd.unified_cgroup_hierarchy=1 systemd.firstboot=off " +
			"systemd.mask=serial-getty@ttyS0.service systemd.wants=pressure.service systemd.show_status=no systemd.journald.forward_to_console=1",
	}
	for i, disk := range []string{root, swap} {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,file=%s", i, disk), "-device", fmt.Sprintf("virtio-blk-pci,drive=d%d", i))
	}
	console, err := exec.CommandContext(ctx, "qemu-system-x86_64", args...).CombinedOutput()
	readings, _ := os.ReadFile(said)
	readings = bytes.ReplaceAll(readings, []byte("\r"), nil)
	if err != nil || !bytes.Contains(readings, []byte("\ndone\n")) {
		t.Fatalf("the host: %v\n%s\nits console:\n%s", err, readings, nspawn.Tail(console))
	}
	return readings
}
