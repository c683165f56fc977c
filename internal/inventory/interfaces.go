package inventory

import (
	"cmp"
	"slices"

	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/preflight"
)

// Interface is one of this host's that was made for a VM, with the guest at its other
// end.
type Interface struct {
	Name string `json:"name"`
	// Kind is "tap" or "macvtap".
	Kind string `json:"kind"`
	// On is the bridge that a tap is attached to, or the interface below a macvtap;
	// empty: none, or one of another network namespace.
	On string `json:"on"`
	// Up: it was switched on.
	Up bool `json:"up"`
}

// interfaces are those of the VMs that have some, in our own network namespace; nil
// where the kernel cannot be asked for them.
func interfaces(root string, vms map[string]*facts) map[string][]Interface {
	if root != "" {
		return nil
	}
	var all []netdev.Interface
	err := netdev.In("", func(l *netdev.Links) (err error) {
		all, err = l.All()
		return err
	})
	if err != nil {
		return nil
	}
	return interfacesOf(all, vms)
}

// interfacesOf sorts the interfaces of a host by the VMs that they were made for.
func interfacesOf(all []netdev.Interface, vms map[string]*facts) map[string][]Interface {
	names := map[int]string{}
	for _, i := range all {
		names[i.Index] = i.Name
	}
	out := map[string][]Interface{}
	for _, i := range all {
		vm, ok := preflight.Whose(i)
		if !ok || vms[vm] == nil {
			continue
		}
		in := Interface{Name: i.Name, Kind: "tap", Up: i.Up}
		if i.Master != 0 {
			in.On = names[i.Master]
		}
		if i.Kind == netdev.MacVTapKind {
			in.Kind, in.On = "macvtap", names[i.Parent]
		}
		out[vm] = append(out[vm], in)
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b Interface) int { return cmp.Compare(a.Name, b.Name) })
	}
	return out
}

// of are the interfaces of one VM: none, or nil where that is not known.
func of(all map[string][]Interface, vm string) []Interface {
	if all == nil || all[vm] != nil {
		return all[vm]
	}
	return []Interface{}
}
