package run

import (
	"fmt"
	"os"
)

// netFiles are the descriptors of one interface of the guest: one for each pair of
// its queues, and as many of vhost, or none.
type netFiles struct{ taps, vhost []*os.File }

// openNetworks takes the interfaces that the hypervisor inherits, or is sent.
func (g *guest) openNetworks(e *links) error {
	vm := &g.Plan.VM
	e.theirs.networks = map[string]netFiles{}
	for i, n := range vm.Networks {
		if !n.ByDescriptor() {
			continue
		}
		files := netFiles{taps: g.named(vm.TapName(i)), vhost: g.named(vm.VHostName(i))}
		e.theirs.networks[n.From] = files
		at := fmt.Sprintf("%s: Network=: the interface %s", g.Plan.Origin(n.From), n.Name)
		switch vhost := len(files.vhost); {
		case len(files.taps) != n.Queues:
			return fmt.Errorf("%s has come with %d descriptors, and has %d pairs of queues", at, len(files.taps), n.Queues)
		case vhost != 0 && vhost != n.Queues || vhost == 0 && n.VHost == "yes" || vhost != 0 && n.VHost == "no":
			return fmt.Errorf("%s has come with %d descriptors of vhost", at, vhost)
		}
	}
	return nil
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
