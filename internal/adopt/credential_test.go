package adopt

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

const script = "nix/store/r/bin/microvm-run"

// handmade is a runner of one script.
func handmade(text string) fs.FS {
	return fstest.MapFS{script: &fstest.MapFile{Data: []byte(text), Mode: 0o555}, "nix/store/r/share/microvm/tap-flags": &fstest.MapFile{Data: []byte("vnet_hdr\n")}}
}

// cloud is a script of cloud-hypervisor with commands, and words more, in it.
func cloud(middle, words string) fs.FS {
	return handmade("#!/nix/store/b-bash/bin/bash\nset -eou pipefail\n" + middle + "runtime_args=\n" +
		"exec -a \"microvm@test-vm\" /nix/store/c/bin/cloud-hypervisor --cpus boot=1 --kernel /k --memory size=512M --console null --serial tty " + words + " ${runtime_args:-}\n")
}

// refused fails unless there is an error at the line that has all these words, and
// there is no file without it.
func refused(t *testing.T, name string, r result, line string, words ...string) {
	t.Helper()
	for _, p := range r.problems {
		text := p.Error()
		all := strings.HasPrefix(text, "/"+script+":"+line+": ")
		for _, w := range words {
			all = all && strings.Contains(text, w)
		}
		if all {
			return
		}
	}
	t.Errorf("%s: no error at line %s with %q:\n%s", name, line, words, r)
}

