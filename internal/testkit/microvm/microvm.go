// Package microvm has VMs as text, for tests that hold something of all
// hypervisors and name none. It is for tests alone.
package microvm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// Bare is the least that a VM has.
const Bare = "[MicroVM]\nHypervisor=%h\nKernel=/boot/vmlinuz\nInitrd=/boot/initrd\n"

// everything has a line for whatever a hypervisor may take.
const everything = `[MicroVM]
Hypervisor=%h
HypervisorPath=/opt/vmm
HypervisorArgs=-device usb-ehci
HypervisorArgs=--seccomp log
HypervisorArgs=--boot-timer
Machine=q35
VCPU=2
CPUTopology=1:2:1
Memory=1G
HugePages=2M
MemoryHotplug=1G
Watchdog=yes
Kernel=/boot/vmlinuz
Initrd=/boot/initrd
KernelCommandLine=quiet "a=b c"
Disk=data.raw:size=1G
Disk=more.raw:serial=more,size=1G
Disk=/srv/x.qcow2:qcow2,ro
Device=pci:0000:01:00.0
Device=usb:1-2
MachineID=0123456789abcdef0123456789abcdef
GuestSystemd=256
Readiness=console:^login
VSockCID=auto
SSH=ephemeral
Network=user
Network=bridge:br0,queues=2
Network=tap:name=lan0
PublishPort=8080:80
Runner=/opt/runner
LoadCredential=KEY:/run/secrets/key
SetCredential=ENV:default
[Service]
LoadCredential=outer:/run/secrets/outer
Environment=A=1
CPUQuota=50%
TimeoutStopSec=2min
`

// Everything sets as much as one VM with a hypervisor can: of everything what its
// driver takes.
func Everything(t testing.TB, hypervisor string) string {
	t.Helper()
	return Accepted(t, For(everything, hypervisor))
}

// For fills the name of a hypervisor into a text.
func For(text, hypervisor string) string { return strings.ReplaceAll(text, "%h", hypervisor) }

// Accepted is a text without the lines that are refused.
func Accepted(t testing.TB, text string) string {
	t.Helper()
	for range strings.Count(text, "\n") {
		res := load(t, text, all.Drivers())
		if res.Plan != nil {
			return text
		}
		lines := strings.Split(text, "\n")
		for _, p := range res.Problems {
			if n := p.Origin.Line; p.Severity == diag.Error && n > 0 && n <= len(lines) {
				text = strings.Join(slices.Delete(lines, n-1, n), "\n")
				break
			}
		}
	}
	t.Fatalf("nothing is left:\n%s", text)
	return ""
}

// Plan is what comes of a text, or nil.
func Plan(t testing.TB, text string) *plan.Plan {
	t.Helper()
	return load(t, text, all.Drivers()).Plan
}

func load(t testing.TB, text string, drivers []driver.Driver) pipeline.Result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vm.microvm")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return pipeline.Load(pipeline.Input{Argument: file, Drivers: drivers, Architecture: "x86-64"})
}
