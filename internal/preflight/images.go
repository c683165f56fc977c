package preflight

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/initrd"
	"github.com/ampoule-vm/ampoule/internal/initrd/decompress"
	"github.com/ampoule-vm/ampoule/internal/inspect"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Images is what was seen in the files that the guest boots from.
type Images struct {
	Initrd inspect.Initrd
	// RAMDisk says what the initial RAM disk is where it is no archive but the
	// image of a file system, which some kernels take.
	RAMDisk string
	// KernelMemory is what the kernel takes of the guest's, in bytes.
	KernelMemory int64
}

// slowAfter is when somebody is told what is being waited for.
const slowAfter = time.Second

const (
	acceptedKernel = "accepted: a readable Linux kernel image"
	acceptedInitrd = "accepted: a readable initial RAM disk"
	acceptedWhole  = "accepted: one that is whole: cpio archives, plain or compressed by gzip, bzip2, lzma, xz, lzo, lz4 or zstd"
)

// boot checks kernel, initrd and memory.
func (j *judge) boot(ctx context.Context) {
	vm := j.plan.VM
	var kernel host.Kernel
	var initrd int64
	var err error
	if vm.Kernel != "" { // else it is a draft, and the mistake is known
		if kernel, err = host.CheckKernel(vm.Kernel, vm.KernelFormats); err != nil {
			j.fail("Kernel", vm.Kernel, acceptedKernel, "%v", err)
		}
	}
	j.images.KernelMemory = kernel.Memory
	if vm.Initrd != "" {
		if initrd, err = host.CheckInitrd(vm.Initrd); err != nil {
			j.fail("Initrd", vm.Initrd, acceptedInitrd, "%v", err)
		}
	}
	if need := kernel.Size + initrd; need >= vm.Memory {
		j.fail("Memory", spec.FormatSize(vm.Memory), fmt.Sprintf("accepted: more than %s, and room to unpack them", spec.FormatSize(RoundUp(need))),
			"kernel and initrd alone have %d bytes", need)
		return
	}
	if vm.Initrd != "" && err == nil {
		j.initrd(ctx)
	}
}

// initrd looks into the initial RAM disk: what Linux would stumble over in the
// dark is said before the start.
func (j *judge) initrd(ctx context.Context) {
	vm := j.plan.VM
	parameters := driver.KernelParameters(vm.KernelCommandLine)
	if j.Slow != nil {
		defer time.AfterFunc(slowAfter, func() { j.Slow(vm.Initrd) }).Stop()
	}
	seen, err := j.Seen.Initrd(ctx, vm.Initrd, parameters["rdinit"], vm.Memory)
	var wrong *initrd.Error
	switch {
	case errors.As(err, &wrong) && wrong.Reason == initrd.TooLarge:
		j.fail("Memory", spec.FormatSize(vm.Memory), "accepted: more", "the initial RAM disk does not fit once it is unpacked: %v", err)
		return
	case errors.As(err, &wrong) && wrong.Reason == initrd.RAMDiskImage:
		j.images.RAMDisk = wrong.What
		j.warn("Initrd", vm.Initrd, "only a kernel with CONFIG_BLK_DEV_RAM and root=/dev/ram0 takes it: "+wrong.What)
		return
	case err != nil:
		j.fail("Initrd", vm.Initrd, acceptedWhole, "%v", err)
		return
	}
	j.images.Initrd = seen
	j.compressions(ctx, seen.Report)
	for _, flaw := range seen.Report.Flaws {
		j.warn("Initrd", vm.Initrd, "the kernel will not take all of it: "+flaw.What)
	}
	if need := Unpacked(j.plan, j.images, 0); need > vm.Memory {
		j.fail("Memory", spec.FormatSize(vm.Memory), "accepted: "+spec.FormatSize(RoundUp(need))+" or more",
			"the initial RAM disk does not fit once it is unpacked: its files have %s", spec.FormatSize(RoundUp(seen.Report.Pages)))
	}
}

// compressions asks the kernel's image whether it unpacks what the initial RAM
// disk is packed by.
func (j *judge) compressions(ctx context.Context, report *initrd.Report) {
	vm := j.plan.VM
	if vm.Kernel == "" {
		return
	}
	support, err := j.Seen.Kernel(ctx, vm.Kernel)
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

// Unpacked is the least memory, in bytes, in which the VM's initial RAM disk can
// be unpacked together with so many bytes more. It is a little too small: a
// kernel gives some of what it takes at first back. Without a word about
// another root, the file system that it is unpacked into is a tmpfs of half of
// the memory that the kernel has left (Linux, init/do_mounts.c).
func Unpacked(p *plan.Plan, seen Images, more int64) int64 {
	packed, pages := more, more
	if r := seen.Initrd.Report; r != nil {
		packed, pages = packed+seen.Initrd.Identity.Size, pages+r.Pages
	}
	parameters := driver.KernelParameters(p.VM.KernelCommandLine)
	for _, name := range []string{"root", "rootfstype", "initramfs_options"} {
		if _, ok := parameters[name]; ok {
			return seen.KernelMemory*3/4 + packed + pages
		}
	}
	return seen.KernelMemory*3/4 + packed + 2*pages
}
