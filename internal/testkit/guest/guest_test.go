package guest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestBoot proves the guest itself, with plain QEMU: what it reports is what it
// was given, it counts its boots, and it shows that it went down in order.
func TestBoot(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie"} {
		for _, machine := range []string{"q35", "microvm"} {
			t.Run(suite+"/"+machine, func(t *testing.T) {
				level := need.VMAll
				if suite == "bookworm" && machine == "q35" {
					level = need.VM
				}
				need.All(t, level, need.QEMU, need.Guest)
				bootTwice(t, Get(t, suite), machine)
			})
		}
	}
}

// machineArgs are QEMU's options for a guest without disks. It has one processor: of two
// the emulator lets one hang now and then, in the kernel's patching of itself or with an
// interrupt that does not come.
func machineArgs(machine string, g Guest, words string) []string {
	return []string{
		"-M", machine, "-accel", "tcg", "-smp", "1", "-m", "384M", "-nodefaults", "-no-user-config",
		"-display", "none", "-serial", "stdio", "-kernel", g.Kernel, "-initrd", g.Initrd,
		"-append", "console=ttyS0 tsc_early_khz=2000000 " + words + " " + TestParameters,
	}
}

func diskArgs(machine, format, path string, readOnly bool, serial string) []string {
	device, mode := "virtio-blk-pci", "off"
	if machine == "microvm" {
		device = "virtio-blk-device"
	}
	if readOnly {
		mode = "on"
	}
	return []string{
		"-drive", "if=none,id=d,format=" + format + ",read-only=" + mode + ",file=" + path,
		"-device", device + ",drive=d,serial=" + serial,
	}
}

// runQEMU boots a guest with credentials by fw_cfg and returns its console when
// it has ended.
func runQEMU(t *testing.T, args []string, credentials map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	files := 0
	for name, value := range credentials {
		files++
		path := filepath.Join(dir, fmt.Sprint(files))
		if err := os.WriteFile(path, value, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-fw_cfg", "name=opt/io.systemd.credentials/"+name+",file="+path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	console, err := exec.CommandContext(ctx, "qemu-system-x86_64", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("running QEMU: %v\n%s", err, console)
	}
	return string(console)
}

func bootTwice(t *testing.T, g Guest, machine string) {
	dir := t.TempDir()
	// A systemd from 255 on hands names to its executor as words between blanks,
	// and takes backslashes away.
	odd := "a name with % and \\"
	if g.Systemd >= 255 {
		odd = "a-name-with-%-and-'"
	}
	values := map[string][]byte{
		"EMPTY":                           {},
		odd:                               []byte("x\x00y\n, \"=%'[]"),
		"long." + strings.Repeat("x", 23): bytes.Repeat([]byte("0123456789abcdef"), 700*64),
	}
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(machineArgs(machine, g, "ampoule.test=reboot-once,poweroff"), diskArgs(machine, "raw", disk, true, "proof")...)
	want := map[string]Item{}
	for name, value := range values {
		want[name] = Of(name, value)
	}
	console := runQEMU(t, args, values)
	lines := strings.Split(console, "\n")
	reports, err := ParseReports(lines)
	if err != nil {
		t.Fatalf("%v\n%s", err, console)
	}
	if len(reports) != 2 || reports[0].Boot != 1 || reports[1].Boot != 2 {
		t.Fatalf("want boots 1 and 2, got %+v", reports)
	}
	if !OrderlyStop(lines) {
		t.Errorf("no orderly shutdown on the console\n%s", console)
	}
	for _, report := range reports {
		for kind, items := range map[string][]Item{"received": report.Credentials, "loaded": report.Loaded} {
			got := map[string]Item{}
			for _, item := range items {
				got[item.Name] = item
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("boot %d: %s %+v, want %+v", report.Boot, kind, got, want)
			}
		}
		if disks := []Disk{{"vda", 1 << 20, true, "proof"}}; !reflect.DeepEqual(report.Disks, disks) {
			t.Errorf("boot %d: disks %+v", report.Boot, report.Disks)
		}
		for name, value := range map[string]string{"cpus": "1", "power-button": "ready", "load-result": "success"} {
			if report.Info[name] != value {
				t.Errorf("boot %d: %s is %q, want %q", report.Boot, name, report.Info[name], value)
			}
		}
		if !strings.HasPrefix(report.Info["systemd"], fmt.Sprint(g.Systemd)) {
			t.Errorf("boot %d: systemd %q, want %d", report.Boot, report.Info["systemd"], g.Systemd)
		}
	}
}
