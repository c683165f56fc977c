package preflight

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

func write(t testing.TB, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// world is a plan that this host can carry out, and the host.
type world struct {
	dir, state string
	host       host.Host
	plan       *plan.Plan
}

func newWorld(t *testing.T, kvm bool) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), state: t.TempDir()}
	in := func(name string) string { return filepath.Join(w.dir, name) }
	bz := make([]byte, 4096)
	bz[0x1fe], bz[0x1ff] = 0x55, 0xaa
	copy(bz[0x202:], "HdrS")
	flags := "fpu"
	if kvm {
		flags += " vmx"
	}
	w.host = host.Host{
		CPUInfo: write(t, in("cpuinfo"), "flags : "+flags+"\n", 0o600), MemInfo: write(t, in("meminfo"), "MemTotal: 1048576 kB\n", 0o600),
		KVM: write(t, in("kvm"), "", 0o600), Path: w.dir,
	}
	write(t, in("hypervisor"), "#!/bin/sh\n", 0o755)
	w.plan = &plan.Plan{
		VM: plan.VM{
			Name: "vm", Hypervisor: "qemu", Binary: plan.Binary{Search: []string{"absent", "hypervisor"}},
			Memory: 64 << 20, Kernel: write(t, in("vmlinuz"), string(bz), 0o600), Initrd: write(t, in("initrd"), string(cpio.AppendTrailer(nil)), 0o600),
			KernelCommandLine: []string{"quiet"}, CommandLineMax: 100,
			Accelerator: []plan.Accelerator{{Name: "kvm"}, {Name: "tcg", CommandLine: []string{"tsc_early_khz={tsc_khz}"}}},
		},
		Origins: map[string]diag.Origin{
			plan.Whole: {File: "f", Line: 1}, "Kernel": {File: "f", Line: 2}, "Disk[0]": {File: "f", Line: 3}, "Disk[1]": {File: "f", Line: 4},
		},
	}
	return w
}

func TestJudgeFine(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("needs amd64: the flags of the processor")
	}
	w := newWorld(t, true)
	w.plan.VM.Disks = []plan.Disk{
		{Path: "new", Format: "raw", Size: 1 << 20, From: "Disk[0]"},
		{Path: write(t, w.dir+"/old", strings.Repeat("d", 512), 0o600), Format: "raw", From: "Disk[1]"},
	}
	before, _ := os.ReadDir(w.state)
	a, problems := Judge(t.Context(), w.plan, w.host, Places{State: w.state})
	if len(problems) != 0 || a.Binary != w.dir+"/hypervisor" || a.Accelerator.Name != "kvm" || a.Emulated != "" {
		t.Errorf("%+v, %v", a, problems)
	}
	if after, _ := os.ReadDir(w.state); len(after) != len(before) {
		t.Error("judging made something")
	}
	w = newWorld(t, false)
	a, problems = Judge(t.Context(), w.plan, w.host, Places{State: w.state})
	if len(problems) != 0 || a.Accelerator.Name != "tcg" || !strings.Contains(a.Emulated, "neither vmx nor svm") {
		t.Errorf("%+v, %v", a, problems)
	}
	// Asked for, emulation is nothing to warn of.
	w.plan.VM.Accelerator = w.plan.VM.Accelerator[1:]
	if a, _ = Judge(t.Context(), w.plan, w.host, Places{State: w.state}); a.Accelerator.Name != "tcg" || a.Emulated != "" {
		t.Errorf("%+v", a)
	}
}

