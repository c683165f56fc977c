package fake

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// start builds the machine in the order of builder.rs and lets the guest run.
// After an error the program goes on, and a later start may succeed.
//
//nolint:staticcheck // the words of the real program
func (p *process) start() error {
	b := p.vm.boot
	if b == nil {
		return errors.New("Cannot start microvm without kernel configuration.")
	}
	p.log.say(levelDebug, inVMM, "event_start: build microvm for boot")
	if p.setup.NoKVM {
		return errors.New("Kvm error: Error creating KVM object: No such file or directory (os error 2) Make sure the user launching the firecracker process is configured on the /dev/kvm file's ACL.")
	}
	out, err := p.serialOut()
	if err != nil {
		return fmt.Errorf("Failed to create device manager: Error with EventFd: %s", osError(err))
	}
	if err := loadKernel(b.kernel, p.vm.machine.mem); err != nil {
		return fmt.Errorf("System configuration error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Kernel Loader: %w", err)
	}
	initrd, err := loadInitrd(b.initrd, p.vm.machine.mem)
	if err != nil {
		return fmt.Errorf("Error with initrd initialization: %w.", err)
	}
	line := b.cmdline
	if !p.vm.pci {
		if err := line.insert("pci=off"); err != nil {
			return fmt.Errorf("Invalid kernel command line: %w", err)
		}
	}
	if err := line.addDevices(&p.vm); err != nil {
		return err
	}
	if strings.IndexByte(line.String(), 0) >= 0 {
		p.end(outcome{p.abort("Cannot create cstring from cmdline string: NullTerminator"), true})
		select {} // a program that panics answers nothing
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
//
//nolint:staticcheck // the words of the real program
func loadKernel(f *os.File, mem uint64) error {
	header := make([]byte, 64)
	if _, err := f.ReadAt(header, 0); err != nil {
		return errors.New("Unable to read elf header")
	}
	le := binary.LittleEndian
	entry, phoff := le.Uint64(header[24:]), le.Uint64(header[32:])
	switch {
	case !bytes.HasPrefix(header, []byte(elf.ELFMAG)):
		return errors.New("Invalid Elf magic number")
	case header[5] != byte(elf.ELFDATA2LSB):
		return errors.New("Trying to load big-endian binary on little-endian machine")
	case le.Uint16(header[54:]) != 56:
		return errors.New("Invalid program header size")
	case phoff < 64:
		return errors.New("Invalid program header offset")
	case entry < himem:
		return errors.New("Invalid entry address")
	}
	headers := make([]byte, 56*int(le.Uint16(header[56:])))
	if _, err := f.ReadAt(headers, int64(phoff)); err != nil && len(headers) > 0 {
		return errors.New("Unable to read program header")
	}
	for ; len(headers) > 0; headers = headers[56:] {
		offset, paddr, filesz := le.Uint64(headers[8:]), le.Uint64(headers[24:]), le.Uint64(headers[32:])
		if elf.ProgType(le.Uint32(headers)) != elf.PT_LOAD || filesz == 0 {
			continue
		}
		if !inMemory(mem, paddr, filesz) {
			return errors.New("Unable to read kernel image")
		}
		if n, _ := io.Copy(io.Discard, io.NewSectionReader(f, int64(offset), int64(filesz))); uint64(n) != filesz {
			return errors.New("Unable to read kernel image")
		}
	}
	return nil
}

// loadInitrd reads as many bytes as the file has, from where the last reading
// ended: a second start without another PUT /boot-source finds none.
//
//nolint:staticcheck // the words of the real program
func loadInitrd(f *os.File, mem uint64) ([]byte, error) {
	if f == nil {
		return nil, nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("Cannot image metadata: %s", osError(err))
	}
	if uint64(info.Size()) > min(mem<<20, lowLimit) {
		return nil, errors.New("Failed to compute the initrd address.")
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, errors.New("Cannot load initrd due to an invalid image: failed to fill whole buffer")
	}
	return b, nil
}
