package conformance

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// The guests here are played by the stand-in alone: for the real program one
// would have to boot. What Linux does is by kernel/reboot.c and kernel/panic.c,
// what Firecracker makes of it by the files that package fake names.

func fakeVM(t *testing.T, options ...fake.Option) *vmm {
	t.Helper()
	return start(t, standIn().path(t, options...))
}

func (v *vmm) press() {
	v.t.Helper()
	v.must("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`)
}

func TestDefaultGuest(t *testing.T) {
	t.Parallel()
	v := fakeVM(t)
	v.boot("console=ttyS0 reboot=k panic=-1")
	v.sees("Command line: console=ttyS0 reboot=k panic=-1 pci=off\r\n")
	v.sees("Run /sbin/init as init process\r\n")
	v.press()
	if code := v.ends(); code != 0 || v.errors.Len() > 0 {
		t.Errorf("exit code %d, %s", code, v.errors)
	}
	v.sees("reboot: Restarting system\r\n")
}

// TestScripts: how guests end, and what they say before.
func TestScripts(t *testing.T) {
	t.Parallel()
	const lives = -99
	for _, c := range []struct {
		words string
		says  []string
		code  int
	}{
		{"fake.guest=reboot", []string{"reboot: Restarting system\r\n"}, 0},
		{`fake.guest="say:two words,print:a,print:b,say:,wait:1ms,reboot"`, []string{"two words\r\nab\r\n", "Restarting"}, 0},
		{"fake.guest=poweroff", []string{"reboot: Power off not available: System halted instead\r\n"}, lives},
		{`fake.guest="poweroff:Power down"`, []string{"reboot: Power down\r\n"}, lives},
		{"fake.guest=halt,reboot", []string{"reboot: System halted\r\n"}, lives},
		{"panic=-1 fake.guest=panic:why", []string{"Kernel panic - not syncing: why\r\n"}, 0},
		{"panic=1 panic=0 fake.guest=panic:why", []string{"---[ end Kernel panic - not syncing: why ]---\r\n"}, lives},
		{"fake.guest=panic:why", []string{"---[ end Kernel panic - not syncing: why ]---\r\n"}, lives},
		{"panic=1 fake.guest=panic:why", []string{"Rebooting in 1 seconds..\r\n"}, 0},
		{"fake.guest=say:x,crash:148", []string{"x\r\n"}, 148},
		{"fake.guest=crash:0", []string{"init process"}, 0},
		{"fake.guest=kill:9", []string{"init process"}, -9},
		{"fake.guest=say:first;say:second", []string{"first\r\n"}, lives},
	} {
		t.Run(c.words, func(t *testing.T) {
			t.Parallel()
			v := fakeVM(t)
			v.boot(c.words)
			for _, s := range c.says {
				v.sees(s)
			}
			if c.code == lives {
				time.Sleep(20 * time.Millisecond)
				if v.must("GET", "/", ""); !v.runs() {
					t.Error("it ended")
				}
			} else if code := v.ends(); code != c.code {
				t.Errorf("exit code %d instead of %d", code, c.code)
			}
		})
	}
}

// A script that is not understood is no guest.
func TestScriptMistakes(t *testing.T) {
	t.Parallel()
	v := fakeVM(t)
	for _, script := range []string{"dance", "say", "reboot:now", "wait:long", "crash:256", "say:a;dance"} {
		v.must("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":"{kernel}","boot_args":"fake.guest=%s"}`, script))
		if a := v.ask("PUT", "/actions", `{"action_type":"InstanceStart"}`); a.status != 400 || !strings.Contains(a.body, "the stand-in does not understand its script") {
			t.Errorf("%s: %d %s", script, a.status, a.body)
		}
	}
}

// Each start by the same link plays the next section, the last one for ever.
func TestSections(t *testing.T) {
	t.Parallel()
	link := standIn().path(t)
	for _, want := range []string{"first", "second", "second"} {
		v := start(t, link)
		v.boot("fake.guest=say:first,reboot;say:second,reboot")
		v.ends()
		v.sees(want + "\r\n")
	}
}

func TestIgnoredKeys(t *testing.T) {
	t.Parallel()
	v := fakeVM(t)
	v.boot("fake.guest=ignore-cad,say:x,wait:40ms,say:y,wait:1h")
	v.sees("x\r\n")
	for range 10 {
		v.press()
	}
	v.sees("y\r\n")
	if !v.runs() {
		t.Error("it ended")
	}
}

// A guest that has stopped reads no keys: four times they fit the buffer.
func TestKeysAfterTheEnd(t *testing.T) {
	t.Parallel()
	v := fakeVM(t)
	v.boot("fake.guest=poweroff")
	v.sees("System halted instead")
	for range 4 {
		v.press()
	}
	if a := v.ask("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`); a.status != 400 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestKeysWhileItWaits(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"say:x,wait:1h", "say:x,echo"} {
		v := fakeVM(t)
		v.boot("fake.guest=" + script)
		v.sees("x\r\n")
		v.press()
		if code := v.ends(); code != 0 {
			t.Errorf("%s: exit code %d", script, code)
		}
		v.sees("reboot: Restarting system")
	}
}

// overlay is an initial RAM disk as the product makes it.
func overlay(t *testing.T, values map[string]string) []byte {
	t.Helper()
	var creds []credential.Credential
	for name, value := range values {
		b := secret.NewBuilder(len(value))
		b.AppendString(value)
		v, err := b.Value()
		if err != nil {
			t.Fatal(err)
		}
		creds = append(creds, credential.Credential{Guest: name, Value: v})
	}
	packed, err := credential.PackOverlay(creds)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if _, err := packed.WriteTo(&archive); err != nil {
		t.Fatal(err)
	}
	before, after := credential.OverlayTail(4, "/sbin/init")
	return append(append(append(archive.Bytes(), before...), "shim"...), after...)
}

// bootWith starts a machine with an initial RAM disk.
func (v *vmm) bootWith(initrd []byte, words string) {
	v.t.Helper()
	path := filepath.Join(v.dir, "overlay")
	if err := os.WriteFile(path, initrd, 0o600); err != nil {
		v.t.Fatal(err)
	}
	v.must("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":"{kernel}","initrd_path":%q,"boot_args":%q}`, path, words))
	v.must("PUT", "/actions", `{"action_type":"InstanceStart"}`)
}

func TestDigests(t *testing.T) {
	t.Parallel()
	values := map[string]string{"API_KEY": "value-1", "empty": "", "long": strings.Repeat("\x00\xff", 70000)}
	v := fakeVM(t)
	v.bootWith(append(overlay(t, values), "\x1f\x8bsomething packed"...), "rdinit=/.ampoule/init fake.guest=echo-secret-digest,reboot")
	v.sees("Run /.ampoule/init as init process\r\n")
	for name, value := range values {
		v.sees(fake.Digest(name, []byte(value)) + "\r\n")
	}
	v.sees("credentials: 3\r\n")
	if strings.Contains(v.console.String(), "value-1") {
		t.Error("the guest says a value")
	}
}

// listen waits for what a guest sends to a port, and closes after the text: the
// end of sending is not passed on.
func (v *vmm) listen(port int) chan string {
	v.t.Helper()
	l, err := net.Listen("unix", fmt.Sprintf("%s/v_%d", v.dir, port))
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = l.Close() })
	messages := make(chan string, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			n, _ := conn.Read(b)
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
			if _, err := conn.Read(b[n:]); !os.IsTimeout(err) {
				messages <- fmt.Sprintf("before it was closed: %v", err)
			}
			messages <- string(b[:n])
			_ = conn.Close()
		}
	}()
	return messages
}

func TestNotify(t *testing.T) {
	t.Parallel()
	const script = `fake.guest="notify:STATUS=booting,notify:READY=1\nSTATUS=up,say:told,reboot"`
	for name, boot := range map[string]func(*vmm){
		"initrd": func(v *vmm) {
			v.bootWith(overlay(t, map[string]string{"vmm.notify_socket": "vsock-stream:2:77"}), script)
		},
		"command line": func(v *vmm) { v.boot("systemd.set_credential=vmm.notify_socket:vsock-stream:2:77 " + script) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := fakeVM(t)
			v.must("PUT", "/vsock", `{"guest_cid":3,"uds_path":"{dir}/v"}`)
			messages := v.listen(77)
			boot(v)
			for _, want := range []string{"STATUS=booting", "READY=1\nSTATUS=up"} {
				if got := <-messages; got != want {
					t.Errorf("it sends %q", got)
				}
			}
			v.ends()
			v.sees("told\r\n")
		})
	}
}

func TestNotifyNobody(t *testing.T) {
	t.Parallel()
	for words, says := range map[string]string{
		"fake.guest=notify:READY=1,reboot": "names no stream",
		"systemd.set_credential=vmm.notify_socket:vsock-stream:2:77 fake.guest=notify:READY=1,reboot": "connection reset by peer",
		"systemd.set_credential=vmm.notify_socket:vsock:2:77 fake.guest=notify:READY=1,reboot":        "names no stream",
	} {
		v := fakeVM(t)
		v.must("PUT", "/vsock", `{"guest_cid":3,"uds_path":"{dir}/v"}`)
		v.boot(words)
		v.sees("Failed to notify: ")
		v.sees(says)
		v.ends()
	}
}

// A host that does not close keeps the message's sender waiting, but not from
// hearing the keys.
func TestNotifyLateClose(t *testing.T) {
	t.Parallel()
	v := fakeVM(t)
	v.must("PUT", "/vsock", `{"guest_cid":3,"uds_path":"{dir}/v"}`)
	l, err := net.Listen("unix", filepath.Join(v.dir, "v_77"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	v.boot("systemd.set_credential=vmm.notify_socket:vsock-stream:2:77 fake.guest=notify:READY=1,say:told")
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	time.Sleep(50 * time.Millisecond)
	if strings.Contains(v.console.String(), "\r\ntold\r\n") {
		t.Error("it does not wait")
	}
	v.press()
	v.ends()
}

// What a reader leaves lying is lost, and the guest goes on.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	v := fakeVM(t)
	if err := v.console.SetReadDeadline(time.Now()); err != nil { // stops reading
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	line := strings.Repeat("x", 60)
	v.boot("fake.guest=" + strings.Repeat("say:"+line+",", 25) + "reboot")
	v.ends()
}

// TestSignals: one has an exit code of its own, the others just kill.
func TestSignals(t *testing.T) {
	t.Parallel()
	for signal, code := range map[syscall.Signal]int{syscall.SIGHUP: 156, syscall.SIGTERM: -15, syscall.SIGINT: -2} {
		for _, p := range programs() {
			v := start(t, p.path(t))
			v.must("GET", "/", "")
			if err := v.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if got := v.ends(); got != code {
				t.Errorf("%s, %v: %d instead of %d", p.name, signal, got, code)
			}
		}
	}
}

// TestAbort: what makes the real program panic.
func TestAbort(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]step{
		"NUL":    {{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","boot_args":"a\u0000b"}`, 204, ""}},
		"memory": {{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":17592186044416}`, 204, ""}, boot()},
	} {
		for _, p := range programs() {
			t.Run(name+"/"+p.name, func(t *testing.T) {
				t.Parallel()
				v := start(t, p.path(t))
				for _, s := range steps {
					v.must(s.method, s.path, s.body)
				}
				body := `{"action_type":"InstanceStart"}`
				if a, err := v.raw(fmt.Sprintf("PUT /actions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", len(body), body)); !gone(err) {
					t.Errorf("%d %s %v", a.status, a.body, err)
				}
				if code := v.ends(); code != abort && code != -6 || v.errors.Len() > 0 {
					t.Errorf("exit code %d, %s", code, v.errors)
				}
			})
		}
	}
}

// TestDescriptors: files by inherited descriptors, and an API socket by that of
// a directory.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			memory := func(content []byte) *os.File {
				fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				f := os.NewFile(uintptr(fd), "memfd")
				t.Cleanup(func() { _ = f.Close() })
				if _, err := f.Write(content); err != nil {
					t.Fatal(err)
				}
				return f
			}
			v := inherit(t, p.path(t), []*os.File{dir, memory(fake.KernelImage()), memory([]byte("initrd"))}, "--api-sock", "/proc/self/fd/3/api", "--level", "Off")
			v.socket = filepath.Join(dir.Name(), "api")
			v.connect()
			v.makeFiles()
			v.must("PUT", "/boot-source", `{"kernel_image_path":"/proc/self/fd/4","initrd_path":"/proc/self/fd/5","boot_args":"x"}`)
			v.must("PUT", "/actions", `{"action_type":"InstanceStart"}`)
		})
	}
}
