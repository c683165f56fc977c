package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// patience is how long a peer has to appear.
const patience = 2 * time.Minute

// address gives an interface an address and takes it up:
//
//	agent address MAC|NAME|any ADDRESS/BITS
//
// It waits for the interface, since its driver may not be there yet, and prints its
// name; any is the first that is not the loopback.
func address(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: agent address MAC|NAME|any ADDRESS/BITS")
	}
	prefix, err := netip.ParsePrefix(args[1])
	if err != nil || !prefix.Addr().Is4() {
		return fmt.Errorf("%q is no IPv4 address with its bits: %w", args[1], err)
	}
	// udev renames the interface in these moments.
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		name := findInterface(args[0])
		if name != "" {
			err = setAddress(name, prefix)
		} else {
			err = fmt.Errorf("there is no interface %s", args[0])
		}
		if err == nil {
			name = findInterface(args[0])
			fmt.Println(name)
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// setAddress gives an interface an address and takes it up.
func setAddress(name string, prefix netip.Prefix) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making a socket: %w", err)
	}
	defer func() { _ = syscall.Close(fd) }()
	flags := make([]byte, 2)
	binary.NativeEndian.PutUint16(flags, syscall.IFF_UP)
	for _, step := range []struct {
		what    string
		request uintptr
		value   []byte
	}{
		{"setting the address", syscall.SIOCSIFADDR, socketAddress(prefix.Addr().AsSlice())},
		{"setting the mask", syscall.SIOCSIFNETMASK, socketAddress(net.CIDRMask(prefix.Bits(), 32))},
		{"taking it up", syscall.SIOCSIFFLAGS, flags},
	} {
		var ifreq [40]byte // struct ifreq: a name of 16 bytes and a union of 24
		copy(ifreq[:15], name)
		copy(ifreq[16:], step.value)
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), step.request, uintptr(unsafe.Pointer(&ifreq))); errno != 0 {
			return fmt.Errorf("%s of %s: %w", step.what, name, errno)
		}
	}
	return nil
}

// socketAddress is a struct sockaddr_in of an IPv4 address.
func socketAddress(ip []byte) []byte {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint16(b, syscall.AF_INET)
	copy(b[4:], ip)
	return b
}

// findInterface returns the interface with a MAC address or a name; "" where there
// is none.
func findInterface(wanted string) string {
	files, _ := filepath.Glob("/sys/class/net/*/address")
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		if name == wanted || strings.EqualFold(text(file), wanted) || wanted == "any" && name != "lo" {
			return name
		}
	}
	return ""
}

// answer says a text to everybody who connects, and in front of it by which address
// they come, for ever:
//
//	agent answer :PORT TEXT
func answer(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: agent answer :PORT TEXT")
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	fmt.Println("listening on " + args[0])
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		from, _, _ := strings.Cut(conn.RemoteAddr().String(), ":")
		fmt.Fprintf(conn, "to %s: %s\n", from, args[1])
		conn.Close()
	}
}

// ask prints what somebody says who is connected to. It waits until there is
// somebody:
//
//	agent ask ADDRESS:PORT
func ask(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: agent ask ADDRESS:PORT")
	}
	conn, err := connect(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// send writes as many MiB of zeros to somebody as are wanted, and waits until they
// have been read:
//
//	agent send ADDRESS:PORT MEBIBYTES
func send(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: agent send ADDRESS:PORT MEBIBYTES")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	conn, err := connect(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	block := make([]byte, 1<<20)
	for range n {
		if _, err := conn.Write(block); err != nil {
			return err
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// connect waits for somebody who listens.
func connect(to string) (net.Conn, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", to, 5*time.Second)
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
	}
}
