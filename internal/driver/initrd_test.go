package driver

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

func TestInitrdChannel(t *testing.T) {
	initrd := spec.Setting[string]{Value: "/i", Set: true}
	for _, tt := range []struct {
		words   string
		initrd  bool
		init    string
		refused string
	}{
		{words: "", initrd: true},
		{words: "root=UUID=1", initrd: true},
		{words: "rdinit=/a rdinit=/b quiet", initrd: true, init: "/b"},
		{words: "-- rdinit=/b", initrd: true},
		{words: "rdinit=b", initrd: true, init: "b", refused: "not an absolute path"},
		{words: "retain_initrd", initrd: true, refused: "has retain_initrd"},
		{words: "quiet", refused: "no Initrd="},
		{words: "root=/dev/vda ro"},
		{words: "root=PARTUUID=1-1"},
		{words: "root=fs rootfstype=virtiofs"},
		{words: "retain-initrd", initrd: true, refused: "has retain_initrd"},
		{words: "root=LABEL=x", refused: "only an initrd can find a file system by its LABEL="},
		{words: "root=/dev/nfs", refused: "roots on the network"},
		{words: "root=PARTUUID=", refused: "cannot be mounted without one"},
		{words: "root=/dev/", refused: "no device has such a name"},
		{words: "root=ZFS=tank", refused: "is no device"},
		{words: "root=/dev/disk/by-label/x", refused: "nobody makes the links"},
	} {
		vm := &spec.VM{}
		for w := range strings.FieldsSeq(tt.words) {
			vm.KernelCommandLine = append(vm.KernelCommandLine, spec.Word{Text: w})
		}
		if tt.initrd {
			vm.Initrd = initrd
		}
		c := InitrdChannel(vm)
		if c.Encoding != plan.CPIO || c.Init != tt.init || (len(c.Replaces) > 0) != (tt.init != "") {
			t.Errorf("%q: %+v", tt.words, c)
		}
		if (c.Refused != "") != (tt.refused != "") || !strings.Contains(c.Refused, tt.refused) || (c.Refused == "") != (c.Cure == "") {
			t.Errorf("%q: refused %q, cure %q, want %q", tt.words, c.Refused, c.Cure, tt.refused)
		}
	}
}
