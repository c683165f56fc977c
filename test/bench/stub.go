package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// stub is a program in a hypervisor's place that writes the time at which it
// was executed into a file, and ends, or stays until it is killed.
type stub struct{ program, mark string }

// newStub makes the program, with a name that a peer may ask for, in a
// directory of its own.
//
// It is written as machine code, for x86-64 as all of Ampoule: whatever a
// compiler, a C library or a language runtime does before main would be counted
// as time to the exec, for Ampoule and peer alike.
func newStub(dir, name string, stays bool) (stub, error) {
	s := stub{program: filepath.Join(dir, name), mark: filepath.Join(dir, name+".mark")}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return stub{}, err
	}
	return s, os.WriteFile(s.program, stubProgram(s.mark, stays), 0o755)
}

// stubProgram is an ELF file of one segment: headers, code, the mark's path.
func stubProgram(mark string, stays bool) []byte {
	const base, headers = 0x400000, 64 + 56
	open := []byte{
		0xbe, unix.O_WRONLY, 0, 0, 0, // mov esi, O_WRONLY
		0x0f, 0x05, // syscall
		0x89, 0xc7, // mov edi, eax
		0xb8, 1, 0, 0, 0, // mov eax, write
		0x48, 0x8d, 0x74, 0x24, 0xe0, // lea rsi, [rsp-32]
		0xba, 16, 0, 0, 0, // mov edx, 16
		0x0f, 0x05, // syscall
	}
	if stays {
		open = append(open, 0xb8, 34, 0, 0, 0, 0x0f, 0x05) // mov eax, pause; syscall
	}
	open = append(open,
		0xb8, 60, 0, 0, 0, // mov eax, exit
		0x31, 0xff, // xor edi, edi
		0x0f, 0x05, // syscall
	)
	code := append([]byte{
		0xb8, 228, 0, 0, 0, // mov eax, clock_gettime
		0xbf, unix.CLOCK_MONOTONIC, 0, 0, 0, // mov edi, CLOCK_MONOTONIC
		0x48, 0x8d, 0x74, 0x24, 0xe0, // lea rsi, [rsp-32]
		0x0f, 0x05, // syscall
		0xb8, 2, 0, 0, 0, // mov eax, open
		0x48, 0x8d, 0x3d, byte(len(open)), 0, 0, 0, // lea rdi, [rip+N], the path behind the code
	}, open...)
	size := uint64(headers + len(code) + len(mark) + 1)
	var out bytes.Buffer
	for _, part := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1},
		uint16(2), uint16(62), uint32(1), // an executable, x86-64, version 1
		uint64(base + headers), uint64(64), uint64(0), uint32(0), // entry, program headers, sections, flags
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0), // sizes and counts
		uint32(1), uint32(5), // to be loaded, readable and executable
		uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000),
		code, []byte(mark), byte(0),
	} {
		// A buffer takes everything, and all these have a size.
		_ = binary.Write(&out, binary.LittleEndian, part)
	}
	return out.Bytes()
}

// clear forgets the last execution. The stub does not create the file.
func (s stub) clear() error {
	if err := os.WriteFile(s.mark, nil, 0o600); err != nil {
		return fmt.Errorf("preparing the stub: %w", err)
	}
	return nil
}

// executed returns the monotonic time of the execution since the last clear.
func (s stub) executed() (time.Duration, error) {
	mark, err := os.ReadFile(s.mark)
	if err != nil {
		return 0, fmt.Errorf("reading what the stub noted: %w", err)
	}
	if len(mark) != 16 {
		return 0, fmt.Errorf("the stub in the hypervisor's place was not executed: it noted %d bytes", len(mark))
	}
	seconds, nanoseconds := binary.LittleEndian.Uint64(mark), binary.LittleEndian.Uint64(mark[8:])
	return time.Duration(seconds)*time.Second + time.Duration(nanoseconds), nil
}

// monotonic is the clock that the stub reads.
func monotonic() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return time.Duration(t.Nano()), nil
}
