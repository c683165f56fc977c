package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/control/httpapi"
	"github.com/ampoule-vm/ampoule/internal/control/qmp"
	"github.com/ampoule-vm/ampoule/internal/notify"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/vsock"
)

// notifyPort is the port of this host on a multiplexed vsock, which the VM has to
// itself; state.NotifyName ends in it.
const notifyPort = 9999

// sockets are what a hypervisor inherits: its ends, and the names of sockets that
// it makes itself.
type sockets struct {
	control, console, events, vhost *os.File
	apiPath, vsockPath              string
	cid                             uint32
	// networks are the interfaces of the guest, by the lines that ask for them.
	networks map[string]netFiles
}

// links are our ends.
type links struct {
	theirs  sockets
	control hypervisor
	serial  io.ReadWriteCloser
	relay   *notify.Relay
	// notify is where the guest's service manager reaches the relay; empty without
	// one.
	notify string
	// agent has the key of ampoule ssh; nil without one.
	agent   *agent
	closers []io.Closer
	// removed are the names of sockets that others made.
	removed []string
}

// open makes everything that is between us and a hypervisor. On error nothing is
// left.
func (g *guest) open() (*links, error) {
	e := &links{}
	for _, f := range []func(*links) error{g.openNetworks, g.openVSock, g.openAgent, g.openConsole, g.openControl} {
		if err := f(e); err != nil {
			e.close()
			return nil, err
		}
	}
	return e, nil
}

// started gives up our copies of the hypervisor's ends, or its end would not be
// noticed.
func (e *links) started() {
	for _, f := range []*os.File{e.theirs.control, e.theirs.console, e.theirs.events, e.theirs.vhost} {
		if f != nil {
			f.Close()
		}
	}
}

func (e *links) close() {
	e.started()
	e.handedOver()
	if e.control != nil {
		e.control.close()
	}
	for _, c := range slices.Backward(e.closers) {
		c.Close()
	}
	for _, name := range e.removed {
		_ = os.Remove(name)
	}
}

// runtimePath names a socket in the VM's runtime directory, and removes what a
// hypervisor that was killed has left there.
func (g *guest) runtimePath(name string) (string, error) {
	if g.dirs.Runtime == "" {
		return "", errors.New("there is no place for the hypervisor's sockets: set XDG_RUNTIME_DIR or RUNTIME_DIRECTORY")
	}
	path := filepath.Join(g.dirs.Runtime, name)
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("the path of the socket %s has %d bytes, and the kernel takes at most %d: use a shorter XDG_RUNTIME_DIR", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return "", err
	}
	return path, nil
}

// maxSocketPath is sun_path without its NUL (unix(7)).
const maxSocketPath = 107

func (g *guest) openConsole(e *links) error {
	if g.Plan.VM.Asks(plan.AskStdio) {
		ours, theirs, err := console.NewPTY()
		if err != nil {
			return err
		}
		e.serial, e.theirs.console = ours, theirs
		e.closers = append(e.closers, ours)
		return nil
	}
	ours, theirs, err := qmp.Pair()
	if err != nil {
		return err
	}
	e.serial, e.theirs.console = ours, theirs
	e.closers = append(e.closers, ours)
	return nil
}

func (g *guest) openControl(e *links) error {
	if g.Plan.VM.Control == plan.QMP {
		ours, theirs, err := qmp.Pair()
		if err != nil {
			return err
		}
		e.closers = append(e.closers, ours)
		e.theirs.control, e.control = theirs, newQMPControl(ours, g.trouble)
		return nil
	}
	c := newAPIControl(g.Plan.VM.API)
	e.control = c
	if g.Plan.VM.Asks(plan.AskEvents) {
		ours, theirs, err := os.Pipe()
		if err != nil {
			return err
		}
		c.source, e.theirs.events = ours, theirs
	}
	if g.makesSocket() {
		path, err := g.runtimePath(state.APIName)
		if err != nil {
			return err
		}
		e.theirs.apiPath, e.removed = path, append(e.removed, path)
		c.dial = func(ctx context.Context) (net.Conn, error) { return httpapi.DialPath(ctx, path, g.proc.Pid()) }
		return nil
	}
	if g.dirs.Runtime == "" {
		return errors.New("there is no place for the hypervisor's socket: set XDG_RUNTIME_DIR or RUNTIME_DIRECTORY")
	}
	// A service manager may have made it a link to where the directory lies.
	dir, err := filepath.EvalSymlinks(g.dirs.Runtime)
	if err != nil {
		return err
	}
	// What root starts by hand is in a directory that others may look into.
	private, err := os.MkdirTemp(dir, ".api-")
	if err != nil {
		return err
	}
	defer os.Remove(private) // the socket has no name any more
	ours, theirs, err := httpapi.Listen(private, 1)
	if err != nil {
		return err
	}
	e.closers = append(e.closers, ours[0])
	e.theirs.control = theirs
	c.dial = func(context.Context) (net.Conn, error) { return ours[0], nil }
	return nil
}

// makesSocket reports whether the hypervisor makes its control socket itself.
func (r *runner) makesSocket() bool {
	for _, p := range r.Plan.VM.Command {
		if p.Ask == plan.AskControl {
			return slices.ContainsFunc(p.Words, func(w string) bool { return strings.Contains(w, "{path}") })
		}
	}
	return false
}

// openVSock makes the guest's socket, and listens to what its service manager
// says.
func (g *guest) openVSock(e *links) error {
	v := g.Plan.VM.VSock
	if v == nil {
		return nil
	}
	if !v.Multiplexed {
		return g.openKernelVSock(e, v)
	}
	path, err := g.runtimePath(state.VSockName)
	if err != nil {
		return err
	}
	e.removed = append(e.removed, path)
	listener, err := vsock.ListenMux(path, notifyPort)
	if err != nil {
		return err
	}
	e.theirs.vsockPath, g.record.VSock = path, path
	e.hear(listener, notifyPort)
	return nil
}

func (g *guest) openKernelVSock(e *links, v *plan.VSock) error {
	wanted := uint32(v.CID)
	if wanted == 0 {
		wanted = vsock.CIDFor(g.Plan.VM.Name)
	}
	device, cid, err := vsock.ClaimCID(wanted)
	if err != nil {
		return fmt.Errorf("%s: VSockCID=: %w", g.Plan.Origin("VSockCID"), err)
	}
	e.theirs.vhost, e.theirs.cid = device, cid
	if v.CID != 0 && cid != wanted {
		return fmt.Errorf("%s: VSockCID=%d: another guest of this host has this number; accepted: auto, or one that is free", g.Plan.Origin("VSockCID"), wanted)
	}
	listener, err := vsock.ListenKernel(cid, 0)
	if err != nil {
		return err
	}
	g.record.VSockCID = cid
	e.hear(listener, listener.Port())
	return nil
}

func (e *links) hear(listener net.Listener, port uint32) {
	e.relay = notify.Serve(listener)
	e.closers = append(e.closers, e.relay)
	e.notify = fmt.Sprintf("vsock-stream:%d:%d", vsock.HostCID, port)
}
