package microvmnix

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// head and tail are what microvm.nix writes around a command.
const (
	head = "#!/nix/store/qb56qb56qb56qb56qb56qb56qb56qb56-bash-5.2p37/bin/bash\nset -eou pipefail\n"
	ch   = "/nix/store/ch00ch00ch00ch00ch00ch00ch00ch00-cloud-hypervisor-48.0/bin/cloud-hypervisor"
)

func generated(middle, args string) string {
	return head + middle + "\nruntime_args=\n\nexec -a \"microvm@test-vm\" " + ch + " " + args + "   ${runtime_args:-}\n"
}

// cleanup and bridge are those of cloud-hypervisor.
const (
	cleanup = "\n# workaround cloud-hypervisor sometimes\n# stumbling over a preexisting socket\nrm -f 'test-vm.sock'\n\n"
	bridge  = "# Ensure notify sockets are removed\nrm -f notify.vsock notify.vsock_8888\n\n# Start socat\n" +
		"if [ -n \"${NOTIFY_SOCKET:-}\" ]; then\n  # Both timeouts must be short\n  /nix/store/x-socat/bin/socat -t0 -T0.2 UNIX-LISTEN:notify.vsock_8888,fork UNIX-SENDTO:$NOTIFY_SOCKET &\nfi\n"
	volume = "PATH=$PATH:/nix/store/c-coreutils/bin:/nix/store/e-e2fsprogs-bin/bin\nif [ ! -e 'data.img' ]; then\n  touch 'data.img'\n  # Mark NOCOW\n" +
		"  chattr +C 'data.img' || true\n  truncate -s 256M 'data.img'\n  mkfs.ext4 -L 'data' -m 0 'data.img'\nfi\n"
	macvtap = "# Open macvtap interface file descriptors\nexec 3<>/dev/tap$(< /sys/class/net/mv0/ifindex)\nexec 4<>/dev/tap$(< /sys/class/net/mv0/ifindex)\n"
)

func kinds(s *Script) string {
	var out []string
	for _, st := range s.Statements {
		out = append(out, string(st.Kind))
	}
	return strings.Join(out, ", ")
}

func texts(list []Word) []string {
	var out []string
	for _, w := range list {
		out = append(out, w.Text)
	}
	return out
}

// parse fails where a script has problems.
func parse(t *testing.T, text string) *Script {
	t.Helper()
	s, problems := ParseScript("/run", []byte(text))
	for _, p := range problems {
		t.Error(p.Error())
	}
	return s
}

func TestGeneratedScript(t *testing.T) {
	s := parse(t, generated(cleanup+bridge+volume+macvtap,
		`--cpus boot=2 --cmdline 'console=ttyS0 it'\''s' --platform '' --vsock cid=3,socket=notify.vsock --api-socket test-vm.sock`))
	want := "set, socket cleanup, socket cleanup, notify bridge, volume path, volume, macvtap descriptor, macvtap descriptor, runtime_args, exec"
	if got := kinds(s); got != want {
		t.Errorf("the statements are %s\nwant               %s", got, want)
	}
	if s.Make != Generated || s.Edits != nil {
		t.Errorf("it is %s %v", s.Make, s.Edits)
	}
	if s.Exec.Name != "microvm@test-vm" || s.Exec.Program.Text != ch || !s.Exec.RuntimeArgs || s.Exec.Line != 30 {
		t.Errorf("exec is %+v", s.Exec)
	}
	args := []string{"--cpus", "boot=2", "--cmdline", "console=ttyS0 it's", "--platform", "", "--vsock", "cid=3,socket=notify.vsock", "--api-socket", "test-vm.sock"}
	if diff := cmp.Diff(args, texts(s.Exec.Args)); diff != "" {
		t.Error(diff)
	}
	if s.Hypervisor() != CloudHypervisor || s.RuntimeArgs != nil || s.Credentials != nil {
		t.Errorf("hypervisor %s, runtime_args %v, credentials %v", s.Hypervisor(), s.RuntimeArgs, s.Credentials)
	}
	v := s.Statements[5].Volume
	if diff := cmp.Diff(&Volume{Image: "data.img", Size: 256, FSType: "ext4", Label: "data", Args: []string{"-m", "0"}}, v); diff != "" {
		t.Error(diff)
	}
	if d := s.Statements[7].Descriptor; d == nil || *d != (Descriptor{Number: 4, Interface: "mv0"}) {
		t.Errorf("the second descriptor is %v", d)
	}
	if got := s.Statements[2].Paths; !slices.Equal(got, []string{"notify.vsock", "notify.vsock_8888"}) {
		t.Errorf("removed: %q", got)
	}
}

