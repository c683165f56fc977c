package conformance

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// netCases are network devices that need no interface: vmm/src/config.rs,
// net_util/src/mac.rs, vmm/src/api/http/http_endpoint.rs.
func netCases() []scenario {
	end := put("vmm.shutdown", 200, "")
	add := func(body string, status int, says string) request {
		return request{"PUT", "vm.add-net", body, status, says}
	}
	bad := func(words string) string { return `^\["Failed to deserialize JSON","` + words + `"\]$` }
	refused := func(words string) string {
		return `^\["Error from API","The network device could not be added to the VM",` + words + `\]$`
	}
	invalid := func(words string) string { return refused(`"Failed to validate config","` + words + `"`) }
	return []scenario{
		{name: "net: bodies", requests: []request{
			add(`{}`, 404, refused(`"VM is not created"`)), add("", 400, badly),
			add(`{"mac":"zz"}`, 400, bad("The provided MAC address is invalid: parsing of zz into a MAC address failed at line 1 column 12")),
			add(`{"mac":5}`, 400, bad("invalid type: integer `5`, expected a string at line 1 column 8")),
			add(`{"ip":"x"}`, 400, bad("invalid IP address syntax at line 1 column 9")),
			refusedCreate(`{"net":[{"mac":"02:00:00:00:00:0"}]}`, bad("The provided MAC address is invalid: parsing of 02:00:00:00:00:0 into a MAC address failed at line 1 column 34")),
			end,
		}, events: "vmm:shutdown"},
		{name: "net: what is refused when it is added", requests: []request{
			create(boots()), add(`{"num_queues":1}`, 500, invalid(`Number of queues \(1\) to virtio_net should be higher than 2`)),
			add(`{"num_queues":4}`, 500, invalid(`Queue count \(4\) must not exceed boot vCPUs \(1\)`)),
			add(`{"queue_size":100}`, 500, invalid("Queue size must be a power of 2 no greater than 32768: 100")),
			add(`{"mtu":1200}`, 500, invalid(`Provided MTU 1200 is lower than 1280 \(expected by VIRTIO specification\)`)),
			add(`{"offload_csum":false}`, 500, invalid(`\\"offload_tso\\" and \\"offload_ufo\\" depend on \\"offload_csum\\"`)),
			add(`{"ip":"192.0.2.1"}`, 500, invalid("IP provided without a mask")), add(`{"mask":"255.255.255.0"}`, 500, invalid("Mask provided without an IP")),
			add(`{"vhost_user":true}`, 500, invalid("Using vhost-user requires using shared memory or huge pages")),
			add(`{"id":"__x"}`, 500, invalid("Identifier __x is not invalid")), add(`{"id":"n","mac":"02:00:00:00:00:01"}`, 204, ""), add(`{"id":"n"}`, 500, invalid("Identifier n is not unique")),
			get("vm.info", 200, `"net":\[\{"id":"n","pci_segment":0,"mac":"02:00:00:00:00:01","num_queues":2,"queue_size":256,"vhost_user":false,"vhost_mode":"Client",`+
				`"offload_tso":true,"offload_ufo":true,"offload_csum":true\}\]`), end,
		}, events: "vm:deleted vmm:shutdown"},
	}
}

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
		tun.Close()
	}
}

