package devices

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/testkit/sysfs"
)

// host is a made-up one with devices of all kinds.
func host(t *testing.T) (*sysfs.Tree, Tree) {
	h := sysfs.New(t, "e1000e", "snd_hda_intel", "nvidia")
	h.PCI("0000:00:01.0", "0x060400", "pcieport", "1")
	h.PCI("0000:01:00.0", "0x030000", "nvidia", "1")
	h.PCI("0000:01:00.1", "0x040300", "snd_hda_intel", "1")
	h.PCI("0000:02:00.0", "0x020000", "e1000e", "2")
	h.PCI("0000:03:00.0", "0x020000", "e1000e", "3")
	h.PCI("0000:03:00.1", "0x020000", "", "3")
	h.PCI("0000:03:00.2", "0x020000", "vfio-pci", "3")
	h.PCI("0000:04:00.0", "0x020000", "e1000e", "")
	h.USB("1-1", "1d6b", "0002", "09", "1", "1")
	h.USB("1-2", "046d", "c077", "00", "1", "5")
	h.USB("1-1.3", "0951", "1666", "00", "1", "17")
	h.USB("2-1", "0951", "1666", "00", "2", "4")
	return h, Tree{h.Sys, h.Dev}
}

func TestJudge(t *testing.T) {
	h, tree := host(t)
	for _, tt := range []struct {
		devices string // the first is judged
		want    string // of what is wrong; empty: nothing
		cure    string
	}{
		{"pci:0000:02:00.0", "", ""},
		{"pci:0000:01:00.0 pci:0000:01:00.1", "", ""},
		{"pci:0000:01:00.0", "0000:01:00.1 is in the same IOMMU group (1), and the host uses it by its driver snd_hda_intel", "add Device=pci:0000:01:00.1"},
		{"pci:0000:03:00.0", "", ""},
		{"pci:0000:00:01.0", "this is a bridge", "behind it"},
		{"pci:0000:04:00.0", "no IOMMU", "intel_iommu=on"},
		{"pci:0000:09:00.0", "no such PCI device", "lspci -D"},
		{"usb:046d:c077", "", ""},
		{"usb:1-1.3", "", ""},
		{"usb:0951:1666", "several such USB devices", "usb:1-1.3, usb:2-1"},
		{"usb:1-7", "no such USB device now", "lsusb"},
		{"usb:ffff:0001", "no such USB device now", "lsusb"},
		{"usb:1-1", "this is a hub", "behind it"},
	} {
		var all []plan.Device
		for word := range strings.FieldsSeq(tt.devices) {
			bus, address, _ := strings.Cut(word, ":")
			all = append(all, plan.Device{Bus: bus, Address: address})
		}
		p := tree.Judge(all[0], all)
		if (p == nil) != (tt.want == "") || p != nil && (!strings.Contains(p.What, tt.want) || !strings.Contains(p.Cure, tt.cure)) {
			t.Errorf("%s: %+v, want %q, %q", tt.devices, p, tt.want, tt.cure)
		}
	}
	h.Unload("vfio-pci")
	if p := tree.Judge(plan.Device{Bus: "pci", Address: "0000:02:00.0"}, nil); p == nil || p.Cure != "modprobe vfio-pci" {
		t.Errorf("without the driver: %+v", p)
	}
}

// TestGiven: what somebody else has taken from the host is found where it is, and what
// nobody has taken is not.
func TestGiven(t *testing.T) {
	_, tree := host(t)
	for device, want := range map[string]string{
		"pci:0000:03:00.2": tree.Dev + "/vfio/3", "usb:1-2": tree.Dev + "/bus/usb/001/005",
		"pci:0000:02:00.0": "the host uses it by its driver e1000e, and somebody else was to bind it", "pci:0000:03:00.1": "it has no driver, and somebody else was",
		"pci:0000:09:00.0": "", "pci:0000:04:00.0": "", "usb:1-7": "",
	} {
		bus, address, _ := strings.Cut(device, ":")
		got, p := tree.Given(plan.Device{Bus: bus, Address: address, External: true})
		if p != nil {
			got = p.What
		}
		if !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s: %q, want %q", device, got, want)
		}
	}
}

func TestFindUSB(t *testing.T) {
	_, tree := host(t)
	found, err := tree.FindUSB("046d:c077")
	if err != nil || len(found) != 1 || found[0].Name != "1-2" || found[0].Node != tree.Dev+"/bus/usb/001/005" {
		t.Errorf("%+v %v", found, err)
	}
	if found, err := (Tree{t.TempDir(), t.TempDir()}).FindUSB("046d:c077"); len(found) != 0 || err != nil {
		t.Errorf("a host without USB has %+v, %v", found, err)
	}
}