// TestOlderScripts: of 2023, without set, PATH for each volume, fallocate; and of
// 2024, with another socat, every word quoted.
func TestOlderScripts(t *testing.T) {
	s := parse(t, "#! /nix/store/b-bash/bin/bash -e\n\nPATH=$PATH:/nix/store/c-coreutils/bin\n\nif [ ! -e 'a.img' ]; then\n  touch 'a.img'\n  # Mark NOCOW\n  chattr +C 'a.img' || true\n  fallocate -l64MiB 'a.img'\n  mkfs.ext4 'a.img'\nfi\n"+
		"\nexec '"+ch+"' '--cpus' 'boot=1' '--disk' 'path=a.img'\n")
	if s.Make != Generated || s.Exec.RuntimeArgs || s.Shell != "/nix/store/b-bash/bin/bash -e" {
		t.Errorf("it is %s %v, with runtime_args: %v, shell %q", s.Make, s.Edits, s.Exec.RuntimeArgs, s.Shell)
	}
	if v := s.Statements[1].Volume; v == nil || v.Size != 64 || v.Label != "" {
		t.Errorf("the volume is %+v", v)
	}
	s = parse(t, "#! /nix/store/b-bash/bin/bash -e\nrm -f 'vm.sock'\nrm -f notify.vsock notify.vsock_8888\nif [ -n \"$NOTIFY_SOCKET\" ]; then\n  /nix/store/s-socat/bin/socat UNIX-LISTEN:notify.vsock_8888,fork UNIX-SENDTO:$NOTIFY_SOCKET &\nfi\n"+
		"exec -a \"microvm@x\" '"+ch+"' '--api-socket' 'vm.sock'\n")
	if s.Make != Generated {
		t.Errorf("it is %s %v: %s", s.Make, s.Edits, kinds(s))
	}
}

// TestOtherHypervisors: their templates have text of their own.
func TestOtherHypervisors(t *testing.T) {
	for _, c := range []struct{ middle, command, hypervisor string }{
		{"export HOME=$PWD\n", "/nix/store/k-kvmtool/bin/lkvm run --name x -n mode=tap,tapif=/dev/tap$(< /sys/class/net/mv0/ifindex),guest_mac=02:00:00:00:00:01", Kvmtool},
		{"rm -f crosvm.sock\n\nmkdir -p /var/empty\n", "/nix/store/c-crosvm/bin/crosvm run -m 512 --pivot-root /var/empty -s crosvm.sock", Crosvm},
		{"rm -f crosvm.sock\necho mine\n", "/nix/store/c-crosvm/bin/crosvm run -s crosvm.sock", Crosvm},
		{"", "/nix/store/e-expect/bin/unbuffer /nix/store/s-stratovirt/bin/stratovirt -name x", Stratovirt},
		{"", "/nix/store/a-alioth/bin/alioth run --memory size=512M,backend=memfd", Alioth},
		{"", "/nix/store/q-qemu/bin/qemu-system-x86_64 -name x -nodefaults", QEMU},
		{"\nif [ -e 'vm.sock' ]; then\n  mv 'vm.sock' 'vm.sock.old'\nfi\nrm -f notify.vsock notify.vsock_*\n", "/nix/store/f-firecracker/bin/firecracker --config-file /nix/store/j.json --api-sock vm.sock", Firecracker},
		{"", "/nix/store/b-bash/bin/bash -c 'exec /nix/store/v-vfkit/bin/vfkit --cpus 1'", VFKit},
	} {
		s, problems := ParseScript("/run", []byte(head+c.middle+"runtime_args=\n\nexec  "+c.command+" ${runtime_args:-}\n"))
		wantMake, wantProblems := Generated, 0
		if strings.Contains(c.middle, "mine") {
			wantMake = Customised
		}
		if c.hypervisor == Kvmtool {
			wantProblems = 1 // the descriptor in the word
		}
		if s.Hypervisor() != c.hypervisor || s.Make != wantMake || len(problems) != wantProblems {
			t.Errorf("%s: %s, %s %v, %v; %s", c.command, s.Hypervisor(), s.Make, s.Edits, problems, kinds(s))
		}
	}
}

func TestGraphics(t *testing.T) {
	s := parse(t, generated("rm -f gpu.sock\n/nix/store/c-crosvm/bin/crosvm device gpu \\\n  --socket gpu.sock \\\n  --wayland-sock $XDG_RUNTIME_DIR/$WAYLAND_DISPLAY \\\n  --params '{}' \\\n  &\nwhile ! [ -S gpu.sock ]; do\n  sleep .1\ndone\n",
		"--gpu socket=gpu.sock"))
	if want := "set, socket cleanup, graphics, graphics, runtime_args, exec"; kinds(s) != want || s.Make != Generated {
		t.Errorf("%s; %s %v", kinds(s), s.Make, s.Edits)
	}
}

