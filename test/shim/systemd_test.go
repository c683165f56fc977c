package shim

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/shim/layout"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestSystemd: real guests of both releases, with the initramfs as their root
// and with an initrd that switches to a disk. What systemd received, and what a
// service of it loads, is what went in.
func TestSystemd(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite+" initramfs", func(t *testing.T) {
			need.All(t, need.VMAll, need.Guest, need.QEMU)
			g := guest.Get(t, suite)
			r := bootSystemd(t, suite, g.Initrd, "")
			if by := r.Info["initrd"]; by != "none" {
				t.Errorf("the initrd was %q", by)
			}
		})
		t.Run(suite+" disk", func(t *testing.T) {
			need.All(t, need.VMAll, need.Guest, need.QEMU)
			g := guest.GetDisk(t, suite)
			r := bootSystemd(t, suite, g.Initrd, "root=/dev/vda rw", "-drive", "file="+g.Overlay(t)+",if=virtio,format=qcow2")
			if by, root := r.Info["initrd"], r.Info["root-fs"]; by != "systemd" || !strings.HasPrefix(root, "ext4 /dev/vda rw,") {
				t.Errorf("the initrd was %q, the root %q", by, root)
			}
		})
	}
}

func bootSystemd(t *testing.T, suite, initrd, words string, options ...string) guest.Report {
	t.Helper()
	creds := []credential{
		{"text", []byte("sup3r-s3cret value\n")}, {"empty", nil}, {"nul", append([]byte("before\x00after\x00"), value("nul", 40)...)},
		{"large", value("large", 700<<10)}, {strings.Repeat("n", 100), value("long name", 64)},
	}
	for i := range 40 {
		creds = append(creds, credential{fmt.Sprintf("many.%03d", i), value(fmt.Sprint("many", i), 2000+i)})
	}
	data, err := os.ReadFile(initrd)
	if err != nil {
		t.Fatal(err)
	}
	m := machine{suite: suite, initrd: append(overlay(creds, ""), data...), options: options,
		words: guest.TestParameters + " ampoule.test=scan,poweroff " + words}
	o := m.boot(t)
	report, err := guest.ParseReport(strings.Split(o.console, "\n"))
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(o.console, 80))
	}
	var want []guest.Item
	for _, c := range creds {
		want = append(want, guest.Of(c.name, c.value))
	}
	slices.SortFunc(want, func(a, b guest.Item) int { return strings.Compare(a.Name, b.Name) })
	if !reflect.DeepEqual(report.Credentials, want) {
		t.Errorf("received %+v, want %+v", report.Credentials, want)
	}
	if !reflect.DeepEqual(report.Loaded, want) {
		t.Errorf("a service loaded %+v, want %+v", report.Loaded, want)
	}
	if got := report.Info["environ-variable"]; got != layout.Store {
		t.Errorf("%s is %q", layout.Variable, got)
	}
	mount := "ramfs " + layout.Store + " ramfs ro,nosuid,nodev,noexec,"
	if got := report.Info["mount-credentials"]; !strings.HasPrefix(got, mount) || !strings.Contains(got, "mode=700") {
		t.Errorf("mounted is %q", got)
	}
	if len(report.Leaks) > 0 {
		t.Errorf("values are in %+v", report.Leaks)
	}
	if n, err := strconv.Atoi(strings.Fields(report.Info["leak-scan"] + " x")[0]); err != nil || n < 100 {
		t.Errorf("the scan read %q", report.Info["leak-scan"])
	}
	for _, complaint := range []string{"ailed to mount", "Read-only file system", "ailed to determine if /run"} {
		if strings.Contains(o.console, complaint) {
			t.Errorf("the guest says %q", complaint)
		}
	}
	t.Logf("boot of %s; %s", o.took, report.Info["mount-credentials"])
	return report
}