func TestUnitsCredentials(t *testing.T) {
	tree, dir := store(t, "cloud-hypervisor-seed")
	units := []Unit{
		{"/etc/systemd/system/microvm@.service", []byte("[Service]\nLoadCredential=OLD:/old\nUser=microvm\n")},
		{"/etc/systemd/system/microvm@test-vm.service.d/overrides.conf", []byte(
			"[Service]\nLoadCredential=\nLoadCredential=API_KEY:/run/secrets/api-key\nSetCredential=API_KEY:none\nSetCredential=ENVIRONMENT:production\nLoadCredentialEncrypted=DB:/etc/db\nImportCredential=web.*\n")},
	}
	r := adopt(t, tree, dir, Options{Units: units, Credentials: []string{"DB:/run/db"}})
	for _, want := range []string{
		"\nLoadCredential=API_KEY:/run/secrets/api-key\n", "\nSetCredential=API_KEY:none\n", "\nSetCredential=ENVIRONMENT:production\n", "\nLoadCredential=DB:/run/db\n", "\nImportCredential=web.*\n",
		"# From /etc/systemd/system/microvm@test-vm.service.d/overrides.conf:3; the script does not read it.\n",
	} {
		if !strings.Contains(string(r.draft.Text), want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(string(r.draft.Text), "OLD") || strings.Contains(string(r.draft.Text), "Encrypted") || r.problems.HasErrors() {
		t.Errorf("%s", r)
	}
}

// TestCustomisedScript: app-vm-01's makes the OEM strings itself.
func TestCustomisedScript(t *testing.T) {
	tree, dir := store(t, "cloud-hypervisor-app-vm-01")
	r := adopt(t, tree, dir, Options{
		Credentials: []string{"API_KEY:/run/api-key", "DB_PASSWORD:/run/db", "JWT_SECRET:/run/jwt"}, Public: []string{"ENVIRONMENT"}, Without: []string{"5-18"},
	})
	if r.problems.HasErrors() {
		t.Errorf("%v", r.problems)
	}
	for _, want := range []string{"\nLoadCredential=API_KEY:/run/api-key\n", "\nLoadCredential=JWT_SECRET:/run/jwt\n", "\nSetCredential=ENVIRONMENT:production\n"} {
		if !strings.Contains(string(r.draft.Text), want) {
			t.Errorf("no %q in\n%s", want, r.draft.Text)
		}
	}
	for _, row := range r.rows {
		if row.Verdict == Lost {
			t.Errorf("lost: %+v", row)
		}
	}
}

// TestNoValueIsShown: of what stands in the script in clear nothing gets into the
// file, the table or a message, but by --public into the file.
func TestNoValueIsShown(t *testing.T) {
	const oem = "--platform 'oem_strings=[io.systemd.credential:KEY=s3cret,io.systemd.credential.binary:BIN=czNjcmV0,api=s3cret]' "
	for _, o := range []Options{{}, {Credentials: []string{"KEY:/k", "BIN:/b"}}, {Without: []string{"platform", "credential"}}} {
		r := adopt(t, cloud("", oem), "nix/store/r", o)
		if text := r.String(); strings.Contains(text, "s3cret") || strings.Contains(text, "czNjcmV0") {
			t.Errorf("with %+v:\n%s", o, text)
		}
		if o.Credentials == nil && o.Without == nil {
			refused(t, "in clear", r, "4", "the value of the credential KEY stands in the script in clear", "--credential KEY:FILE", "--public KEY")
			refused(t, "in clear", r, "4", "oem_string[0]=api=…")
		}
	}
	for _, words := range []string{"--cmdline 'quiet systemd.set_credential=KEY:s3cret'", "--user-device systemd.set_credential=KEY:s3cret"} {
		if r := adopt(t, cloud("", words), "nix/store/r", Options{}); !r.problems.HasErrors() || strings.Contains(strings.ReplaceAll(r.String(), string(r.draft.Text), ""), "s3cret") {
			t.Errorf("%s:\n%s", words, r)
		}
	}
	r := adopt(t, cloud("", oem), "nix/store/r", Options{Public: []string{"KEY", "BIN"}})
	if !strings.Contains(string(r.draft.Text), "\nSetCredential=KEY:s3cret\n") || !strings.Contains(string(r.draft.Text), "\nSetCredential=BIN:s3cret\n") {
		t.Errorf("by --public:\n%s", r.draft.Text)
	}
	r = adopt(t, cloud("", ""), "nix/store/r", Options{Public: []string{"KEY"}, Credentials: []string{"nothing"}, Machine: "q35", Without: []string{"serial", "balloon"}})
	if text := r.String(); !strings.Contains(text, "--machine:1: the runner's hypervisor has no types") || !strings.Contains(text, "--without:2: the runner has nothing that is called balloon") || strings.Contains(text, "--without:1") || !strings.Contains(text, "the script has no value of a credential KEY") || !strings.Contains(text, "--credential:1: not a credential with its source") {
		t.Errorf("of flags that are wrong:\n%s", text)
	}
	qemu := handmade("#!/bin/bash\nset -e\nexec /q/bin/qemu-system-x86_64 -name x -M q35 -m 512M -fw_cfg name=opt/io.systemd.credentials/KEY,string=s3cret -fw_cfg name=opt/x,string=y\n")
	if r := adopt(t, qemu, "nix/store/r", Options{}); strings.Contains(r.String(), "s3cret") {
		t.Errorf("of QEMU:\n%s", r)
	} else {
		refused(t, "of QEMU", r, "3", "the value of the credential KEY")
	}
}

// TestRefusals: each names its line.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, middle, words, line string
		o                         Options
		want                      []string
	}{
		{"a command", "mkdir -p /x\n", "", "3", Options{}, []string{"a command of the operator's", "mkdir -p /x", "--without 3"}},
		{"commands", "for i in 1 2; do\n  echo $i\ndone\n", "", "3", Options{}, []string{"--without 3-5"}},
		{"one of two commands", "mkdir -p /x\nmkdir -p /y\n", "", "4", Options{Without: []string{"3"}}, []string{"mkdir -p /y"}},
		{"a variable", "", "--serial $TTY", "4", Options{}, []string{"known only when the script runs: $TTY"}},
		{"an option", "", "--frobnicate x", "4", Options{}, []string{"--frobnicate", "--without argument[0]"}},
		{"a file for the console", "", "--serial file=/x --frobnicate", "4", Options{}, []string{"serial=file=/x", "Ampoule would start the VM with tty instead"}},
		{"a memory that is shared", "", "--memory size=1G,prefault=on", "4", Options{}, []string{"memory.prefault=yes", "--without memory.prefault"}},
		{"a disk with a limit", "", "--disk path=/d,bw_size=10", "4", Options{}, []string{"disk[0].bw_size=10"}},
		{"descriptors that nobody opens", "", "--net fd=[3],mac=02:00:00:00:00:01", "4", Options{}, []string{"descriptors that the script does not open"}},
		{"a macvtap without a link", "exec 3<>/dev/tap$(< /sys/class/net/mv/ifindex)\n", "--net fd=[3]", "5", Options{}, []string{"nothing says which interface the macvtap mv is to lie on"}},
		{"a share without a directory", "", "--fs tag=x,socket=y", "4", Options{}, []string{"nothing says which directory the share is", "share/microvm/virtiofs/x"}},
		{"credentials by any name", "ls $CREDENTIALS_DIRECTORY/*\n", "", "3", Options{Without: []string{"3"}}, []string{"reads credentials whose names it makes up"}},
		{"a credential without a source", "cat $CREDENTIALS_DIRECTORY/KEY\n", "", "3", Options{Without: []string{"3"}}, []string{"the script reads the credential KEY, and nothing says where it comes from"}},
		{"OEM strings of somebody", "X=$(cat /etc/x)\n", `--platform "oem_strings=[$X,a=b]"`, "5", Options{Without: []string{"3"}}, []string{"a=…"}},
		{"a quote in the kernel's words", "", `--cmdline 'a "b'`, "4", Options{}, []string{"a quote in the kernel's command line that does not end"}},
		{"two kernels", "", "--kernel /other", "4", Options{}, []string{"kernel=/other", "instead"}},
		{"a name that cannot be", "", "", "4", Options{Name: "a@b"}, []string{"--name NAME"}},
		{"graphics", "", "--gpu socket=x", "4", Options{}, []string{"Ampoule's guests have no graphics"}},
	} {
		refused(t, c.name, adopt(t, cloud(c.middle, c.words), "nix/store/r", c.o), c.line, c.want...)
	}
}

