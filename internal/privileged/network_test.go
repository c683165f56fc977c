package privileged

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/testkit/ownnet"
)

func TestMain(m *testing.M) { os.Exit(ownnet.Main(m)) }

// ip carries out a command of iproute2's and undoes it after the test.
func ip(t *testing.T, do, undo string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(do)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", do, err, out)
	}
	if undo != "" {
		t.Cleanup(func() { _ = exec.Command("ip", strings.Fields(undo)...).Run() })
	}
}

// interfaces are those there are, without the loopback device.
func interfaces(t *testing.T) []string {
	t.Helper()
	var out []string
	err := netdev.In("", func(l *netdev.Links) error {
		all, err := l.All()
		for _, i := range all {
			if i.Name != "lo" {
				out = append(out, i.Name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// awaitInterfaces waits for the kernel, which removes some a moment later.
func awaitInterfaces(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got := interfaces(t)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are the interfaces %q, want %q", got, want)
		}
	}
}

func close(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func namesOfFiles(files []*os.File) []string {
	var out []string
	for _, f := range files {
		out = append(out, f.Name())
	}
	return out
}

func networkRequest(t *testing.T, vm string, lines ...string) Request {
	t.Helper()
	p := planNamed(t, vm, append([]string{"Kernel=/one"}, lines...)...)
	return Request{Plan: p, User: 12345, Owner: "first", Dir: filepath.Join(t.TempDir(), "privileged")}
}

func TestNetworks(t *testing.T) {
	ownnet.Need(t)
	ip(t, "link add br0 type bridge", "link del br0")
	ip(t, "link add up0 type veth peer name up1", "link del up0")
	ip(t, "link set up0 up", "")
	ip(t, "link set up1 up", "")
	there := []string{"br0", "up0", "up1"}
	r := networkRequest(t, "web", "Network=user", "Network=bridge:br0,queues=2", "Network=macvtap:up0")
	files, problems := Prepare(t.Context(), r)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	got := slices.DeleteFunc(namesOfFiles(files), func(name string) bool { return name == "ampoule.vhost1" })
	if want := []string{"ampoule.net1", "ampoule.net1", "ampoule.net2"}; !slices.Equal(got, want) {
		t.Errorf("it hands over %q, want %q", got, want)
	}
	awaitInterfaces(t, append(there, "vm1-web", "vm2-web")...)

	// It was killed, and starts again: nobody has closed the files yet.
	r.Owner = "second"
	again, problems := Prepare(t.Context(), r)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	close(files)
	awaitInterfaces(t, append(there, "vm1-web", "vm2-web")...)

	// Another VM may have neither the names nor, to itself, the link.
	other := networkRequest(t, "db",
		"Network=tap:name=vm1-web", "Network=tap:name=up1", "Network=bridge:absent", "Network=bridge:up1",
		"Network=macvtap:absent", "Network=macvtap:up0,mode=passthru", "Network=macvtap:up0,mtu=9000", "Network=macvtap:br0")
	_, problems = Prepare(t.Context(), other)
	text := problems.Error()
	for _, want := range []string{
		": Network=tap: the interface vm1-web is that of the VM web; accepted: another name=",
		": Network=tap: the interface up1 is there already, a veth; accepted: another name=",
		": Network=bridge:absent: there is no interface absent; make it first",
		": Network=bridge:up1: the interface up1 is no bridge but a veth; accepted: a bridge; or macvtap:up1",
		": Network=macvtap:absent: there is no interface absent; accepted: an interface of this host",
		": Network=macvtap:up0: mode=passthru takes up0 for one alone, and it has vm2-web of the VM web (mode=bridge); accepted: another interface, or mode=bridge for both",
		": Network=macvtap:up0: an MTU of 9000, and up0 has 1500; accepted: mtu= of at most 1500, or more at the interface itself",
		": Network=macvtap:br0: the interface br0 is switched off; switch it on first",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if n := strings.Count(text, "\n") + 1; n != 8 {
		t.Errorf("it says %d things:\n%s", n, text)
	}
	awaitInterfaces(t, append(there, "vm1-web", "vm2-web")...)

	// The end: what is handed over goes with its files, the rest is removed.
	close(again)
	awaitInterfaces(t, append(there, "vm2-web")...)
	if _, err := Release(r); err != nil {
		t.Fatal(err)
	}
	awaitInterfaces(t, there...)
}

// TestNetworksFail: where the second cannot be made, the first is not there.
func TestNetworksFail(t *testing.T) {
	ownnet.Need(t)
	if _, err := os.Stat(netdev.VHostDevice); !errors.Is(err, os.ErrNotExist) {
		t.Skip("there is a " + netdev.VHostDevice)
	}
	r := networkRequest(t, "web", "Network=tap", "Network=tap:vhost=yes")
	_, problems := Prepare(t.Context(), r)
	if text := problems.Error(); !strings.HasSuffix(text, "web.microvm:4: Network=tap: vhost=yes: open /dev/vhost-net: no such file or directory; modprobe vhost_net, or vhost=auto or no") {
		t.Error(text)
	}
	awaitInterfaces(t)
	if _, err := os.Stat(r.memory()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestByName: a tap for a hypervisor that takes no descriptors is its user's, stays
// until the VM has ended, and is made anew where one was left.
func TestByName(t *testing.T) {
	ownnet.Need(t)
	r := networkRequest(t, "web", "Hypervisor=firecracker", "Network=tap:name=tap7")
	for _, owner := range []string{"first", "second"} {
		r.Owner = owner
		files, problems := Prepare(t.Context(), r)
		if len(problems) > 0 || len(files) > 0 {
			t.Fatal(problems, files)
		}
		awaitInterfaces(t, "tap7")
		if text, err := os.ReadFile("/sys/class/net/tap7/owner"); err != nil || string(text) != "12345\n" {
			t.Errorf("its owner is %s (%v)", text, err)
		}
	}
	if _, err := Release(r); err != nil {
		t.Fatal(err)
	}
	awaitInterfaces(t)

	// What was put in its place meanwhile is not ours to remove.
	if _, problems := Prepare(t.Context(), r); len(problems) > 0 {
		t.Fatal(problems)
	}
	ip(t, "link del tap7", "")
	ip(t, "link add tap7 type bridge", "link del tap7")
	if _, err := Release(r); err != nil {
		t.Fatal(err)
	}
	awaitInterfaces(t, "tap7")
}

// TestExternal: what somebody else prepares root leaves as it is, beside what it makes.
func TestExternal(t *testing.T) {
	ownnet.Need(t)
	ip(t, "tuntap add name lan0 mode tap user 12345", "link del lan0")
	before, err := os.ReadFile("/sys/class/net/lan0/ifindex")
	if err != nil {
		t.Fatal(err)
	}
	r := networkRequest(t, "web", "Network=tap:name=lan0,external", "Network=tap:vhost=no", "Device=pci:0000:01:00.0,external", "Share=/srv:a:socket=/run/absent")
	files, problems := Prepare(t.Context(), r)
	if len(problems) > 0 || !slices.Equal(namesOfFiles(files), []string{"ampoule.net1"}) {
		t.Fatal(problems, namesOfFiles(files))
	}
	awaitInterfaces(t, "lan0", "vm1-web")
	close(files)
	if _, err := Release(r); err != nil {
		t.Fatal(err)
	}
	awaitInterfaces(t, "lan0")
	if after, err := os.ReadFile("/sys/class/net/lan0/ifindex"); err != nil || string(after) != string(before) {
		t.Errorf("it was number %s, and is %s (%v)", before, after, err)
	}
}
