package run

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/vsock"
)

var (
	// ErrNotBooted: the VM's run has not come to its guest yet.
	ErrNotBooted = errors.New("it has not started its guest yet")
	// ErrNoVSock: the guest was started without one.
	ErrNoVSock = errors.New("the guest has no vsock")
)

// DialGuest connects with a port of the guest of a VM that runs. What the VM's own
// user may have written leads to no other guest: what an operator sends is for
// this one alone. The error wraps vsock.ErrRefused when nothing in the guest
// listens there. A guest may not answer at all, so ctx had better end.
func DialGuest(ctx context.Context, i state.Instance, port uint32) (net.Conn, error) {
	switch {
	case i.Record == nil:
		return nil, ErrNotBooted
	case i.Record.VSock != "":
		return dialMultiplexed(ctx, i, port)
	case i.Record.VSockCID != 0:
		return dialKernel(ctx, i, port)
	}
	return nil, ErrNoVSock
}

func dialMultiplexed(ctx context.Context, i state.Instance, port uint32) (net.Conn, error) {
	s, err := holdSocket(i, state.VSockName)
	if err != nil {
		return nil, err
	}
	defer s.close()
	conn, err := vsock.DialMux(ctx, s.name(), port)
	if err != nil {
		return nil, err
	}
	if err := s.checkPeer(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func dialKernel(ctx context.Context, i state.Instance, port uint32) (net.Conn, error) {
	others, err := state.List("")
	if err != nil {
		return nil, err
	}
	if err := checkNumber(i, others); err != nil {
		return nil, err
	}
	return vsock.DialKernel(ctx, i.Record.VSockCID, port)
}

// checkNumber trusts a guest's number only where no other VM names it too: whoever
// has the device for it has it alone.
func checkNumber(i state.Instance, others []state.Instance) error {
	cid := i.Record.VSockCID
	if cid <= vsock.HostCID || cid == 1<<32-1 {
		return fmt.Errorf("its record names %d as the guest's number, which is none of a guest", cid)
	}
	for _, o := range others {
		if o.Dir != i.Dir && o.Running && o.Record != nil && o.Record.VSockCID == cid {
			return fmt.Errorf("its record and that of %s (%s) both name %d as their guest's number, and one of them is wrong", o.Name, o.Dir, cid)
		}
	}
	return nil
}
