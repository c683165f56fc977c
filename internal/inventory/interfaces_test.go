package inventory

import (
	"reflect"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/netdev"
)

// TestInterfaces: each VM has those that were made for it, and no others.
func TestInterfaces(t *testing.T) {
	vms := map[string]*facts{"web": {name: "web"}, "db": {name: "db"}}
	found := interfacesOf([]netdev.Interface{
		{Index: 1, Name: "lo", Kind: "device"},
		{Index: 2, Name: "br0", Kind: netdev.BridgeKind, Alias: "ampoule web"},
		{Index: 3, Name: "up0", Kind: "device"},
		{Index: 7, Name: "vm1-web", Kind: netdev.MacVTapKind, Alias: "ampoule web", Parent: 3, Up: true},
		{Index: 5, Name: "vm0-web", Kind: netdev.TapKind, Alias: "ampoule web", Master: 2, Up: true},
		{Index: 6, Name: "mine", Kind: netdev.TapKind, Alias: "ampoule webb"},
		{Index: 8, Name: "other", Kind: netdev.TapKind},
	}, vms)
	want := map[string][]Interface{"web": {{"vm0-web", "tap", "br0", true}, {"vm1-web", "macvtap", "up0", true}}}
	if !reflect.DeepEqual(found, want) {
		t.Errorf("%+v, want %+v", found, want)
	}
	if got := of(found, "db"); got == nil || len(got) != 0 {
		t.Errorf("of a VM without any: %+v", got)
	}
	if got := of(nil, "web"); got != nil {
		t.Errorf("where they are not known: %+v", got)
	}
}
