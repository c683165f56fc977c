package conformance

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace runs a test in a network namespace of its own. The thread keeps it,
// and is not used again.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("a network namespace: %v", err)
	}
	if tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skipf("taps: %v", err)
	} else {
		_ = tun.Close()
	}
}

// openTap makes an interface. One that is kept stays when the file is closed, until
// the namespace goes.
func openTap(t *testing.T, name string, flags uint16, kept bool) *os.File {
	t.Helper()
	tap, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tap.Close() })
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
	if err := unix.IoctlIfreq(int(tap.Fd()), unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	if kept {
		if err := unix.IoctlSetInt(int(tap.Fd()), unix.TUNSETPERSIST, 1); err != nil {
			t.Fatal(err)
		}
	}
	return tap
}

// exists asks in the namespace of the thread.
func exists(t *testing.T, name string) bool {
	t.Helper()
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	return !errors.Is(unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, request), unix.ENODEV)
}

// TestTaps: a tap is opened when it is named, and not when the machine starts. One
// that is kept may be opened by one program at a time, and has to have one queue.
func TestTaps(t *testing.T) {
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			inNamespace(t)
			_ = openTap(t, "kept", 0, true).Close()
			_ = openTap(t, "queues", unix.IFF_MULTI_QUEUE, true).Close()
			openTap(t, "held", 0, false)
			put := func(id, rest string, status int, said string) step {
				return step{"PUT", "/network-interfaces/" + id, `{"iface_id":"` + id + `",` + rest + `}`, status, said}
			}
			const open = "Network config error: Could not create the network device: Open tap device failed: "
			busy := func(name string) string {
				return faultOf(open + `Error while creating ifreq structure: .*usy \(os error 16\)\. Invalid TUN/TAP Backend provided by ` + name + `\. Check our documentation on setting up the network devices\.`)
			}
			v := start(t, p.path(t))
			v.play(t, scenario{steps: []step{
				put("a", `"host_dev_name":"kept","guest_mac":"02:00:00:00:00:AA","mtu":1400`, 204, ""),
				put("b", `"host_dev_name":"kept"`, 400, busy("kept")),
				put("b", `"host_dev_name":"held"`, 400, busy("held")),
				put("b", `"host_dev_name":"queues"`, 400, open+`Error while creating ifreq structure: Invalid argument \(os error 22\)\. Invalid TUN/TAP Backend provided by queues\.`),
				put("b", `"host_dev_name":"new0","mtu":67`, 400, faultOf(`Network config error: Could not create the network device: MTU 67 is out of range \[68, 65535\]`)),
				put("b", `"host_dev_name":"new0","guest_mac":"02:00:00:00:00:aa"`, 400, faultOf("Network config error: The MAC address is already in use: 02:00:00:00:00:aa")),
				put("b", `"host_dev_name":"new0"`, 204, ""),
			}})
			if !exists(t, "new0") {
				t.Error("the interface is not made at once")
			}
			v.play(t, scenario{steps: []step{
				put("b", `"host_dev_name":"new1","guest_mac":"02:00:00:00:00:ab"`, 204, ""),
				boot(), launch(),
				put("c", `"host_dev_name":"new2"`, 400, faultOf("PCI is not enabled")),
				{"GET", "/vm/config", "", 200, `"network-interfaces":\[\{"iface_id":"a","host_dev_name":"kept","guest_mac":"02:00:00:00:00:aa","mtu":1400,"rx_rate_limiter":null,"tx_rate_limiter":null\},` +
					`\{"iface_id":"b","host_dev_name":"new1","guest_mac":"02:00:00:00:00:ab","mtu":null,"rx_rate_limiter":null,"tx_rate_limiter":null\}\]`},
			}})
			if exists(t, "new0") || !exists(t, "new1") {
				t.Error("the second of a name does not take the place of the first")
			}
			v.alive(t)
			_ = v.cmd.Process.Kill()
			<-v.exited
			if exists(t, "new1") || !exists(t, "kept") {
				t.Error("an interface outlives the program, or one that is kept does not")
			}
		})
	}
}
