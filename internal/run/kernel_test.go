package run

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// A guest in a few bytes: what QEMU's -kernel takes for a Linux kernel, with
// nothing but 16-bit code in its setup part (Documentation/arch/x86/boot.rst).

// writeKernel writes a kernel that runs the code and then idles.
func writeKernel(t testing.TB, code []byte) string {
	t.Helper()
	const entry, body = 0x200, 0x270
	image := make([]byte, 1024+512)
	image[0x1f1] = 1 // one sector of setup code follows the first
	image[0x1fe], image[0x1ff] = 0x55, 0xaa
	image[entry], image[entry+1] = 0xeb, body-entry-2 // jmp over the header
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x0204)
	image[0x211] = 1                                         // the rest is loaded at 1 MiB
	binary.LittleEndian.PutUint32(image[0x214:], 0x100000)   // and entered there, without the setup code
	binary.LittleEndian.PutUint32(image[0x22c:], 0x37ffffff) // an initrd may lie below
	n := copy(image[body:], code)
	n += copy(image[body+n:], []byte{0xfb, 0xf4, 0xeb, 0xfc}) // sti; hlt; jmp to sti
	if body+n > 1024 {
		t.Fatal("the code is too long")
	}
	path := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// outb writes a byte, outw a word, to an I/O port.
func outb(port uint16, value byte) []byte {
	return []byte{0xba, byte(port), byte(port >> 8), 0xb0, value, 0xee}
}

func outw(port, value uint16) []byte {
	return []byte{0xba, byte(port), byte(port >> 8), 0xb8, byte(value), byte(value >> 8), 0xef}
}

// say writes to the first serial port.
func say(text string) (code []byte) {
	// mov dx, 0x3f8; mov si, text; mov cx, length; cs lodsb; out dx, al; loop;
	// with the text behind it, found by call and pop.
	code = []byte{0xe8, byte(len(text)), byte(len(text) >> 8)}
	code = append(code, text...)
	code = append(code, 0x5e, 0xb9, byte(len(text)), byte(len(text)>>8), 0xba, 0xf8, 0x03)
	return append(code, 0x2e, 0xac, 0xee, 0xe2, 0xfb)
}

// What the chipset of q35 does for a write, after SeaBIOS has placed it.
func powerOff() []byte { return outw(0x604, 0x2000) } // ACPI: sleep state 5
func reset() []byte    { return outb(0xcf9, 6) }
func panics() []byte   { return outb(0x505, 1) } // the pvpanic device

// awaitPowerButton enables the button and waits until it is pressed.
func awaitPowerButton() []byte {
	code := outw(0x602, 0x0100) // PM1_EN: power button
	// mov dx, 0x600; in ax, dx; test ah, 1; jz back to in
	return append(code, 0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xfa)
}

// once runs first on the first boot, and the code after it on every later one:
// a byte of the clock's memory outlives a reset.
func once(first []byte) []byte {
	const cell, mark = 0x7a, 0x5a
	code := outb(0x70, cell)
	code = append(code, 0xe4, 0x71, 0x3c, mark) // in al, 0x71; cmp al, mark
	mine := append(outb(0x70, cell), 0xb0, mark, 0xe6, 0x71)
	mine = append(append(mine, first...), 0xf4) // hlt
	code = append(code, 0x0f, 0x84, byte(len(mine)), byte(len(mine)>>8))
	return append(code, mine...)
}

func join(parts ...[]byte) (code []byte) {
	for _, p := range parts {
		code = append(code, p...)
	}
	return code
}
