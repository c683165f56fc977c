package preflight

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// Interfaces are what a host has of them; netdev.Links is one.
type Interfaces interface {
	Find(name string) (netdev.Interface, bool, error)
	All() ([]netdev.Interface, error)
}

// aliasHead stands before the name of the VM whose an interface is.
const aliasHead = "ampoule "

// Alias is the text by which an interface is known for a VM's.
func Alias(vm string) string { return aliasHead + vm }

// Networks judges the interfaces that are made for a plan by those that the host has. One of the name that is to be made may be there if it is this VM's own: it
// runs, or was killed.
func Networks(p *plan.Plan, host Interfaces) diag.List {
	j := networkJudge{p: p, host: host}
	for i := range p.VM.Networks {
		n := &p.VM.Networks[i]
		if !n.Made() {
			continue
		}
		j.name(n)
		switch {
		case n.Kind == plan.MacVTap:
			j.link(n)
		case n.Bridge != "":
			j.bridge(n)
		}
	}
	return j.problems
}

type networkJudge struct {
	p        *plan.Plan
	host     Interfaces
	problems diag.List
}

func (j *networkJudge) errorf(n *plan.Network, accepted, format string, args ...any) {
	j.problems.Add(NetworkProblem(j.p, n, accepted, fmt.Sprintf(format, args...)))
}

// NetworkProblem is one of the line of a network.
func NetworkProblem(p *plan.Plan, n *plan.Network, accepted, what string) diag.Problem {
	return diag.Problem{Origin: p.Origin(n.From), Key: plan.KeyOf(n.From), Value: shown(n), What: what, Accepted: accepted}
}

// InterfaceCure says what to do about an error of the kernel's; empty: nobody knows.
func InterfaceCure(err error) string {
	var at *os.PathError
	switch {
	case errors.Is(err, netdev.ErrQueues):
		return "accepted: fewer queues="
	case errors.As(err, &at) && at.Path == netdev.TunDevice && errors.Is(err, os.ErrNotExist):
		return "modprobe tun; in a container, let it have the device"
	case errors.As(err, &at) && at.Path == netdev.TunDevice && errors.Is(err, os.ErrPermission):
		return "a unit with a DeviceAllow= of its own has to allow " + netdev.TunDevice + " too; and where root does not open it, everybody may (mode 0666)"
	}
	return ""
}

// NoVHost says what is wrong, and what helps, where vhost=yes and the host does not
// have it.
func NoVHost(err error) (what, accepted string) {
	return "vhost=yes: " + err.Error(), "modprobe vhost_net, or vhost=auto or no"
}

// shown is the beginning of the line.
func shown(n *plan.Network) string {
	switch {
	case n.External && n.Kind == plan.MacVTap:
		return "macvtap:" + n.Link + ",name=" + n.Name
	case n.External:
		return "tap:name=" + n.Name
	case n.Kind == plan.MacVTap:
		return "macvtap:" + n.Link
	case n.Bridge != "":
		return "bridge:" + n.Bridge
	}
	return n.Kind
}

// find looks for an interface; false also where nobody could say.
func (j *networkJudge) find(n *plan.Network, name string) (netdev.Interface, bool, bool) {
	i, found, err := j.host.Find(name)
	if err != nil {
		j.errorf(n, "", "%v", err)
	}
	return i, found, err == nil
}

// name refuses one that is taken.
func (j *networkJudge) name(n *plan.Network) {
	i, found, ok := j.find(n, n.Name)
	if !ok || !found || Ours(i, j.p.VM.Name) {
		return
	}
	accepted := "accepted: another name="
	if vm, of := strings.CutPrefix(i.Alias, aliasHead); of {
		j.errorf(n, accepted, "the interface %s is that of the VM %s", n.Name, vm)
		return
	}
	j.errorf(n, accepted, "the interface %s is there already, %s", n.Name, what(i))
}

// Ours reports whether an interface was made for a VM.
func Ours(i netdev.Interface, vm string) bool {
	whose, ok := Whose(i)
	return ok && whose == vm
}

// Whose is the VM for which an interface was made; false: for none.
func Whose(i netdev.Interface) (vm string, ok bool) {
	vm, ok = strings.CutPrefix(i.Alias, aliasHead)
	return vm, ok && (i.Kind == netdev.TapKind || i.Kind == netdev.MacVTapKind)
}

// what an interface is, in words.
func what(i netdev.Interface) string {
	switch i.Kind {
	case "device":
		return "a device of the host"
	case netdev.TapKind:
		return "a tun or tap of somebody else's"
	}
	return "a " + i.Kind
}

func (j *networkJudge) bridge(n *plan.Network) {
	b, found, ok := j.find(n, n.Bridge)
	switch {
	case !ok:
	case !found:
		j.errorf(n, "make it first, by systemd-networkd, NetworkManager or an ExecStartPre=+ in [Service]", "there is no interface %s", n.Bridge)
	case b.Kind != netdev.BridgeKind:
		j.errorf(n, "accepted: a bridge; or macvtap:"+n.Bridge, "the interface %s is no bridge but %s", n.Bridge, what(b))
	}
}

func (j *networkJudge) link(n *plan.Network) {
	link, found, ok := j.find(n, n.Link)
	switch {
	case !ok:
		return
	case !found:
		j.errorf(n, "accepted: an interface of this host", "there is no interface %s", n.Link)
		return
	case !link.Up:
		j.errorf(n, "switch it on first", "the interface %s is switched off", n.Link)
	case n.MTU > link.MTU:
		j.errorf(n, fmt.Sprintf("accepted: mtu= of at most %d, or more at the interface itself", link.MTU), "an MTU of %d, and %s has %d", n.MTU, n.Link, link.MTU)
	}
	all, err := j.host.All()
	if err != nil {
		j.errorf(n, "", "%v", err)
		return
	}
	// One that has an interface to itself bears no other beside it.
	at := slices.IndexFunc(all, func(i netdev.Interface) bool {
		return i.Parent == link.Index && i.Mode != "" && !Ours(i, j.p.VM.Name) && (i.Mode == "passthru" || n.Mode == "passthru")
	})
	if at < 0 {
		return
	}
	whose := all[at].Name
	if vm, of := strings.CutPrefix(all[at].Alias, aliasHead); of {
		whose += " of the VM " + vm
	}
	j.errorf(n, "accepted: another interface, or mode=bridge for both", "mode=passthru takes %s for one alone, and it has %s (mode=%s)", n.Link, whose, all[at].Mode)
}