// openTap makes an interface, which goes when the file is closed.
func openTap(t *testing.T, name string, flags uint16) *os.File {
	t.Helper()
	tap := must(os.OpenFile("/dev/net/tun", os.O_RDWR, 0))(t)
	t.Cleanup(func() { tap.Close() })
	request := must(unix.NewIfreq(name))(t)
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
	if err := unix.IoctlIfreq(int(tap.Fd()), unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	return tap
}

// interfaceGone tells whether nobody holds the interface any more. It is asked in
// the namespace of the thread.
func interfaceGone(t *testing.T, name string) bool {
	t.Helper()
	socket := must(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
	defer unix.Close(socket)
	request := must(unix.NewIfreq(name))(t)
	return errors.Is(unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, request), unix.ENODEV)
}

// askWith sends a request with descriptors.
func (r *process) askWith(method, path, body string, files ...*os.File) reply {
	r.t.Helper()
	conn := must(net.DialUnix("unix", nil, &net.UnixAddr{Name: r.socket, Net: "unix"}))(r.t)
	defer conn.Close()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	text := method + " /api/v1/" + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + itoa(len(body)) + "\r\n\r\n" + body
	if _, _, err := conn.WriteMsgUnix([]byte(text), unix.UnixRights(fds...), nil); err != nil {
		r.t.Fatal(err)
	}
	return receive(conn)
}

func (r *process) says(got reply, status int, words string) {
	r.t.Helper()
	if got.status != status || !matches(words, got.body) {
		r.t.Errorf("%d %s, want %d %s\nstderr %s", got.status, got.body, status, words, r.stderr)
	}
}

// TestTaps: descriptors come over the socket, outlive reboots and shutdowns of the
// VM, and are gone when it is deleted. Those of a request that is refused stay open
// until the end of the process.
func TestTaps(t *testing.T) {
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			inNamespace(t)
			r := start(t, p)
			writeKernel(t, r.dir, codeLoop, true)
			tap := openTap(t, "tap0", 0)
			r.says(r.ask("PUT", "vm.create", []byte(boots())), 204, "")
			lost := openTap(t, "lost", 0)
			r.says(r.askWith("PUT", "vm.add-net", `{"mac":"02:00:00:00:00:01","num_queues":4}`, lost), 500, `"Number of queues \(4\) to virtio_net does not match the number of FDs \(2\)"\]$`)
			r.says(r.askWith("PUT", "vm.add-net", `{"mac":"02:00:00:00:00:01","fds":[99]}`, tap), 204, "")
			tap.Close()
			if interfaceGone(t, "tap0") {
				t.Error("the descriptor was not kept")
			}
			for _, name := range []string{"vm.boot", "vm.reboot", "vm.shutdown", "vm.boot"} {
				r.says(r.ask("PUT", name, nil), 204, "")
			}
			r.says(r.ask("GET", "vm.info", nil), 200, `"net":\[\{"id":"_net0","pci_segment":0,"mac":"02:00:00:00:00:01","num_queues":2,"queue_size":256,"vhost_user":false,"vhost_mode":"Client","fds":\[\d+\],"offload_tso"`)
			second := openTap(t, "tap1", 0)
			r.says(r.askWith("PUT", "vm.add-net", `{"mac":"02:00:00:00:00:02"}`, second), 200, `^\{"id":"_net1","bdf":"0000:00:03.0"\}$`)
			r.says(r.askWith("PUT", "vm.add-net", `{"id":"_net0"}`, lost), 500, `"Identifier _net0 is not unique"\]$`)
			second.Close()
			lost.Close()
			r.says(r.ask("PUT", "vm.delete", nil), 204, "")
			r.await("the interfaces to go", func() bool { return interfaceGone(t, "tap0") && interfaceGone(t, "tap1") })
			if interfaceGone(t, "lost") {
				t.Error("the descriptor of a request that was refused is closed")
			}
			r.says(r.ask("PUT", "vmm.shutdown", nil), 200, "")
			r.exit()
			if !interfaceGone(t, "lost") {
				t.Error("a descriptor outlives the process")
			}
		})
	}
}

// TestTapsOfSeveralQueues: one descriptor a pair of queues.
func TestTapsOfSeveralQueues(t *testing.T) {
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			inNamespace(t)
			r := start(t, p)
			writeKernel(t, r.dir, codeLoop, true)
			r.says(r.ask("PUT", "vm.create", []byte(boots(`"cpus":{"boot_vcpus":2,"max_vcpus":2,"core_scheduling":"Off"}`))), 204, "")
			r.says(r.askWith("PUT", "vm.add-net", `{"num_queues":4,"mtu":1400}`, openTap(t, "tap0", unix.IFF_MULTI_QUEUE), openTap(t, "tap0", unix.IFF_MULTI_QUEUE)), 204, "")
			r.says(r.ask("PUT", "vm.boot", nil), 204, "")
			r.says(r.ask("GET", "vm.info", nil), 200, `"mtu":1400,"num_queues":4,.*"fds":\[\d+,\d+\]`)
			socket := must(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
			defer unix.Close(socket)
			request := must(unix.NewIfreq("tap0"))(t)
			if err := unix.IoctlIfreq(socket, unix.SIOCGIFMTU, request); err != nil || request.Uint32() != 1400 {
				t.Errorf("MTU %d, %v", request.Uint32(), err)
			}
			r.says(r.ask("PUT", "vmm.shutdown", nil), 200, "")
			r.exit()
		})
	}
}