// TestNames with dots and dashes, and where they come from.
func TestNames(t *testing.T) {
	for name, want := range map[string]string{"web-01.example": "web-01.example", "": "test-vm"} {
		if r := adopt(t, cloud("", ""), "nix/store/r", Options{Name: name}); r.draft.Name != want || r.problems.HasErrors() {
			t.Errorf("%q: %s", name, r)
		}
	}
	tree := fstest.MapFS{"var/lib/microvms/my.vm/current/bin/microvm-run": &fstest.MapFile{Data: []byte("#!/bin/bash\nset -e\nexec /c/bin/cloud-hypervisor --kernel /k --memory size=1G --console null --serial tty --disk path=data.img\n"), Mode: 0o555}}
	r := adopt(t, tree, "var/lib/microvms/my.vm/current", Options{})
	if r.draft.Name != "my.vm" || !strings.Contains(string(r.draft.Text), "\nDisk=/var/lib/microvms/my.vm/data.img\n") {
		t.Errorf("%s", r)
	}
}

// TestOwnStateDirectory: there Ampoule makes what is missing, as the script does.
func TestOwnStateDirectory(t *testing.T) {
	tree, dir := store(t, "cloud-hypervisor-volumes")
	r := adopt(t, tree, dir, Options{StateDir: "/var/lib/ampoule/vm/volumes"})
	for _, want := range []string{"\nDisk=data.img:size=2048M,fs=ext4\n", "\nDisk=efi.img:size=64M,fs=vfat,label=EFI\n", "\nDisk=/var/lib/images/db.img:direct,serial=db-0001\n"} {
		if !strings.Contains(string(r.draft.Text), want) {
			t.Errorf("no %q in\n%s", want, r.draft.Text)
		}
	}
	if r.problems.HasErrors() {
		t.Errorf("%v", r.problems)
	}
}

// TestMachine: a device of the host needs a machine with PCI.
func TestMachine(t *testing.T) {
	for _, name := range []string{"qemu-pci", "qemu-usb", "qemu-volumes"} {
		tree, dir := store(t, name)
		if r := adopt(t, tree, dir, Options{Machine: "q35"}); r.problems.HasErrors() || !strings.Contains(string(r.draft.Text), "\nMachine=q35\n") {
			t.Errorf("%s: %s", name, r)
		}
	}
}

// TestDamagedRunners give errors, and no file.
func TestDamagedRunners(t *testing.T) {
	for name, tree := range map[string]fs.FS{
		"empty": handmade(""), "binary": handmade("\x7fELF"), "cut off": handmade("#!/bin/bash\nexec /c/bin/cloud-hypervisor 'a"), "no hypervisor": handmade("#!/bin/bash\nexec /bin/true --x\n"),
		"no file of Firecracker's": handmade("#!/bin/bash\nset -e\nexec -a microvm@x /f/bin/firecracker --api-sock x\n"),
		"JSON that is none": fstest.MapFS{
			script: &fstest.MapFile{Data: []byte("#!/bin/bash\nset -e\nexec -a microvm@x /f/bin/firecracker --config-file /j\n")}, "j": &fstest.MapFile{Data: []byte("{\"drives\":\n[")},
		},
		"nothing": fstest.MapFS{},
	} {
		r := adopt(t, tree, "nix/store/r", Options{})
		if !r.problems.HasErrors() {
			t.Errorf("%s: %s", name, r)
		}
	}
}
