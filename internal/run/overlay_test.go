package run

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/initrd"
	"github.com/ampoule-vm/ampoule/internal/inspect"
	"github.com/ampoule-vm/ampoule/internal/preflight"
)

// shimHost is a host that has this test's own program for ampoule-init: it is
// for the right processor and has its mark in it.
func shimHost(t testing.TB) host.Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "ampoule-init")); err != nil {
		t.Fatal(err)
	}
	return host.Host{Programs: []string{dir}}
}

// TestAssembleInitrd: one sealed descriptor in the place of the VM's own initial
// RAM disk, which is in it to the last byte.
func TestAssembleInitrd(t *testing.T) {
	base := filepath.Join(t.TempDir(), "initrd")
	content := bytes.Repeat([]byte("the VM's own "), 1000)
	if err := os.WriteFile(base, content, 0o600); err != nil {
		t.Fatal(err)
	}
	p := makePlan(t, "Initrd="+base, "CredentialChannel=initrd", "KernelCommandLine=quiet rdinit=/own -- rdinit=/arg")
	control, console := ends(t)
	info, err := os.Stat(base)
	if err != nil {
		t.Fatal(err)
	}
	seen := preflight.Images{Initrd: inspect.Initrd{Identity: inspect.IdentityOf(info)}}
	o, err := openOverlay(shimHost(t), base, seen)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	tcg := p.VM.Accelerator[len(p.VM.Accelerator)-1]
	c, err := assemble(p, answers{accelerator: tcg, channel: &p.VM.Channels[0], credentials: creds(t, "a", 3, "b", 5000), overlay: o, sockets: sockets{control: control, console: console}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.closeSecrets()
	line := "\n" + strings.Join(c.argv, "\n") + "\n"
	if !strings.Contains(line, "\n-initrd\n/proc/self/fd/5\n") || strings.Contains(line, base) || len(c.sealed) != 1 {
		t.Errorf("%d descriptors are sealed, and the words are\n%s", len(c.sealed), line)
	}
	if want := " console=ttyS0 panic=-1 quiet rdinit=/.ampoule/init -- rdinit=/arg\n"; !strings.Contains(line, want) {
		t.Errorf("no %q in\n%s", want, line)
	}
	data := make([]byte, c.sealed[0].Len())
	if _, err := c.sealed[0].File().ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	at := len(data) - len(content)
	if at%overlayAlign != 0 || !bytes.Equal(data[at:], content) {
		t.Errorf("at byte %d is not the VM's own initial RAM disk", at)
	}
	for _, want := range []string{".ampoule/credentials/a\x00", "SSSSS", ".ampoule/next\x00", "/own", ".ampoule/init\x00", "TRAILER!!!\x00"} {
		if i := bytes.Index(data, []byte(want)); i < 0 || i > at {
			t.Errorf("no %q in front of it", want)
		}
	}

	// It was replaced since it was looked into.
	if err := os.WriteFile(base, append(content, "more"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openOverlay(shimHost(t), base, seen); err == nil || !strings.Contains(err.Error(), "was changed while") {
		t.Errorf("%v", err)
	}
}

// TestRefuseReport has the inits that the golden cases do not.
func TestRefuseReport(t *testing.T) {
	p := makePlan(t, "Initrd=/i", "CredentialChannel=initrd")
	own := makePlan(t, "Initrd=/i", "CredentialChannel=initrd", "KernelCommandLine=rdinit=/own")
	for _, tt := range []struct {
		report initrd.Report
		want   string
		named  string // with rdinit=
	}{
		{initrd.Report{Init: initrd.Init{Path: "/init", Kind: initrd.Systemd, Executable: true}}, "", ""},
		{initrd.Report{Init: initrd.Init{Path: "/init", Kind: initrd.Systemd}}, "its init, /init, is not executable", "is not executable"},
		{initrd.Report{NotInspected: "lzo", Init: initrd.Init{Kind: initrd.Unknown}}, "compressed by lzo, into which Ampoule cannot look", "compressed by lzo"},
		{initrd.Report{Maker: "dracut", Init: initrd.Init{Path: "/init", Kind: initrd.Script, Interpreter: "/bin/sh", Executable: true}}, "made by dracut, and its init, /init, is a script for /bin/sh", ""},
		{initrd.Report{Maker: "nixos", Init: initrd.Init{Path: "/init", Resolved: "/nix/x", Kind: initrd.Script, Interpreter: "/nix/sh", Executable: true}}, "/init (/nix/x), is a script", ""},
		{initrd.Report{Maker: "mkinitcpio", Init: initrd.Init{Path: "/init", Kind: initrd.Script, Executable: true}}, "made by mkinitcpio", ""},
		{initrd.Report{Maker: "initramfs-tools", Init: initrd.Init{Path: "/init", Kind: initrd.Script, Executable: true}}, "made by initramfs-tools", "made by initramfs-tools"},
		{initrd.Report{Init: initrd.Init{Path: "/init", Kind: initrd.ELF, Executable: true}}, "its init, /init, is not systemd", ""},
	} {
		for words, want := range map[bool]string{false: tt.want, true: tt.named} {
			q := p
			if words {
				q = own
			}
			why, cure := refuseReport(q, &tt.report)
			if (why == "") != (want == "") || !strings.Contains(why, want) || (cure == "") != (why == "") {
				t.Errorf("%+v, named %v: %q, %q, want %q", tt.report, words, why, cure, want)
			}
		}
	}
}

// TestRefuseEarly: where nothing can deliver, no source is touched; a shim of
// another version is as good as none.
func TestRefuseEarly(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ampoule-init"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	only := makePlan(t, "KernelCommandLine=root=/dev/vda", "CredentialChannel=initrd", "LoadCredential=a:/nonexistent")
	r := &runner{Options: Options{Plan: only, Host: host.Host{Programs: []string{dir}}}}
	if problems := r.refuseEarly(preflight.Answers{}); !strings.Contains(problems.Error(), ": CredentialChannel=initrd: "+dir+"/ampoule-init: not a program for the guest's processor") {
		t.Errorf("%v", problems)
	}
	r.Plan = makePlan(t, "KernelCommandLine=root=/dev/vda", "LoadCredential=a:/nonexistent")
	if problems := r.refuseEarly(preflight.Answers{}); problems != nil {
		t.Errorf("with other channels: %v", problems)
	}
}

// TestRefuseMemory: the credentials and what delivers them count too.
func TestRefuseMemory(t *testing.T) {
	h := shimHost(t)
	info, err := os.Stat(filepath.Join(h.Programs[0], "ampoule-init"))
	if err != nil {
		t.Fatal(err)
	}
	p := makePlan(t, "Initrd=/i", "CredentialChannel=initrd")
	r := &runner{Options: Options{Plan: p, Host: h}}
	answers := preflight.Answers{Images: preflight.Images{Initrd: inspect.Initrd{
		Report: &initrd.Report{Init: initrd.Init{Path: "/init", Kind: initrd.Systemd, Executable: true}},
	}}}
	p.VM.Memory = 3*info.Size() + 3*1000
	if no := r.refuseImages(answers, &p.VM.Channels[0], creds(t, "a", 1000)); no != nil {
		t.Errorf("%+v", no)
	}
	p.VM.Memory--
	if no := r.refuseImages(answers, &p.VM.Channels[0], creds(t, "a", 1000)); no == nil || no.key != "Memory" {
		t.Errorf("%+v", no)
	}
}
