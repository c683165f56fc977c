// Package vsock connects host and guest without a network. A hypervisor does it
// in one of two ways, and each has its half of the functions here:
//
// The kernel's (vhost-vsock): both sides have sockets of the family AF_VSOCK. A
// guest is known by its context identifier, which is its own on the whole host
// and has to be found (ClaimCID). ListenKernel and DialKernel.
//
// A multiplexer in the hypervisor (cloud-hypervisor, firecracker): the host has
// sockets in the file system, and nothing of AF_VSOCK. The hypervisor listens at
// PATH, and connects to PATH_PORT when the guest connects to that port of the
// host. ListenMux and DialMux.
package vsock

import (
	"errors"
	"fmt"
)

// Context identifiers that are taken, of linux/vm_sockets.h.
const (
	// HostCID is the host, as its guests see it.
	HostCID = 2
	// firstCID is the first that a guest can have.
	firstCID = 3
)

// anyID is the kernel's word for any context identifier and any port
// (VMADDR_CID_ANY, VMADDR_PORT_ANY).
const anyID = 1<<32 - 1

// privilegedPorts is the first port that everybody may send from
// (LAST_RESERVED_PORT).
const privilegedPorts = 1024

var (
	// ErrPathTooLong: the kernel has no room for it in the address of a socket.
	ErrPathTooLong = errors.New("the path is too long for a socket")
	// ErrNotAbsolute: relative to what would change, and with an at sign in front
	// it would be no path.
	ErrNotAbsolute = errors.New("the path of a socket is to be absolute")
	// ErrInUse: somebody else listens there.
	ErrInUse = errors.New("another process listens there")
	// ErrRefused: nothing in the guest listens at that port, or the guest has
	// not come to it yet.
	ErrRefused = errors.New("nothing listens at that port of the guest")
	// ErrProtocol: the peer is no multiplexer.
	ErrProtocol = errors.New("the answer is not that of a vsock multiplexer")
	// ErrNoDevice: the kernel of this host lacks vhost-vsock.
	ErrNoDevice = errors.New("this kernel has no vhost-vsock (modprobe vhost_vsock)")
	// ErrNoFreeCID: very many guests, or something is wrong.
	ErrNoFreeCID = errors.New("no free context identifier was found")
)

// Addr is one end of a connection of the family AF_VSOCK.
type Addr struct {
	CID, Port uint32
}

// Network returns "vsock".
func (Addr) Network() string { return "vsock" }

// String returns vsock:CID:PORT, as systemd writes it.
func (a Addr) String() string { return fmt.Sprintf("vsock:%d:%d", a.CID, a.Port) }

// Privileged reports whether only the other side's root can send from there.
func (a Addr) Privileged() bool { return a.Port < privilegedPorts }
