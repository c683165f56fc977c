package conformance

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
)

// What is in this file needs a guest with drivers, which the real program has no
// place for here: ACPI for the power button, virtio for vsock, a kernel that panics.
// What the hypervisor does about it is in vmm/src/lib.rs (control_loop, vm_reboot,
// vmm_shutdown), devices/src/acpi.rs, devices/src/pvpanic.rs and
// virtio-devices/src/vsock/csm/connection.rs of v53.0.

// standIn starts the stand-in and boots a VM with a command line.
func standIn(t *testing.T, o fake.Options, cmdline string, changes ...string) *process {
	t.Helper()
	r := start(t, program{name: "stand-in", path: fake.InstallWith(t, o)})
	writeKernel(t, r.dir, codeLoop, true)
	line := must(json.Marshal(cmdline))(t)
	changes = append([]string{`"serial":{"mode":"Tty"}`, `"payload":{"kernel":"kernel","cmdline":` + string(line) + `}`}, changes...)
	if got := r.ask("PUT", "vm.create", []byte(boots(changes...))); got.status != 204 {
		t.Fatalf("%d %s\n%s", got.status, got.body, r.stderr)
	}
	if got := r.ask("PUT", "vm.boot", nil); got.status != 204 {
		t.Fatalf("%d %s\n%s", got.status, got.body, r.stderr)
	}
	return r
}

// TestGuest: how guests end, and what is heard of it.
func TestGuest(t *testing.T) {
	const rebooted = "vm:booting vm:booted vm:rebooting vm:rebooted vm:shutdown vm:deleted vmm:shutdown"
	cases := map[string]struct {
		cmdline, change string
		code            int
		console         string // all that it says, without the kernel's first lines
		events          string
	}{
		"poweroff":                {"fake.guest=say:a%20b,wait:10ms,poweroff", "", 0, "a b|reboot: Power down", wholeLife},
		"sections":                {"fake.guest=say:1,reboot;say:2,poweroff", "", 0, "1|reboot: Restarting system|2|reboot: Power down", rebooted},
		"triple fault":            {"fake.guest=triple-fault;poweroff", "", 0, "reboot: Power down", rebooted},
		"KVM gives up":            {"fake.guest=vcpu-error", "", 0, "", wholeLife},
		"panic with reboot":       {"panic=-1 fake.guest=panic:oh%20no;poweroff", `"pvpanic":true`, 0, "Kernel panic - not syncing: oh no|reboot: Power down", "vm:booting vm:booted guest:panic vm:rebooting vm:rebooted vm:shutdown vm:deleted vmm:shutdown"},
		"panic without a device":  {"panic=-1 fake.guest=panic:oh;poweroff", "", 0, "Kernel panic - not syncing: oh|reboot: Power down", rebooted},
		"crash":                   {"fake.guest=say:x,crash:3", "", 3, "x", "vm:booting vm:booted"},
		"signal":                  {"fake.guest=signal:11", "", -11, "", "vm:booting vm:booted"},
		"lost events":             {"fake.vmm=events:lose fake.guest=poweroff", "", 0, "reboot: Power down", "vm:booting vm:booted"},
		"misbehaves from then on": {"fake.guest=vmm:*:die:7,wait:1h", "", 7, "", ""},
	}
	for name, c := range cases {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			r := standIn(t, fake.Options{}, c.cmdline, strings.Fields(c.change)...)
			if c.code == 7 {
				r.await("the fault", func() bool { return r.ask("GET", "vmm.ping", nil).status == 0 })
			}
			if code := r.exit(); code != c.code {
				t.Errorf("exit code %d, want %d\n%s", code, c.code, r.stderr)
			}
			<-r.console.done
			<-r.events.done
			if got := r.spoken(); got != c.console {
				t.Errorf("console %q, want %q", got, c.console)
			}
			if got := strings.Join(r.names(), " "); c.events != "" && got != "vmm:starting "+c.events {
				// The guest may be faster than the answer to vm.boot.
				if got != "vmm:starting "+strings.Replace(c.events, "vm:booted guest:panic", "guest:panic vm:booted", 1) {
					t.Errorf("events %s, want vmm:starting %s", got, c.events)
				}
			}
			r.wantNoRace()
		})
	}
}