// Each mistake is an error at the line that made it, all of them at once.
func TestJudgeRefuses(t *testing.T) {
	for want, change := range map[string]func(*world){
		"f:1: Hypervisor=qemu: the hypervisor is absent: none of absent is in $PATH":     func(w *world) { w.plan.VM.Binary.Search = []string{"absent"} },
		"f:1: HypervisorPath=/nowhere/q: the hypervisor cannot be started: no such file": func(w *world) { w.plan.VM.Binary.Path = "/nowhere/q" },
		"f:1: HypervisorPath=/: the hypervisor cannot be started: this is a directory":   func(w *world) { w.plan.VM.Binary.Path = "/" },
		"f:1: Accelerator=kvm: KVM is not usable here: the processor shows": func(w *world) {
			w.plan.VM.Accelerator, w.plan.Origins["Accelerator"] = w.plan.VM.Accelerator[:1], diag.Origin{File: "f", Line: 1}
		},
		"f:1: Hypervisor=qemu: it needs KVM, which is not usable here: the processor shows": func(w *world) { w.plan.VM.Accelerator = w.plan.VM.Accelerator[:1] },
		"f:1: Hypervisor=qemu: it needs KVM, which is not usable here":                      func(w *world) { w.plan.VM.Accelerator = nil },
		"f:5: VSockCID=auto: this host's kernel connects no guests by vsock: /nowhere/vhost-vsock does not exist; modprobe vhost_vsock": func(w *world) {
			w.host.VHostVSock, w.plan.VM.VSock, w.plan.Origins["VSockCID"] = "/nowhere/vhost-vsock", &plan.VSock{}, diag.Origin{File: "f", Line: 5}
		},
		"VSockCID=77: this host's kernel connects no guests by vsock": func(w *world) {
			w.host.VHostVSock, w.plan.VM.VSock = "/", &plan.VSock{CID: 77}
		},
		"f:2: Kernel=/nowhere/k: no such file":                                                                  func(w *world) { w.plan.VM.Kernel = "/nowhere/k" },
		"f:1: Initrd=/nowhere/i: no such file":                                                                  func(w *world) { w.plan.VM.Initrd = "/nowhere/i" },
		"f:1: Memory=4K: kernel and initrd alone have 4220 bytes; accepted: more than 1M":                       func(w *world) { w.plan.VM.Memory = 4 << 10 },
		"f:1: Memory=2G: this host has only 1024 MiB of memory; accepted: at most 1024M":                        func(w *world) { w.plan.VM.Memory = 2 << 30 },
		"f:1: KernelCommandLine=…: the kernel's command line has 101 bytes, and the kernel would cut it":        func(w *world) { w.plan.VM.KernelCommandLine = []string{strings.Repeat("x", 101)} },
		"f:1: KernelCommandLine=…: the kernel's command line has 101 bytes with the words that Accelerator=tcg": func(w *world) { w.plan.VM.KernelCommandLine = []string{strings.Repeat("x", 77)} },
		"f:3: Disk=/nowhere/d: no such file":                                                                    func(w *world) { w.plan.VM.Disks = []plan.Disk{{Path: "/nowhere/d", Format: "raw", From: "Disk[0]"}} },
		"/gone; create it, or add size=SIZE to have it created":                                                 func(w *world) { w.plan.VM.Disks = []plan.Disk{{Path: "gone", Format: "raw", From: "Disk[0]"}} },
		"f:4: Disk=/: this is a directory; accepted: a qcow2 disk that may be opened for reading": func(w *world) {
			w.plan.VM.Disks = []plan.Disk{{Path: "/", Format: "qcow2", ReadOnly: true, From: "Disk[1]"}}
		},
		"f:3: Disk=q: a qcow2 disk is created with qemu-img, which is in no directory of $PATH": func(w *world) {
			w.plan.VM.Disks = []plan.Disk{{Path: "q", Format: "qcow2", Size: 1 << 20, From: "Disk[0]"}}
		},
		"f:3: Disk=q: the disk lies in the VM's state directory, and nothing says where that is": func(w *world) {
			w.state, w.plan.VM.Disks = "", []plan.Disk{{Path: "q", Format: "raw", Size: 1 << 20, From: "Disk[0]"}}
		},
		"f:1: Runner=/nowhere/r: no such file": func(w *world) { w.plan.VM.Runner = "/nowhere/r" },
	} {
		w := newWorld(t, false)
		change(w)
		_, problems := Judge(t.Context(), w.plan, w.host, Places{State: w.state})
		if len(problems) != 1 || !problems.HasErrors() || !strings.Contains(problems.Error(), want) {
			t.Errorf("%v, want %s", problems, want)
		}
	}
	w := newWorld(t, false)
	w.plan.VM.Kernel, w.plan.VM.Initrd, w.plan.VM.Binary.Path, w.plan.VM.Runner = "/nowhere/k", "/nowhere/i", "/nowhere/q", "/nowhere/r"
	if _, problems := Judge(t.Context(), w.plan, w.host, Places{State: w.state}); len(problems) != 4 {
		t.Errorf("not all at once: %v", problems)
	}
	// A link that leads nowhere is no disk to be made: it would be made elsewhere.
	w = newWorld(t, false)
	if err := os.Symlink("nowhere", filepath.Join(w.state, "d")); err != nil {
		t.Fatal(err)
	}
	w.plan.VM.Disks = []plan.Disk{{Path: "d", Format: "raw", Size: 1 << 20, From: "Disk[0]"}}
	if _, problems := Judge(t.Context(), w.plan, w.host, Places{State: w.state}); !strings.Contains(problems.Error(), "f:3: Disk=d: a symbolic link that leads nowhere") {
		t.Errorf("%v", problems)
	}
}

// A vsock that the hypervisor itself connects asks nothing of the host, and that of
// the kernel its device.
func TestJudgeVSock(t *testing.T) {
	for _, multiplexed := range []bool{true, false} {
		w := newWorld(t, true)
		w.plan.VM.VSock = &plan.VSock{Multiplexed: multiplexed}
		if !multiplexed {
			w.host.VHostVSock = write(t, w.dir+"/vhost-vsock", "", 0o600)
		}
		if _, problems := Judge(t.Context(), w.plan, w.host, Places{State: w.state}); len(problems) != 0 {
			t.Errorf("multiplexed %v: %v", multiplexed, problems)
		}
	}
}

// Nothing in a plan makes it fall over.
func TestJudgeEmpty(t *testing.T) {
	if _, problems := Judge(t.Context(), &plan.Plan{VM: plan.VM{Disks: make([]plan.Disk, 2)}}, host.Host{}, Places{}); !problems.HasErrors() {
		t.Error("an empty plan is fine on no host at all")
	}
}