// TestWrongTaps: what is no tap is found when the VM boots, and the configuration
// has no network device from then on. A device without a descriptor gets an
// interface that nobody asked for. A MTU is set by name, so that a namespace other
// than the process's is none where it could be.
func TestWrongTaps(t *testing.T) {
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			inNamespace(t)
			r := start(t, p)
			writeKernel(t, r.dir, codeLoop, true)
			wrong, other := pipe(t)
			defer other.Close()
			r.says(r.ask("PUT", "vm.create", []byte(boots())), 204, "")
			r.says(r.askWith("PUT", "vm.add-net", `{}`, wrong), 204, "")
			r.says(r.ask("PUT", "vm.boot", nil), 500, `"Error from device manager","Cannot create virtio-net device","Using existing tap","Ioctl failed \(2147767506\)","Inappropriate ioctl for device \(os error 25\)"\]$`)
			if got := r.ask("GET", "vm.info", nil); strings.Contains(got.body, `"net"`) {
				t.Error(got.body)
			}
			elsewhere := openTap(t, "tap0", 0)
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
			s := start(t, p)
			writeKernel(t, s.dir, codeLoop, true)
			s.says(s.ask("PUT", "vm.create", []byte(boots())), 204, "")
			s.says(s.askWith("PUT", "vm.add-net", `{"mtu":1400}`, elsewhere), 204, "")
			s.says(s.ask("PUT", "vm.boot", nil), 500, `"Using existing tap","Ioctl failed \(35106\)","No such device \(os error 19\)"\]$`)
			s.says(s.askWith("PUT", "vm.add-net", `{}`, elsewhere), 204, "")
			s.says(s.ask("PUT", "vm.boot", nil), 204, "")
			for _, one := range []*process{r, s} {
				one.says(one.ask("PUT", "vmm.shutdown", nil), 200, "")
				one.exit()
			}
		})
	}
}

// TestTapsByName: an interface that is not there is made; one that is in use, or has
// other queues, is not taken.
func TestTapsByName(t *testing.T) {
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			inNamespace(t)
			for _, c := range []struct{ body, words string }{
				{`{"tap":"tapx"}`, ""},
				{`{}`, ""},
				{`{"tap":"tapnewtapnewtapnew"}`, `"Open tap device failed","Interface name too long \(max length is 15\): tapnewtapnewtapnew"\]$`},
				{`{"tap":"busy"}`, `"Failed to open taps","Open tap device failed","Unable to configure tap interface","Device or resource busy \(os error 16\)"\]$`},
				{`{"tap":"several"}`, `"Cannot create virtio-net device","Failed to open taps","Open tap device failed","Unable to configure tap interface","Invalid argument \(os error 22\)"\]$`},
			} {
				busy, several := openTap(t, "busy", 0), openTap(t, "several", unix.IFF_MULTI_QUEUE)
				r := start(t, p)
				writeKernel(t, r.dir, codeLoop, true)
				r.says(r.ask("PUT", "vm.create", []byte(boots())), 204, "")
				r.says(r.ask("PUT", "vm.add-net", []byte(c.body)), 204, "")
				if status := 500; c.words == "" {
					r.says(r.ask("PUT", "vm.boot", nil), 204, "")
				} else {
					r.says(r.ask("PUT", "vm.boot", nil), status, c.words)
				}
				r.says(r.ask("PUT", "vmm.shutdown", nil), 200, "")
				r.exit()
				busy.Close()
				several.Close()
			}
		})
	}
}