// TestMake: microvm.nix has room for the user's text in two places.
func TestMake(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Make
		line       int
	}{
		{"default", generated(cleanup, "--api-socket test-vm.sock"), Generated, 0},
		{"pre-start", generated("echo hello\nif true; then date; fi\n"+cleanup, "--api-socket test-vm.sock"), Customised, 0},
		{"pre-start that removes the socket too", generated("rm -f 'test-vm.sock'\necho\n"+cleanup, "--api-socket test-vm.sock"), Customised, 0},
		{"pre-start that removes something else", generated("rm -f other.sock\n"+cleanup, "--api-socket test-vm.sock"), Customised, 0},
		{"extraArgsScript", strings.Replace(generated(cleanup, ""), "runtime_args=", "runtime_args=$(/nix/store/x-args)\n", 1), Customised, 0},
		{"behind the sockets", generated(cleanup+"echo hello\n", "--api-socket test-vm.sock"), Foreign, 8},
		{"behind runtime_args", strings.Replace(generated(cleanup, ""), "runtime_args=\n", "runtime_args=\necho\n", 1), Foreign, 10},
		{"behind exec", generated(cleanup, "--api-socket test-vm.sock") + "echo never\n", Foreign, 11},
		{"no options", strings.Replace(generated("", ""), "set -eou pipefail\n", "", 1), Foreign, 1},
		{"no shell", strings.Replace(generated("", ""), "#!/nix", "#/nix", 1), Foreign, 1},
		{"no exec", head + "echo\n", Foreign, 1},
		{"a volume that somebody changed", generated(strings.Replace(volume, "chattr", "chmod", 1), ""), Customised, 0},
	} {
		s, _ := ParseScript("/run", []byte(c.text))
		if s.Make != c.want {
			t.Errorf("%s: %s %v; %s", c.name, s.Make, s.Edits, kinds(s))
		}
		if c.want == Foreign && (len(s.Edits) == 0 || s.Edits[0].Line != c.line) {
			t.Errorf("%s: edits %+v, want line %d", c.name, s.Edits, c.line)
		}
	}
	s := parse(t, strings.Replace(generated(cleanup, ""), "runtime_args=", "runtime_args=$(/nix/store/x-args)\n", 1))
	if s.RuntimeArgs == nil || *s.RuntimeArgs != (RuntimeArgs{Line: 9, Command: "/nix/store/x-args"}) {
		t.Errorf("runtime_args: %+v", s.RuntimeArgs)
	}
}

// TestOpenWords: what the shell makes up when it runs is a problem with its line,
// and the words around it are there.
func TestOpenWords(t *testing.T) {
	for _, word := range []string{"$HOME/x", "`id`", "$(id)", `"a$b"`, "a*", "x?", "~/disk", "{a,b}", "$'a'", "${x:-y}", "[a]"} {
		s, problems := ParseScript("/run", []byte(generated("", "--kernel "+word+" --seccomp true")))
		if len(problems) != 1 || problems[0].Origin.Line != 6 || s.Make != Foreign {
			t.Errorf("%s: %v, %s", word, problems, s.Make)
			continue
		}
		if want := []string{"--kernel", word, "--seccomp", "true"}; !slices.Equal(texts(s.Exec.Args), want) || !s.Exec.Args[1].Open {
			t.Errorf("%s: the words are %q", word, texts(s.Exec.Args))
		}
	}
	for word, want := range map[string]string{`a\ b`: "a b", `"a\"b\c"`: `a"b\c`, `'a'"b"c`: "abc", `''`: "", `'$x'`: "$x", `a\$b`: "a$b", "a\\\nb": "ab"} {
		s := parse(t, generated("", word))
		if got := texts(s.Exec.Args); len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q", word, got)
		}
	}
}

// TestBadScripts: whatever it is, what was understood is there, and there is a
// problem that names the file.
func TestBadScripts(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "blanks": " \n", "binary": "\x7fELF\x02\x01", "nul": "#!/bin/sh\n\x00", "latin": "#!/bin/sh\n\xe9",
		"cut off in quotes": head + "exec x 'a", "cut off in a loop": head + "while true; do", "too long": strings.Repeat("#\n", maxScript),
	} {
		s, problems := ParseScript("/run", []byte(text))
		if s == nil || s.Make != Foreign || len(problems) == 0 {
			t.Errorf("%s: %+v, %v", name, s, problems)
		}
		for _, p := range problems {
			if p.Origin.File != "/run" {
				t.Errorf("%s: %s", name, p.Error())
			}
		}
	}
	s, problems := ParseScript("/run", []byte(head+"rm -f 'x'\nif then\n"))
	if kinds(s) != "set, prestart" || len(problems) != 2 || problems[0].Origin.Line != 4 {
		t.Errorf("%s, %v", kinds(s), problems)
	}
}

// TestMessagesHideValues: a word that is refused may have a credential in it.
func TestMessagesHideValues(t *testing.T) {
	for _, word := range []string{
		`"oem_strings=[io.systemd.credential:API_KEY=s3cret,$x]"`, `"io.systemd.credential.binary:K=s3cret$x"`,
		`"name=opt/io.systemd.credentials/K,string=s3cret,$x"`, `"systemd.set_credential=K:s3cret$x"`, `"secret,id=a,data=s3cret$x"`,
	} {
		_, problems := ParseScript("/run", []byte(generated("", "--platform "+word)))
		if len(problems) != 1 || strings.Contains(fmt.Sprint(problems), "s3cret") {
			t.Errorf("%s: %v", word, problems)
		}
	}
}
