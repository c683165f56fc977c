package microvmnix

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plant writes a tree; a text that begins with "-> " is a link.
func plant(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		err := error(nil)
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(strings.ReplaceAll(target, "ROOT", root), file)
		} else {
			err = os.WriteFile(file, []byte(strings.ReplaceAll(text, "ROOT", root)), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// read reads the runner of a planted tree, from the root of all as on a live host.
func read(t *testing.T, files map[string]string) (*Runner, []string) {
	t.Helper()
	root := plant(t, files)
	r, problems := ReadRunner(os.DirFS("/"), strings.TrimPrefix(root, "/")+"/runner")
	var out []string
	for _, p := range problems {
		out = append(out, strings.ReplaceAll(p.Error(), root, ""))
	}
	return r, out
}

func TestReadRunner(t *testing.T) {
	r, problems := read(t, map[string]string{
		"store/run":                                     generated(cleanup, "--api-socket test-vm.sock"),
		"store/virtiofsd-run":                           head + `exec /nix/store/s-supervisor/bin/supervisord --configuration ROOT/store/supervisord.conf "$@"` + "\n",
		"store/supervisord.conf":                        "[eventlistener:notify]\ncommand=/nix/store/x-handler\n\n[program:virtiofsd-ro-store]\ncommand=ROOT/store/virtiofsd-ro-store\nstderr_syslog=true\n\n[supervisord]\nnodaemon=true\n",
		"store/virtiofsd-ro-store":                      "#!/bin/bash\nif [ $(id -u) = 0 ]; then\n  OPT_RLIMIT=\"--rlimit-nofile 1048576\"\nelse\n  OPT_RLIMIT=\"\"\nfi\nexec /nix/store/v-virtiofsd/bin/virtiofsd \\\n  --socket-path=vm.sock \\\n  --shared-dir=/nix/store \\\n  $OPT_RLIMIT \\\n   \\\n  --readonly \\\n  \n",
		"runner/bin/microvm-run":                        "-> ROOT/store/run",
		"runner/bin/microvm-shutdown":                   "-> ROOT/store/run",
		"runner/bin/virtiofsd-run":                      "-> ROOT/store/virtiofsd-run",
		"runner/share/microvm/hypervisor":               "cloud-hypervisor\n",
		"runner/share/microvm/system":                   "-> /nix/store/t-nixos-system-test-vm",
		"runner/share/microvm/tap-flags":                "vnet_hdr\nmulti_queue\n",
		"runner/share/microvm/tap-interfaces":           "vm-test\nvm-two\n",
		"runner/share/microvm/vsock-cid":                "7\n",
		"runner/share/microvm/pci-devices":              "0000:01:00.0\n",
		"runner/share/microvm/usb-devices":              "vendorid=0x1234,productid=0x5678\n",
		"runner/share/microvm/macvtap-interfaces":       "mv0 02:00:00:00:00:02 eth0 bridge\n",
		"runner/share/microvm/virtiofs/ro-store/socket": "vm.sock\n",
		"runner/share/microvm/virtiofs/ro-store/source": "/nix/store\n",
	})
	for _, p := range problems {
		t.Error(p)
	}
	if r.Script == nil || r.Script.Make != Generated || !strings.HasSuffix(r.Script.File, "/runner/bin/microvm-run") {
		t.Errorf("the script: %+v", r.Script)
	}
	root := strings.TrimSuffix(r.Dir, "/runner")
	d := r.Shares[0].Daemon
	if d == nil || d.Line != 7 {
		t.Fatalf("the daemon: %+v", d)
	}
	if diff := cmp.Diff([]string{"--socket-path=vm.sock", "--shared-dir=/nix/store", "--readonly"}, texts(d.Args)); diff != "" {
		t.Error(diff)
	}
	r.Script, r.Shares[0].Daemon = nil, nil
	want := &Runner{
		Dir: root + "/runner", Hypervisor: CloudHypervisor, System: "/nix/store/t-nixos-system-test-vm",
		Bin:      []Program{{"microvm-run", root + "/store/run"}, {"microvm-shutdown", root + "/store/run"}, {"virtiofsd-run", root + "/store/virtiofsd-run"}},
		TapFlags: []string{"vnet_hdr", "multi_queue"}, Taps: []string{"vm-test", "vm-two"}, VSockCID: 7,
		MacVTaps: []MacVTap{{"mv0", "02:00:00:00:00:02", "eth0", "bridge"}},
		Shares:   []Share{{Tag: "ro-store", Socket: "vm.sock", Source: "/nix/store"}},
		PCI:      []string{"0000:01:00.0"}, USB: []string{"vendorid=0x1234,productid=0x5678"},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	if got := r.Toplevel(); got != want.System {
		t.Errorf("the toplevel is %s", got)
	}
}

// TestReadPoorRunner: of an older microvm.nix, or damaged. What is there is read.
func TestReadPoorRunner(t *testing.T) {
	r, problems := read(t, map[string]string{"runner/bin/microvm-run": generated("", "--cmdline 'console=ttyS0 init=/nix/store/t-nixos-system-x/init quiet'")})
	if len(problems) > 0 || r.Hypervisor != CloudHypervisor || r.Toplevel() != "/nix/store/t-nixos-system-x" {
		t.Errorf("without notes: %+v, %v", r, problems)
	}
	r, problems = read(t, map[string]string{
		"runner/bin/microvm-run": "-> /nix/store/gone", "runner/share/microvm/vsock-cid": "many", "runner/share/microvm/macvtap-interfaces": "a b\n",
		"runner/share/microvm/tap-interfaces": "\x00\x01", "runner/share/microvm/virtiofs/x/socket": "s", "runner/share/microvm/hypervisor": "qemu",
	})
	want := []string{
		"/runner/share/microvm/tap-interfaces:1: a binary file, and no script; lines of text",
		"/runner/share/microvm/macvtap-interfaces:1: not an interface: a b; ID MAC LINK MODE",
		"/runner/share/microvm/vsock-cid:1: not a number of a vsock: many; 3 to 4294967295",
		"/runner/share/microvm/virtiofs/x:1: a share without its socket and its source; the files socket and source",
		"/runner/bin/microvm-run:1: reading it: no such file or directory",
	}
	if diff := cmp.Diff(want, problems); diff != "" || r == nil || r.Script != nil || r.Hypervisor != QEMU || r.Bin[0].Target != "/nix/store/gone" {
		t.Errorf("%+v %s", r, diff)
	}
	if r, problems := read(t, map[string]string{"runner/share/x": ""}); r != nil || len(problems) != 1 || !strings.HasPrefix(problems[0], "/runner:1: no runner") {
		t.Errorf("without bin: %+v %v", r, problems)
	}
	if r, problems := read(t, map[string]string{"runner/bin/other": ""}); r != nil || len(problems) != 1 || !strings.Contains(problems[0], "no microvm-run") {
		t.Errorf("without microvm-run: %+v %v", r, problems)
	}
}

// TestReadConfig: Firecracker's VM is in a file that the command line names.
func TestReadConfig(t *testing.T) {
	root := plant(t, map[string]string{
		"runner/bin/microvm-run": head + "runtime_args=\nexec  /nix/store/f-firecracker/bin/firecracker --config-file ROOT/vm.json --api-sock vm.sock ${runtime_args:-}\n",
		"vm.json":                `{"boot-source":{"boot_args":"console=ttyS0 init=/nix/store/t-nixos-system-y/init"}}`,
	})
	r, problems := ReadRunner(os.DirFS("/"), root+"/runner")
	if len(problems) > 0 || r.Config == nil || r.Config.File != root+"/vm.json" || r.Toplevel() != "/nix/store/t-nixos-system-y" || r.Hypervisor != Firecracker {
		t.Errorf("%+v %v", r, problems)
	}
}

func FuzzParseScript(f *testing.F) {
	f.Add([]byte(generated(cleanup+bridge+volume+macvtap, "--cpus boot=2 --cmdline 'a b' --platform ''")))
	f.Add([]byte("#!/bin/sh\nget() { cat \"$CREDENTIALS_DIRECTORY/$1\"; }\nget \"$2\"\nfor i in a b; do x=$i; done\nexec a \"$x\" {a,b} ~ \\\n"))
	f.Add([]byte("exec -a"))
	f.Add([]byte("exec 3<>/dev/tap$(< )\nif [ ! -e x ]; then a || b; fi\nwhile ! [ -S a ]; do b; done\nrm -f"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, problems := ParseScript("/run", text)
		if s == nil || s.Make == Foreign && len(problems) == 0 && len(s.Edits) == 0 {
			t.Fatalf("foreign, and nothing says why: %+v", s)
		}
		if s.Make != Foreign && (s.Exec == nil || len(s.Edits) > 0) {
			t.Fatalf("%s, with %+v", s.Make, s.Edits)
		}
		lines := strings.Count(string(text), "\n") + 1
		for _, p := range problems {
			if p.Origin.File != "/run" || p.Origin.Line > lines || p.What == "" {
				t.Fatalf("a problem without its place: %q", p.Error())
			}
		}
		last := 0
		for _, st := range s.Statements {
			if st.Line < last || st.Last < st.Line || st.Last > lines || !strings.Contains(string(text), st.Text) {
				t.Fatalf("a statement that is not there: %+v", st)
			}
			last = st.Line
		}
		if s.Exec != nil {
			for _, w := range s.Exec.Args {
				if strings.ContainsRune(w.Text, 0) || w.Line < s.Exec.Line {
					t.Fatalf("a word that is not there: %+v", w)
				}
			}
		}
		for _, c := range s.Credentials {
			if c.Line < 1 || c.Line > lines {
				t.Fatalf("a credential that is not there: %+v", c)
			}
		}
	})
}
