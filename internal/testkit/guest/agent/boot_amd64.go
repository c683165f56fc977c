package main

import (
	"runtime"
	"strconv"
	"syscall"
)

// The count of boots lives in a byte of the RTC's CMOS memory that neither the
// firmware nor Linux uses: it survives a reset of the machine and dies with it.
// A machine without an RTC reads as 255.
const (
	cmosIndex = 0x70
	cmosData  = 0x71
	bootByte  = 0x7a
)

// outb and inb are the instructions of the same name, see port_amd64.s.
func outb(port uint16, value uint8)
func inb(port uint16) uint8

// countBoot counts this boot and returns its number from 1 on, or "unknown".
func countBoot() string {
	// The permission is the thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if !mayUseCMOS() {
		return "unknown"
	}
	before := readCMOS()
	if before >= 250 {
		return "unknown"
	}
	// The kernel's clock driver uses the same two ports, so the byte may land
	// elsewhere or be read from elsewhere; it is written until it holds.
	for range 10 {
		outb(cmosIndex, bootByte)
		outb(cmosData, before+1)
		if readCMOS() == before+1 {
			return strconv.Itoa(int(before) + 1)
		}
	}
	return "unknown"
}

// boots is the number that countBoot has given this boot; 0 where it has none.
func boots() int {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if !mayUseCMOS() {
		return 0
	}
	// Two of a kind: one may have been read from elsewhere.
	for range 10 {
		if n := readCMOS(); n == readCMOS() && n < 250 {
			return int(n)
		}
	}
	return 0
}

func mayUseCMOS() bool {
	_, _, errno := syscall.Syscall(syscall.SYS_IOPERM, cmosIndex, 2, 1)
	return errno == 0
}

func readCMOS() uint8 {
	outb(cmosIndex, bootByte)
	return inb(cmosData)
}
