package fake

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
)

// start builds the machine in the order of builder.rs and lets the guest run.
// After an error the program goes on, and a later start may succeed.
func (p *process) start() error {
	b := p.vm.boot
	if b == nil {
		return words("Cannot start microvm without kernel configuration.")
	}
	p.log.say(levelDebug, inVMM, "event_start: build microvm for boot")
	if err := p.memory(); err != nil {
		return err
	}
	if p.setup.NoKVM {
		return words("Kvm error: Error creating KVM object: No such file or directory (os error 2) Make sure the user launching the firecracker process is configured on the /dev/kvm file's ACL.")
	}
	out, err := p.serialOut()
	if err != nil {
		return wordsf("Failed to create device manager: Error with EventFd: %s", osError(err))
	}
	if err := loadKernel(b.kernel, p.vm.machine.mem); err != nil {
		return wordsf("System configuration error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Kernel Loader: %v", err)
	}
	initrd, err := loadInitrd(b.initrd, p.vm.machine.mem)
	if err != nil {
		return wordsf("Error with initrd initialization: %v.", err)
	}
	line := b.cmdline
	if !p.vm.pci {
		if err := line.insert("pci=off"); err != nil {
			return wordsf("Invalid kernel command line: %v", err)
		}
	}
	if err := line.addDevices(&p.vm); err != nil {
		return err
	}
	if strings.IndexByte(line.String(), 0) >= 0 {
		p.die("Cannot create cstring from cmdline string: NullTerminator")
	}
	g, err := p.newGuest(line, initrd, out)
	if err != nil {
		return fmt.Errorf("the stand-in does not understand its script: %w", err)
	}
	p.log.say(levelDebug, inVMM, "event_end: build microvm for boot")
	p.run = g
	go g.play()
	return nil
}

// die ends a program that panics: it answers nothing any more.
func (p *process) die(what string) {
	p.panics(what)
	p.end(outcome{ExitAbort, true})
	select {}
}

// memory refuses what cannot be mapped. Sizes in bytes have 64 bits, and what is
// beyond is cut off.
func (p *process) memory() error {
	switch size := p.vm.machine.mem << 20; {
	case size == 0:
		p.die("Attempt to allocate guest memory of length 0")
	case size >= 1<<63:
		return words("Invalid Memory Configuration: Total sum of memory regions exceeds largest possible file offset")
	case size >= 1<<47:
		return words("Invalid Memory Configuration: Cannot create mmap region: Cannot allocate memory (os error 12)")
	}
	return nil
}

// serialOut is where the guest's console goes. Standard output does not block
// from here on.
func (p *process) serialOut() (io.Writer, error) {
	if p.vm.serial != nil {
		return openOutput(*p.vm.serial)
	}
	return p.console, p.console.nonblocking()
}

// Guest memory has a hole of one GiB below 4 GiB, and one of 256 GiB at 256 GiB
// (arch/x86_64/layout.rs).
const (
	gib      = 1 << 30
	himem    = 1 << 20
	lowLimit = 3 * gib
)

// inMemory reports whether a range lies in one piece of mem MiB of memory.
func inMemory(mem, addr, size uint64) bool {
	total := mem << 20
	low := min(total, lowLimit)
	if addr < low {
		return size <= low-addr
	}
	high := min(total-low, 252*gib)
	return addr >= 4*gib && addr-4*gib <= high && size <= high-(addr-4*gib)
}

// loadKernel reads a kernel as linux-loader reads an ELF file. Nothing else is
// a kernel to this version, a bzImage included.
func loadKernel(f *os.File, mem uint64) error {
	header := make([]byte, 64)
	if _, err := f.ReadAt(header, 0); err != nil {
		return words("Unable to read elf header")
	}
	le := binary.LittleEndian
	entry, phoff := le.Uint64(header[24:]), le.Uint64(header[32:])
	switch {
	case !bytes.HasPrefix(header, []byte(elf.ELFMAG)):
		return words("Invalid Elf magic number")
	case header[5] != byte(elf.ELFDATA2LSB):
		return words("Trying to load big-endian binary on little-endian machine")
	case le.Uint16(header[54:]) != 56:
		return words("Invalid program header size")
	case phoff < 64:
		return words("Invalid program header offset")
	case entry < himem:
		return words("Invalid entry address")
	}
	headers := make([]byte, 56*int(le.Uint16(header[56:])))
	if _, err := f.ReadAt(headers, int64(phoff)); err != nil && len(headers) > 0 {
		return words("Unable to read program header")
	}
	for ; len(headers) > 0; headers = headers[56:] {
		offset, paddr, filesz := le.Uint64(headers[8:]), le.Uint64(headers[24:]), le.Uint64(headers[32:])
		if elf.ProgType(le.Uint32(headers)) != elf.PT_LOAD || filesz == 0 {
			continue
		}
		if !inMemory(mem, paddr, filesz) {
			return words("Unable to read kernel image")
		}
		if n, _ := io.Copy(io.Discard, io.NewSectionReader(f, int64(offset), int64(filesz))); uint64(n) != filesz {
			return words("Unable to read kernel image")
		}
	}
	return nil
}

// loadInitrd reads as many bytes as the file has, from where the last reading
// ended: a second start without another PUT /boot-source finds none.
func loadInitrd(f *os.File, mem uint64) ([]byte, error) {
	if f == nil {
		return nil, nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil, wordsf("Cannot image metadata: %s", osError(err))
	}
	if uint64(info.Size()) > min(mem<<20, lowLimit) {
		return nil, words("Failed to compute the initrd address.")
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, words("Cannot load initrd due to an invalid image: failed to fill whole buffer")
	}
	return b, nil
}
