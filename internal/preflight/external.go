package preflight

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/devices"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/share"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Taps are the interfaces of a host, and who may open them; netdev.Seen is such.
type Taps interface {
	Find(name string) (netdev.Interface, bool, error)
	Owner(name string) (netdev.Owner, error)
}

// External judges the interfaces, devices and sockets that a VM has of somebody else.
// User is who starts the VM now, in this process; nil: nobody does, so that what may
// still come is only warned of, and not asked who may open it.
func External(p *plan.Plan, taps Taps, user *host.User) diag.List {
	e := external{networkJudge: networkJudge{p: p}, taps: taps, user: user}
	for i := range p.VM.Networks {
		if n := &p.VM.Networks[i]; n.External {
			e.network(n)
		}
	}
	for _, s := range p.VM.Shares {
		if s.Socket != "" {
			e.socket(s)
		}
	}
	for _, d := range p.VM.Devices {
		if d.External {
			e.device(devices.Host(), d)
		}
	}
	return e.problems
}

type external struct {
	networkJudge
	taps Taps
	user *host.User
}

// missing is an error when the VM starts, and before that a warning.
func (e *external) missing(at diag.Problem) {
	if e.user == nil {
		at.Severity = diag.Warning
	}
	e.problems.Add(at)
}

func (e *external) network(n *plan.Network) {
	i, found, err := e.taps.Find(n.Name)
	vm, of := strings.CutPrefix(i.Alias, aliasHead)
	switch {
	case err != nil:
		e.errorf(n, "", "%v", err)
	case !found:
		e.missing(NetworkProblem(e.p, n, "whoever makes it has to before the VM starts; or remove external, and Ampoule makes it", "there is no interface "+n.Name))
	case of:
		e.errorf(n, "accepted: another name=", "the interface %s is that of the VM %s, and goes with it", n.Name, vm)
	case n.Kind == plan.MacVTap:
		e.macvtap(n, i)
	default:
		e.tap(n, i)
	}
}

// common is what a tap and a macvtap must be alike.
func (e *external) common(n *plan.Network, i netdev.Interface) {
	if n.MTU > 0 && n.MTU != i.MTU {
		e.errorf(n, fmt.Sprintf("accepted: mtu=%d, or none; or ip link set %s mtu %d", i.MTU, n.Name, n.MTU), "the guest would be told an MTU of %d, and %s has %d", n.MTU, n.Name, i.MTU)
	}
	if !i.Up {
		off := NetworkProblem(e.p, n, "ip link set "+n.Name+" up", "the interface "+n.Name+" is switched off")
		off.Severity = diag.Warning
		e.problems.Add(off)
	}
}

func (e *external) tap(n *plan.Network, i netdev.Interface) {
	switch {
	case i.Kind != netdev.TapKind:
		e.errorf(n, "accepted: a tap", "the interface %s is no tap but %s", n.Name, what(i))
		return
	case i.Tun:
		e.errorf(n, "make it with ip tuntap add mode tap", "the interface %s is a tun, which carries no Ethernet frames", n.Name)
		return
	case n.Queues > 1 && !i.MultiQueue:
		e.errorf(n, "accepted: queues=1; or make it with multi_queue", "the tap %s has one queue", n.Name)
	case n.ByName && i.MultiQueue:
		e.errorf(n, "make it without multi_queue", "the tap %s was made with multi_queue, and %s cannot open such", n.Name, e.p.VM.Hypervisor)
	}
	e.common(n, i)
	if e.user != nil && !e.user.AnyTap {
		e.owner(n)
	}
}

// owner refuses a tap that the kernel would not let the user open (tun_not_capable in
// drivers/net/tun.c): both the owner and the group count, where there are such.
func (e *external) owner(n *plan.Network) {
	o, err := e.taps.Owner(n.Name)
	switch {
	case err != nil:
		e.errorf(n, "", "%v", err)
	case o.User >= 0 && o.User != e.user.ID:
		e.errorf(n, "make it with user, or run the VM as its owner (User= of the service)", "the tap %s belongs to uid %d, and this is uid %d", n.Name, o.User, e.user.ID)
	case o.Group >= 0 && !slices.Contains(e.user.Groups, o.Group):
		e.errorf(n, "make it with another group, or run the VM in that (SupplementaryGroups= of the service)", "the tap %s belongs to gid %d, in which uid %d is not", n.Name, o.Group, e.user.ID)
	}
}

func (e *external) macvtap(n *plan.Network, i netdev.Interface) {
	link, found, err := e.taps.Find(n.Link)
	switch {
	case err != nil:
		e.errorf(n, "", "%v", err)
		return
	case i.Kind != netdev.MacVTapKind:
		e.errorf(n, "accepted: a macvtap", "the interface %s is no macvtap but %s", n.Name, what(i))
		return
	case !found || link.Index != i.Parent:
		e.errorf(n, "accepted: the interface that ip link show has behind its @", "the macvtap %s is not above %s", n.Name, n.Link)
	case i.MAC != n.MAC:
		e.errorf(n, "accepted: mac="+i.MAC, "the macvtap %s has the address %s, and takes nothing for another", n.Name, i.MAC)
	}
	e.common(n, i)
	if e.user == nil {
		return
	}
	node := netdev.MacVTapNode(i)
	if err := host.MayOpen(node); err != nil {
		e.errorf(n, "give it to the VM's user: chown, or a rule of udev", "uid %d may not open %s, the device of %s (%v)", e.user.ID, node, n.Name, err)
	}
}

// socket looks at that of a share which somebody else serves. It is not connected to:
// whoever serves it serves one guest, once.
func (e *external) socket(s plan.Share) {
	at := diag.Problem{Origin: e.p.Origin(s.From), Key: plan.KeyOf(s.From), Value: share.Line(s)}
	info, err := os.Stat(s.Socket)
	switch {
	case os.IsNotExist(err):
		at.What, at.Accepted = "there is no socket "+s.Socket, "whoever serves the share has to before the VM starts; or remove socket=, and Ampoule has it served"
		e.missing(at)
		return
	case err != nil:
		at.What = "socket=: " + err.Error()
	case info.Mode()&os.ModeSocket == 0:
		at.What, at.Accepted = s.Socket+" is not a socket", "accepted: the --socket-path of a virtiofsd"
	case e.user != nil && host.MayOpen(s.Socket) != nil:
		at.What = fmt.Sprintf("uid %d may not connect to %s (mode %04o)", e.user.ID, s.Socket, info.Mode().Perm())
		at.Accepted = "let it write to the socket (--socket-group= of virtiofsd)"
	default:
		return
	}
	if err != nil && e.user == nil {
		at.Severity = diag.Warning // it may be somebody else's to see
	}
	e.problems.Add(at)
}

// device looks at one that somebody else takes from the host.
func (e *external) device(t devices.Tree, d plan.Device) {
	node, p := t.Given(d)
	at := diag.Problem{Origin: e.p.Origin(d.From), Key: plan.KeyOf(d.From), Value: d.String()}
	if p != nil {
		at.What, at.Accepted = p.What, p.Cure
		e.missing(at)
		return
	}
	if e.user == nil || node == "" {
		return
	}
	if err := host.MayOpen(node); err != nil {
		at.What = fmt.Sprintf("uid %d may not open %s (%v)", e.user.ID, node, err)
		at.Accepted = "whoever prepares the device has to give it to the VM's user"
		if d.Bus == spec.USB {
			at.Accepted += ", by a rule of udev say"
		}
		e.problems.Add(at)
	}
}
