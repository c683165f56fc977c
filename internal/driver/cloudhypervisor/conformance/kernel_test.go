package conformance

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

func contentLength(head []byte) int {
	for line := range strings.SplitSeq(string(head), "\r\n") {
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			return atoi(value)
		}
	}
	return 0
}

// The machine code of kernels that a real processor can run: 32 bits, protected
// mode, as the PVH entry finds it.
const (
	codeLoop     = "\xeb\xfe"                 // jmp .
	codePowerOff = "\x66\xba\x00\x06\xb0\x34" // mov $0x600,%dx; mov $0x34,%al
	codeReset    = "\x66\xba\x00\x06\xb0\x01"
	codeOut      = "\xee" // out %al,(%dx)
	codeWord     = "\x66\xba\xf8\x03\xb0O\xee\xb0K\xee\xb0\n\xee"
)

const loadAddress = 0x1000000

// writeKernel makes an ELF kernel with one segment, and with the note of the PVH
// entry if wanted.
func writeKernel(t *testing.T, dir, code string, note bool) string {
	t.Helper()
	const headers = 64 + 2*56
	entry := []byte{4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0, 0, 0, 0, 0}
	binary.LittleEndian.PutUint32(entry[16:], loadAddress)
	if !note {
		entry[8] = 1
	}
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: loadAddress, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	segments := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: 5, Off: headers + uint64(len(entry)), Vaddr: loadAddress, Paddr: loadAddress, Filesz: uint64(len(code)), Memsz: uint64(len(code)), Align: 1},
		{Type: uint32(elf.PT_NOTE), Flags: 4, Off: headers, Filesz: uint64(len(entry)), Memsz: uint64(len(entry)), Align: 4},
	}
	out := bytes.Buffer{}
	for _, v := range []any{h, segments, entry, []byte(code)} {
		if err := binary.Write(&out, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return writeFile(t, dir, "kernel", out.Bytes())
}

func writeFile(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// codePanic writes to the panic device, which is the second on the PCI bus: it
// reads the address of its memory from configuration space.
const codePanic = "\xb8\x10\x10\x00\x80" + "\x66\xba\xf8\x0c" + "\xef" + // mov $0x80001010,%eax; mov $0xcf8,%dx; out %eax,(%dx)
	"\x66\xba\xfc\x0c" + "\xed" + // mov $0xcfc,%dx; in (%dx),%eax
	"\x83\xe0\xf0" + "\xc6\x00\x01" // and $~0xf,%eax; movb $1,(%eax)

// codeEcho sends back what comes over the serial port.
const codeEcho = "\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7" + // mov $0x3fd,%dx; in (%dx),%al; test $1,%al; jz
	"\x66\xba\xf8\x03\xec\xee\xeb\xef" // mov $0x3f8,%dx; in (%dx),%al; out %al,(%dx); jmp
