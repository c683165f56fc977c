package conformance

import (
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestDescriptors: kernel and initramfs are read from inherited descriptors, which
// have to be readable again at every reboot. Landlock does not like memory files,
// and the refused configuration is there all the same, and boots.
func TestDescriptors(t *testing.T) {
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			dir := t.TempDir()
			kernel := memfd(t, must(os.ReadFile(writeKernel(t, dir, codeLoop, true)))(t))
			defer kernel.Close()
			initrd := memfd(t, []byte("something"))
			defer initrd.Close()
			r := startWith(t, p, []*os.File{kernel, initrd})
			body := boots(`"payload":{"kernel":"/proc/self/fd/5","initramfs":"/proc/self/fd/6"}`)
			r.want(r.ask("PUT", "vm.create", []byte(body)), 204)
			r.want(r.ask("PUT", "vm.boot", nil), 204)
			r.want(r.ask("PUT", "vm.reboot", nil), 204)
			r.want(r.ask("PUT", "vm.delete", nil), 204)

			got := r.ask("PUT", "vm.create", []byte(merge(body, `"landlock_enable":true`)))
			if got.status != 500 || !strings.Contains(got.body, `"Failed to apply landlock config during vm_create","Error creating/adding/restricting ruleset","failed to add a rule: File descriptor in bad state (os error 77)"`) {
				t.Errorf("landlock: %d %s", got.status, got.body)
			}
			r.want(r.ask("PUT", "vm.boot", nil), 204)
			r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
			if code := r.exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// TestRebootWithoutKernel: a file that is gone at the next reboot ends the process,
// without any event, and with exit code 1.
func TestRebootWithoutKernel(t *testing.T) {
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			r := start(t, p)
			rename(t, writeKernel(t, r.dir, codeReset+codeOut+codeLoop, true), r.dir+"/reboot")
			r.want(r.ask("PUT", "vm.create", []byte(guest("reboot", ""))), 204)
			r.want(r.ask("PUT", "vm.boot", nil), 204)
			r.awaitFrom("vm:rebooted", 0)
			if err := os.Remove(r.dir + "/reboot"); err != nil {
				t.Fatal(err)
			}
			if code := r.exit(); code != 1 {
				t.Errorf("exit code %d", code)
			}
			<-r.stderr.done
			if want := "  0: VMM thread exited with error\n  1: Error rebooting VM\n  2: Cannot open kernel file\n  3: No such file or directory (os error 2)\n"; !strings.Contains(r.stderr.String(), want) {
				t.Errorf("%s, want %s", r.stderr, want)
			}
			<-r.events.done
			if names := r.names(); names[len(names)-1] != "vm:rebooting" && !p.real {
				t.Errorf("%q", names)
			}
		})
	}
}

// TestSocketConsole: a serial port behind a socket is there from vm.create on. What
// was said before anybody came is kept. A reboot ends the connection.
func TestSocketConsole(t *testing.T) {
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			r := start(t, p)
			rename(t, writeKernel(t, r.dir, codeWord+codeLoop, true), r.dir+"/word")
			r.want(r.ask("PUT", "vm.create", []byte(guest("word", `"serial":{"mode":"Socket","socket":"serial"}`))), 204)
			if _, err := os.Stat(r.dir + "/serial"); err != nil {
				t.Fatal(err)
			}
			r.want(r.ask("PUT", "vm.boot", nil), 204)
			time.Sleep(50 * time.Millisecond)
			for range 2 {
				conn := must(net.Dial("unix", r.dir+"/serial"))(t)
				_ = conn.SetDeadline(time.Now().Add(patience))
				said, buf := "", make([]byte, 1024)
				for !strings.Contains(said, "OK") {
					n, err := conn.Read(buf)
					if err != nil {
						t.Fatalf("%q: %v", said, err)
					}
					said += string(buf[:n])
				}
				r.want(r.ask("PUT", "vm.reboot", nil), 204)
				for {
					if _, err := conn.Read(buf); err != nil {
						if !strings.Contains(err.Error(), "EOF") {
							t.Errorf("after the reboot: %v", err)
						}
						break
					}
				}
				conn.Close()
			}
			r.want(r.ask("PUT", "vm.shutdown", nil), 204)
			if _, err := os.Stat(r.dir + "/serial"); !os.IsNotExist(err) {
				t.Errorf("the socket is left: %v", err)
			}
			r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
		})
	}
}

