package preflight

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/initrd"
	"github.com/ampoule-vm/ampoule/internal/initrd/decompress"
	"github.com/ampoule-vm/ampoule/internal/inspect"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Images is what was seen in the files that the guest boots from.
type Images struct {
	Initrd inspect.Initrd
}

// slowAfter is when somebody is told what is being waited for.
const slowAfter = time.Second

const (
	acceptedKernel = "accepted: a readable Linux kernel image"
	acceptedInitrd = "accepted: a readable initial RAM disk"
	acceptedWhole  = "accepted: one that is whole: cpio archives, plain or compressed by gzip, bzip2, lzma, xz, lzo, lz4 or zstd"
)

// boot checks kernel, initrd and memory.
func (j *judge) boot() {
	vm := j.plan.VM
	var kernel host.Kernel
	var initrd int64
	var err error
	if vm.Kernel != "" { // else it is a draft, and the mistake is known
		if kernel, err = host.CheckKernel(vm.Kernel); err != nil {
			j.fail("Kernel", vm.Kernel, acceptedKernel, "%v", err)
		}
	}
	if vm.Initrd != "" {
		if initrd, err = host.CheckInitrd(vm.Initrd); err != nil {
			j.fail("Initrd", vm.Initrd, acceptedInitrd, "%v", err)
		}
	}
	if total, err := j.host.Memory(); err == nil && vm.Memory > total {
		j.fail("Memory", spec.FormatSize(vm.Memory), fmt.Sprintf("accepted: at most %dM", total>>20), "this host has only %d MiB of memory", total>>20)
	}
	if need := kernel.Size + initrd; need >= vm.Memory {
		j.fail("Memory", spec.FormatSize(vm.Memory), fmt.Sprintf("accepted: more than %s, and room to unpack them", spec.FormatSize(roundUp(need))),
			"kernel and initrd alone have %d bytes", need)
		return
	}
	if vm.Initrd != "" && err == nil {
		j.initrd(kernel.Memory, initrd)
	}
}

// initrd looks into the initial RAM disk: what Linux would stumble over in the
// dark is said before the start.
func (j *judge) initrd(kernel, packed int64) {
	vm := j.plan.VM
	parameters := driver.KernelParameters(vm.KernelCommandLine)
	if j.Slow != nil {
		defer time.AfterFunc(slowAfter, func() { j.Slow(vm.Initrd) }).Stop()
	}
	seen, err := j.Memory.Initrd(vm.Initrd, parameters["rdinit"], vm.Memory)
	var wrong *initrd.Error
	switch {
	case errors.As(err, &wrong) && wrong.Reason == initrd.TooLarge:
		j.fail("Memory", spec.FormatSize(vm.Memory), "accepted: more", "the initial RAM disk does not fit once it is unpacked: %v", err)
		return
	case err != nil:
		j.fail("Initrd", vm.Initrd, acceptedWhole, "%v", err)
		return
	}
	j.images.Initrd = seen
	j.compressions(seen.Report)
	for _, flaw := range seen.Report.Flaws {
		j.problems.Add(diag.Problem{
			Origin: j.plan.Origin("Initrd"), Severity: diag.Warning, Key: "Initrd", Value: vm.Initrd,
			What: "the kernel will not take all of it: " + flaw.What,
		})
	}
	if need := unpacked(parameters, kernel, packed, seen.Report.Pages); need > vm.Memory {
		j.fail("Memory", spec.FormatSize(vm.Memory), "accepted: "+spec.FormatSize(roundUp(need))+" or more",
			"the initial RAM disk does not fit once it is unpacked: its files have %s", spec.FormatSize(roundUp(seen.Report.Pages)))
	}
}

// compressions asks the kernel's image whether it unpacks what the initial RAM
// disk is packed by.
func (j *judge) compressions(report *initrd.Report) {
	vm := j.plan.VM
	if vm.Kernel == "" {
		return
	}
	support, err := j.Memory.Kernel(vm.Kernel)
	if err != nil {
		return // that it cannot be read is said already
	}
	compressions := []string{}
	for _, s := range report.Segments {
		compressions = append(compressions, s.Compression)
	}
	if report.NotInspected == decompress.LZO {
		compressions = append(compressions, report.NotInspected)
	}
	for _, compression := range compressions {
		switch {
		case support.Takes(compression):
		case support.NoInitrd:
			j.fail("Kernel", vm.Kernel, "accepted: a kernel with CONFIG_BLK_DEV_INITRD, or no Initrd=", "this kernel takes no initial RAM disk")
			return
		default:
			accepted := "accepted: one that is not compressed, or a kernel with CONFIG_RD_" + strings.ToUpper(compression)
			if len(support.Compressions) > 0 {
				accepted = "accepted: one compressed by " + strings.Join(support.Compressions, ", ") + ", or not at all; or a kernel with CONFIG_RD_" + strings.ToUpper(compression)
			}
			j.fail("Initrd", vm.Initrd, accepted, "the kernel %s cannot unpack %s", vm.Kernel, compression)
			return
		}
	}
}

// unpacked is the least memory in which an initial RAM disk can be unpacked, by
// a little: a kernel gives some of what it takes at first back. Without a word about another root, the file system that it is unpacked into
// is a tmpfs of half of the memory that the kernel has left (Linux,
// init/do_mounts.c).
func unpacked(parameters map[string]string, kernel, packed, pages int64) int64 {
	for _, name := range []string{"root", "rootfstype", "initramfs_options"} {
		if _, ok := parameters[name]; ok {
			return kernel*3/4 + packed + pages
		}
	}
	return kernel*3/4 + packed + 2*pages
}
