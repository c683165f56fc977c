// Package tinykernel makes kernels of a few instructions, for hypervisors whose
// guests make no progress where the processor's own virtualisation is hidden. It is
// for tests alone.
package tinykernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// Machine code that is the same with 32 and with 64 bits.
const (
	// Word says "OK\n" on the first serial port, and Echo sends back what comes
	// over it, for ever.
	Word = "\x66\xba\xf8\x03\xb0O\xee\xb0K\xee\xb0\n\xee"
	Echo = "\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7\x66\xba\xf8\x03\xec\xee\xeb\xef"
	// Loop goes round in circles, Halt does nothing, and takes nothing, for ever, and
	// Pause takes a moment.
	Loop  = "\xeb\xfe"
	Halt  = "\xf4\xeb\xfd"
	Pause = "\x66\xba\x80\x00\xee"
	// Reset is by the keyboard's controller, PowerOff by ACPI at the port of
	// cloud-hypervisor.
	Reset    = "\x66\xba\x64\x00\xb0\xfe\xee"
	PowerOff = "\x66\xba\x00\x06\xb0\x34\xee"
	// Button waits for the power button of QEMU's q35, and powers off: it enables the
	// button (PM1 enable, port 0x602), asks until it was pressed (PM1 status, 0x600),
	// and goes to sleep (PM1 control, 0x604), at the ports where SeaBIOS has them.
	Button = "\x66\xba\x02\x06\x66\xb8\x00\x01\x66\xef" +
		"\x66\xba\x00\x06\x66\xed\xf6\xc4\x01\x74\xf5" +
		"\x66\xba\x04\x06\x66\xb8\x00\x20\x66\xef" + Loop
)

// SegmentOffset is where in the file stands at which offset the program begins.
const SegmentOffset = 64 + 8

// ELF makes a file for x86-64 that some hypervisors enter in 64 bits, and others in
// 32 where its PVH note says.
func ELF(code string) []byte {
	const address, headers = 0x1000000, 64 + 2*56
	note := []byte{4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0, 0, 0, 0, 0}
	binary.LittleEndian.PutUint32(note[16:], address)
	head := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: address, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2}
	copy(head.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	size := uint64(len(code))
	var out bytes.Buffer
	for _, v := range []any{
		head,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: 5, Off: headers + uint64(len(note)), Vaddr: address, Paddr: address, Filesz: size, Memsz: size, Align: 1},
		elf.Prog64{Type: uint32(elf.PT_NOTE), Flags: 4, Off: headers, Filesz: uint64(len(note)), Memsz: uint64(len(note)), Align: 4},
		note, []byte(code),
	} {
		_ = binary.Write(&out, binary.LittleEndian, v) // of fixed sizes, into memory
	}
	return out.Bytes()
}