// spoken is what the guest has said, but for the first words of its kernel.
func (r *process) spoken() string {
	var lines []string
	for line := range strings.SplitSeq(r.console.String(), "\r\n") {
		if line != "" && !strings.HasPrefix(line, "[    0.000000] ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "|")
}

// TestPowerButton: a guest that listens powers off; one that does not, does not.
func TestPowerButton(t *testing.T) {
	r := standIn(t, fake.Options{}, "")
	r.await("the guest", func() bool { return strings.Contains(r.spoken(), "Welcome") })
	r.want(r.ask("PUT", "vm.power-button", nil), 204)
	if code := r.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	<-r.events.done
	r.wantEvents(program{}, "vmm:starting "+wholeLife)
	if !strings.HasSuffix(r.console.String(), "reboot: Power down\r\n") {
		t.Errorf("%s", r.console)
	}

	r = standIn(t, fake.Options{}, "fake.guest=ignore-power,say:deaf,wait:200ms,heed-power,say:open")
	r.await("the guest", func() bool { return strings.Contains(r.spoken(), "deaf") })
	r.want(r.ask("PUT", "vm.power-button", nil), 204)
	r.await("its ears", func() bool { return strings.Contains(r.spoken(), "open") })
	r.want(r.ask("PUT", "vm.power-button", nil), 204)
	r.exit()

	r = standIn(t, fake.Options{}, "fake.guest=halt")
	r.await("the halt", func() bool { return strings.Contains(r.spoken(), "reboot: System halted") })
	r.want(r.ask("PUT", "vm.power-button", nil), 204)
	r.want(r.ask("PUT", "vm.shutdown", nil), 204)
	r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
}

// TestPanicStays: without panic= the guest hangs, and the VM runs.
func TestPanicStays(t *testing.T) {
	r := standIn(t, fake.Options{}, "fake.guest=panic:oh", `"pvpanic":true`)
	r.await("the end", func() bool { return strings.Contains(r.spoken(), "---[ end Kernel panic - not syncing: oh ]---") })
	r.await("the event", func() bool {
		return strings.Contains(r.events.String(), "\"source\": \"guest\",\n  \"event\": \"panic\",\n  \"properties\": {\n    \"event\": \"panic\"\n  }\n}\n\n")
	})
	r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
}

// TestPause: a guest that is paused says nothing.
func TestPause(t *testing.T) {
	r := standIn(t, fake.Options{}, "fake.guest=say:1,wait:50ms,say:2")
	r.await("1", func() bool { return r.spoken() != "" })
	r.want(r.ask("PUT", "vm.pause", nil), 204)
	time.Sleep(100 * time.Millisecond)
	if got := r.spoken(); got != "1" {
		t.Errorf("%q", got)
	}
	r.want(r.ask("PUT", "vm.resume", nil), 204)
	r.await("2", func() bool { return r.spoken() == "1|2" })
}

// TestNotify: each message has a connection of its own, ends it on its side, and
// waits for the other side to do so.
func TestNotify(t *testing.T) {
	r := start(t, program{name: "stand-in", path: fake.Install(t)})
	writeKernel(t, r.dir, codeLoop, true)
	l := must(net.Listen("unix", r.dir+"/v_9999"))(t)
	defer l.Close()
	messages := make(chan string)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			data, err := io.ReadAll(conn)
			if err != nil {
				t.Error(err)
			}
			messages <- string(data)
			conn.Close()
		}
	}()
	body := boots(`"serial":{"mode":"Tty"}`, `"vsock":{"cid":3,"socket":"v"}`,
		`"payload":{"kernel":"kernel","cmdline":"fake.guest=notify:STATUS=a,notify:READY=1%0ASTATUS=b,say:done"}`,
		`"platform":{"oem_strings":["io.systemd.credential.binary:vmm.notify_socket=`+base64.StdEncoding.EncodeToString([]byte("vsock-stream:2:9999"))+`"]}`)
	r.want(r.ask("PUT", "vm.create", []byte(body)), 204)
	r.want(r.ask("PUT", "vm.boot", nil), 204)
	if got := <-messages; got != "STATUS=a" {
		t.Errorf("%q", got)
	}
	if strings.Contains(r.spoken(), "done") {
		t.Error("it does not wait")
	}
	if got := <-messages; got != "READY=1\nSTATUS=b" {
		t.Errorf("%q", got)
	}
	r.await("done", func() bool { return strings.Contains(r.spoken(), "done") })
	conn := must(net.Dial("unix", r.dir+"/v"))(t)
	if _, err := conn.Write([]byte("CONNECT 22\n")); err != nil {
		t.Error(err)
	}
	if data, err := io.ReadAll(conn); err != nil || len(data) > 0 {
		t.Errorf("a port nobody listens to: %q, %v", data, err)
	}
	r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
	r.exit()
	if _, err := os.Stat(r.dir + "/v"); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestNotifyNobody: without a listener the guest goes on.
func TestNotifyNobody(t *testing.T) {
	const credential = "systemd.set_credential=vmm.notify_socket:vsock-stream:2:1 "
	for want, r := range map[string]*process{
		"connection reset by peer":                 standIn(t, fake.Options{}, credential+"fake.guest=notify:READY=1", `"vsock":{"cid":3,"socket":"v"}`),
		"there is no vsock device":                 standIn(t, fake.Options{}, credential+"fake.guest=notify:READY=1"),
		"there is no credential vmm.notify_socket": standIn(t, fake.Options{}, "fake.guest=notify:READY=1", `"vsock":{"cid":3,"socket":"v"}`),
	} {
		r.await(want, func() bool { return r.spoken() == "notify: "+want })
	}
}

// TestDigests: what has arrived is told by its digest, from all three places, and
// read anew at a reboot.
func TestDigests(t *testing.T) {
	r := start(t, program{name: "stand-in", path: fake.Install(t)})
	writeKernel(t, r.dir, codeLoop, true)
	entry := func(name, mode, data string) string {
		head := fmt.Sprintf("070701%08x%s%08x%08x%08x%08x%08x", 1, mode, 0, 0, 1, 0, len(data)) + fmt.Sprintf("%08x%08x%08x%08x%08x%08x", 0, 0, 0, 0, len(name)+1, 0) + name + "\x00"
		head += strings.Repeat("\x00", (4-len(head)%4)%4)
		return head + data + strings.Repeat("\x00", (4-len(data)%4)%4)
	}
	archive := func(value string) []byte {
		return []byte(entry(".ampoule", "000041c0", "") + entry(".ampoule/credentials/c", "00008100", value) + entry("TRAILER!!!", "00000000", "") + "\x1f\x8bwhatever")
	}
	writeFile(t, r.dir, "initrd", archive("three"))
	body := boots(`"serial":{"mode":"Tty"}`,
		`"payload":{"kernel":"kernel","initramfs":"initrd","cmdline":"systemd.set_credential=k:four fake.guest=echo-secret-digest"}`,
		`"platform":{"oem_strings":["io.systemd.credential:a=one","x=y","io.systemd.credential.binary:b=`+base64.StdEncoding.EncodeToString([]byte("two"))+`"]}`)
	r.want(r.ask("PUT", "vm.create", []byte(body)), 204)
	r.want(r.ask("PUT", "vm.boot", nil), 204)
	line := func(where, name, value string) string {
		return fmt.Sprintf("credential %s %s %d %x", where, name, len(value), sha256.Sum256([]byte(value)))
	}
	first := strings.Join([]string{line("smbios", "a", "one"), line("smbios", "b", "two"), line("cmdline", "k", "four"), line("initrd", "c", "three"), "credentials end"}, "|")
	r.await("the digests", func() bool { return r.spoken() == first })
	writeFile(t, r.dir, "initrd", archive("another"))
	r.want(r.ask("PUT", "vm.reboot", nil), 204)
	r.await("the digests again", func() bool {
		return r.spoken() == first+"|"+strings.Replace(first, line("initrd", "c", "three"), line("initrd", "c", "another"), 1)
	})
	r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
}

// TestFaults: the hypervisor misbehaves as it is told.
func TestFaults(t *testing.T) {
	for faults, check := range map[string]func(*process){
		"vmm.ping:late:200ms": func(r *process) {
			before := time.Now()
			r.want(r.ask("GET", "vmm.ping", nil), 200)
			if took := time.Since(before); took < 200*time.Millisecond {
				r.t.Errorf("after %v", took)
			}
		},
		"vmm.ping:close": func(r *process) { r.wantSaid("GET", "vmm.ping", "") },
		"vmm.ping:garbage": func(r *process) {
			if got := r.talk("GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n"); got != "\x00\x01 no HTTP\r\n\r\n" {
				r.t.Errorf("%q", got)
			}
		},
		"vmm.ping:cut": func(r *process) { r.wantSaid("GET", "vmm.ping", "HTTP/1.1 200 \r\n") },
		"vmm.ping:mute": func(r *process) {
			conn := must(net.Dial("unix", r.socket))(r.t)
			defer conn.Close()
			_, _ = conn.Write([]byte("GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n"))
			_ = conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
			if n, err := conn.Read(make([]byte, 1)); n > 0 || !os.IsTimeout(err) {
				r.t.Errorf("%d bytes, %v", n, err)
			}
			_ = r.command.Process.Signal(os.Interrupt)
			if code := r.exit(); code != 0 {
				r.t.Errorf("exit code %d", code)
			}
		},
		"vm.boot:die:5": func(r *process) {
			r.want(r.ask("PUT", "vm.boot", nil), 0)
			if code := r.exit(); code != 5 {
				r.t.Errorf("exit code %d", code)
			}
		},
		"vm.delete:die-after:6": func(r *process) {
			r.want(r.ask("PUT", "vm.delete", nil), 204)
			if code := r.exit(); code != 6 {
				r.t.Errorf("exit code %d", code)
			}
		},
		"vm.create:quote": func(r *process) {
			if got := r.ask("PUT", "vm.create", []byte(`{"a":"SECRET"}`)); got.status != 400 || !strings.Contains(got.body, "SECRET") {
				r.t.Errorf("%d %s", got.status, got.body)
			}
		},
	} {
		t.Run(faults, func(t *testing.T) {
			r := start(t, program{name: "stand-in", path: fake.InstallWith(t, fake.Options{Faults: faults})})
			check(r)
		})
	}
}

// wantSaid: what comes begins so, and is not a whole answer.
func (r *process) wantSaid(method, path, prefix string) {
	r.t.Helper()
	if got := r.ask(method, path, nil); got.status != 0 || !strings.HasPrefix(got.body, prefix) {
		r.t.Errorf("%d %q", got.status, got.body)
	}
}

// TestVersion: a program may say that it is another one.
func TestVersion(t *testing.T) {
	code, said := runOnce(t, program{name: "stand-in", path: fake.InstallWith(t, fake.Options{Version: "v48.0.0"})}, "--version")
	if code != 0 || !strings.HasPrefix(said, "cloud-hypervisor v48.0.0\n") {
		t.Errorf("%d %s", code, said)
	}
}

// TestMisuse: a script that cannot be read is no quiet guest.
func TestMisuse(t *testing.T) {
	for _, script := range []string{"nonsense", "wait:long", "say", "reboot:now", "crash:x"} {
		r := standIn(t, fake.Options{}, "fake.guest="+script)
		if code := r.exit(); code != 99 {
			t.Errorf("%s: exit code %d\n%s", script, code, r.stderr)
		}
	}
}
