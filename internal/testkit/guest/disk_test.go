package guest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest/scan"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestDiskBoot proves the guests with a root disk, and the scan in the guest,
// with plain QEMU: credentials by fw_cfg are there after the switch to the disk,
// and one that a service of the guest copies to a file is found out.
func TestDiskBoot(t *testing.T) {
	for _, c := range []struct {
		suite, machine string
		readOnly       bool
	}{
		{"bookworm", "q35", true}, {"bookworm", "microvm", false}, {"trixie", "q35", false}, {"trixie", "microvm", true},
	} {
		t.Run(c.suite+"/"+c.machine, func(t *testing.T) {
			level := need.VMAll
			if c.suite == "bookworm" && c.machine == "microvm" {
				level = need.VM
			}
			need.All(t, level, need.QEMU, need.Guest)
			g := GetDisk(t, c.suite)
			args := machineArgs(c.machine, g.Guest, "root=/dev/vda ro ampoule.test=scan,poweroff")
			mode, disk := "ro", diskArgs(c.machine, "raw", g.Disk, true, "root")
			if !c.readOnly {
				args = machineArgs(c.machine, g.Guest, "root=/dev/vda rw ampoule.test=scan,poweroff")
				mode, disk = "rw", diskArgs(c.machine, "qcow2", g.Overlay(t), false, "root")
			}
			report := checkScan(t, append(args, disk...), g.Guest)
			if fs := report.Info["root-fs"]; !strings.HasPrefix(fs, "ext4 /dev/vda "+mode+",") {
				t.Errorf("the root is %q", fs)
			}
			if by := report.Info["initrd"]; by != "systemd" {
				t.Errorf("initrd %q", by)
			}
		})
	}
}

// TestScan: the same for a guest whose root is the initramfs, which is read
// whole.
func TestScan(t *testing.T) {
	need.All(t, need.VMAll, need.QEMU, need.Guest)
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			g := Get(t, suite)
			report := checkScan(t, machineArgs("q35", g, "ampoule.test=scan,poweroff"), g)
			if fs, by := report.Info["root-fs"], report.Info["initrd"]; !strings.HasPrefix(fs, "rootfs") || by != "none" {
				t.Errorf("the root is %q, the initrd %q", fs, by)
			}
			var files, bytes int64
			if _, err := fmt.Sscan(report.Info["leak-scan"], &files, &bytes); err != nil || files < 1000 || bytes < 50<<20 {
				t.Errorf("read %q: %v", report.Info["leak-scan"], err)
			}
		})
	}
}

// checkScan boots a guest with a secret, and an order for its systemd-tmpfiles
// to copy the secret to a file.
func checkScan(t *testing.T, args []string, g Guest) Report {
	t.Helper()
	random := make([]byte, 20)
	_, _ = rand.Read(random) // never fails
	secret := hex.EncodeToString(random)
	values := map[string][]byte{
		"secret": []byte(secret), "short": []byte("x"),
		"tmpfiles.extra": []byte("f /run/planted 0644 root root - " + secret + "\n"),
	}
	console := runQEMU(t, args, values)
	report, err := ParseReport(strings.Split(console, "\n"))
	if err != nil {
		t.Fatalf("%v\n%s", err, console)
	}
	var want []Item
	for _, name := range []string{"secret", "short", "tmpfiles.extra"} {
		want = append(want, Of(name, values[name]))
	}
	if !reflect.DeepEqual(report.Credentials, want) || !reflect.DeepEqual(report.Loaded, want) {
		t.Errorf("received %+v, loaded %+v, want %+v", report.Credentials, report.Loaded, want)
	}
	planted := scan.Leak{Class: scan.Memory, Mode: "0644", Path: "/run/planted", Credential: "secret"}
	firmware := 0
	for _, leak := range report.Leaks {
		if leak.Class == scan.Firmware && strings.HasPrefix(leak.Path, "/sys/firmware/qemu_fw_cfg/") && leak.Mode == "0400" {
			firmware++
		} else if leak.Path != planted.Path {
			t.Errorf("leak %+v", leak)
		}
	}
	if firmware < 2 || !slices.Contains(report.Leaks, planted) {
		t.Errorf("the scan is blind: %+v", report.Leaks)
	}
	for name, want := range map[string]string{"power-button": "ready", "leak-unsearched": "short", "leak-unread": "", "leak-more": ""} {
		if got := report.Info[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if !strings.Contains(report.Info["mount-credentials"], " "+"/run/credentials/@system ") {
		t.Errorf("mount-credentials is %q", report.Info["mount-credentials"])
	}
	if !strings.HasPrefix(report.Info["systemd"], strconv.Itoa(g.Systemd)) {
		t.Errorf("systemd %q, want %d", report.Info["systemd"], g.Systemd)
	}
	t.Logf("up after %s s; scan of %s (files, bytes) in %s ms", report.Info["uptime"], report.Info["leak-scan"], report.Info["leak-milliseconds"])
	return report
}

// TestOverlay: what is written goes to the overlay and not into the disk.
func TestOverlay(t *testing.T) {
	need.All(t, need.QEMU)
	dir := t.TempDir()
	base := filepath.Join(dir, "root.ext4")
	if err := os.WriteFile(base, make([]byte, 1<<20), 0o444); err != nil {
		t.Fatal(err)
	}
	path := DiskGuest{Disk: base}.Overlay(t)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(content), "QFI\xfb") || !strings.Contains(string(content), base) {
		t.Errorf("%s is no qcow2 image on top of %s", path, base)
	}
	if err := makeOverlay(filepath.Join(dir, "none"), filepath.Join(dir, "x")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("over nothing: %v", err)
	}
}

// TestInitramfsTools: the init of its initrd is the script that is to be refused.
func TestInitramfsTools(t *testing.T) {
	need.All(t, need.VMAll, need.Guest)
	g := InitramfsTools(t)
	unpack := exec.Command("sh", "-c", `zstd -dcq -- "$1" | cpio --quiet -i --to-stdout init`, "sh", g.Initrd)
	script, err := unpack.Output()
	if err != nil {
		t.Fatalf("unpacking %s: %v", g.Initrd, err)
	}
	if !strings.HasPrefix(string(script), "#!/bin/sh\n") || !strings.Contains(string(script), "/scripts/functions") {
		t.Errorf("its init begins with %q", script[:min(len(script), 60)])
	}
	if err := present(g.Kernel, g.Disk); err != nil {
		t.Error(err)
	}
}
