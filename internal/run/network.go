package run

import (
	"fmt"
	"os"
	"slices"

	"github.com/ampoule-vm/ampoule/internal/plan"
)

// netFiles are the descriptors of one interface of the guest: one for each pair of
// its queues, and as many of vhost, or none.
type netFiles struct{ taps, vhost []*os.File }

// openNetworks takes the interfaces that the hypervisor inherits, or is sent.
func (g *guest) openNetworks(e *links) error {
	var wanted []plan.Network
	for _, n := range g.Plan.VM.Networks {
		if n.ByDescriptor() {
			wanted = append(wanted, n)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	var err error
	if e.theirs.networks, err = g.interfaces(wanted); err != nil {
		return err
	}
	for _, n := range wanted {
		at := fmt.Sprintf("%s: Network=: the interface %s", g.Plan.Origin(n.From), n.Name)
		files := e.theirs.networks[n.From]
		switch vhost := len(files.vhost); {
		case len(files.taps) != n.Queues:
			return fmt.Errorf("%s has come with %d descriptors, and has %d pairs of queues", at, len(files.taps), n.Queues)
		case vhost != 0 && vhost != n.Queues || vhost == 0 && n.VHost == "yes" || vhost != 0 && n.VHost == "no":
			return fmt.Errorf("%s has come with %d descriptors of vhost", at, vhost)
		}
	}
	return nil
}

// interfaces are the descriptors of these networks, by the lines that ask for them.
func (r *runner) interfaces(wanted []plan.Network) (map[string]netFiles, error) {
	out := map[string]netFiles{}
	vm := &r.Plan.VM
	for i := range vm.Networks {
		from := vm.Networks[i].From
		if slices.ContainsFunc(wanted, func(n plan.Network) bool { return n.From == from }) {
			out[from] = netFiles{taps: r.named(vm.TapName(i)), vhost: r.named(vm.VHostName(i))}
		}
	}
	return out, nil
}

// handedOver gives up our copies of the interfaces: the kernel removes one when
// nobody holds it any more.
func (e *links) handedOver() {
	for _, n := range e.theirs.networks {
		for _, f := range append(n.taps, n.vhost...) {
			f.Close()
		}
	}
	e.theirs.networks = nil
}