// TestFileConsole: a serial port may write into an inherited pipe.
func TestFileConsole(t *testing.T) {
	for _, p := range programs(t) {
		out, in := pipe(t)
		r := startWith(t, p, []*os.File{in})
		in.Close()
		s := newSink()
		go s.fill(out)
		rename(t, writeKernel(t, r.dir, codeWord+codeLoop, true), r.dir+"/word")
		r.want(r.ask("PUT", "vm.create", []byte(guest("word", `"serial":{"mode":"File","file":"/proc/self/fd/5"}`))), 204)
		r.want(r.ask("PUT", "vm.boot", nil), 204)
		r.await("OK", func() bool { return strings.Contains(s.String(), "OK") })
		r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
		r.exit()
		<-s.done
	}
}

// TestVerbose: with -v the log tells the OEM strings and the command line. Without
// it nothing does, whatever goes wrong.
func TestVerbose(t *testing.T) {
	for _, p := range programs(t) {
		for _, verbose := range []bool{false, true} {
			var args []string
			if verbose {
				args = []string{"-v"}
			}
			r := start(t, p, args...)
			writeKernel(t, r.dir, codeLoop, true)
			body := boots(`"payload":{"kernel":"kernel","cmdline":"word=SECRET1"}`, `"platform":{"oem_strings":["io.systemd.credential:a=SECRET2"]}`)
			r.want(r.ask("PUT", "vm.create", []byte(merge(body, `"memory":{"size":"SECRET3"}`))), 400)
			r.want(r.ask("PUT", "vm.create", []byte(body)), 204)
			r.want(r.ask("PUT", "vm.boot", nil), 204)
			r.want(r.ask("PUT", "vm.create", []byte(body)), 500)
			r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
			r.exit()
			<-r.stderr.done
			<-r.events.done
			for _, secret := range []string{"SECRET1", "SECRET2", "SECRET3"} {
				if said := strings.Contains(r.stderr.String(), secret); said != verbose {
					t.Errorf("%s -v %t: %s is said: %t\n%s", p.name, verbose, secret, said, r.stderr)
				}
			}
			if strings.Contains(r.events.String(), "SECRET") {
				t.Errorf("%s: %s", p.name, r.events)
			}
		}
	}
}

// TestConsoleWithoutPath: a serial port in a file, or behind a socket, without the
// path of it makes the real one's thread panic, and the process ends. Whether the
// answer still comes is a race.
func TestConsoleWithoutPath(t *testing.T) {
	for _, p := range programs(t) {
		for _, mode := range []string{"File", "Socket"} {
			r := start(t, p)
			got := r.ask("PUT", "vm.create", []byte(boots(`"serial":{"mode":"`+mode+`"}`)))
			if got.status != 0 && (got.status != 500 || got.body != `["Error from API","API response receive error","receiving on a closed channel"]`) {
				t.Errorf("%s: %d %s", p.name, got.status, got.body)
			}
			if code := r.exit(); code != 1 {
				t.Errorf("%s: exit code %d", p.name, code)
			}
		}
	}
}

// TestInput: what is typed reaches the guest from a terminal and from a client of
// the socket, and from nowhere else: a socket pair as standard input is not read.
func TestInput(t *testing.T) {
	for _, p := range programs(t) {
		for _, from := range []string{"pair", "pty", "socket"} {
			t.Run(p.name+"-"+from, func(t *testing.T) {
				p.pty = from == "pty"
				r := start(t, p)
				rename(t, writeKernel(t, r.dir, codeEcho, true), r.dir+"/echo")
				serial := `"serial":{"mode":"Tty"}`
				if from == "socket" {
					serial = `"serial":{"mode":"Socket","socket":"serial"}`
				}
				r.want(r.ask("PUT", "vm.create", []byte(guest("echo", serial))), 204)
				r.want(r.ask("PUT", "vm.boot", nil), 204)
				time.Sleep(100 * time.Millisecond) // until the guest reads
				var in io.Writer = r.input
				said := r.console
				if from == "socket" {
					conn := must(net.Dial("unix", r.dir+"/serial"))(t)
					f := must(conn.(*net.UnixConn).File())(t)
					conn.Close()
					in, said = f, newSink()
					go said.fill(f)
				}
				if _, err := in.Write([]byte("~~~")); err != nil {
					t.Fatal(err)
				}
				if from == "pair" {
					time.Sleep(100 * time.Millisecond)
					if strings.Contains(said.String(), "~") {
						t.Errorf("%s", said)
					}
				} else {
					r.await("the echo", func() bool { return strings.Contains(said.String(), "~~~") })
				}
				r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
			})
		}
	}
}
