package spec

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
)

// UnknownGuestSystemd is the version that is assumed where GuestSystemd= says
// nothing: the oldest that takes credentials from SMBIOS.
const UnknownGuestSystemd = 252

func bootRows() []Row {
	return []Row{
		{
			Name: "Kernel", Image: true, Form: "PATH", Accepted: "accepted: the absolute path of a Linux kernel image",
			Help:    "The guest's kernel: a bzImage, or a vmlinux with a PVH note. Required, here or by the image.",
			inImage: plainPath,
			apply:   setScalar(func(vm *VM) *Setting[string] { return &vm.Kernel }, ParseAbsolutePath),
		},
		{
			Name: "Initrd", Image: true, Form: "PATH", Default: "none", Accepted: "accepted: the absolute path of an initial RAM disk",
			Help:    "The guest's initial RAM disk: a cpio archive, compressed or not. It may hold the whole root file system.",
			inImage: plainPath,
			apply:   setScalar(func(vm *VM) *Setting[string] { return &vm.Initrd }, ParseAbsolutePath),
		},
		{
			Name: "KernelCommandLine", Merge: layer.List, Image: true, Form: "WORD…",
			Accepted: "accepted: kernel parameters separated by blanks, quoted as in systemd's units",
			Help: "Words for the guest kernel's command line, after Ampoule's own, so that a later word wins where the kernel lets it. " +
				"Not for secrets: every process in the guest can read it.",
			shown: showArgs,
			apply: setWords(func(vm *VM) *[]Word { return &vm.KernelCommandLine }),
		},
		{
			Name: "MachineID", Form: "ID", Default: "the guest's own", Accepted: "accepted: 32 hexadecimal digits or a UUID, not all zeros",
			Help:  "The guest's machine-id(5), where its /etc/machine-id is not set already. It is not secret.",
			apply: setScalar(func(vm *VM) *Setting[string] { return &vm.MachineID }, ParseMachineID),
		},
		{
			Name: "GuestSystemd", Image: true, Form: "VERSION", Default: "unknown, which counts as 252",
			Accepted: "accepted: a whole number, 252 or more",
			Help: "The version of systemd in the guest. Below 257 a guest reads only 4096 bytes of an SMBIOS structure, so that larger credentials must take another channel; " +
				"say the version where it is newer.",
			apply: setScalar(func(vm *VM) *Setting[int] { return &vm.GuestSystemd }, func(s string) (int, error) { return ParseInt(s, 252, 9999) }),
		},
	}
}

// checkKernel demands the one key that has no default.
func (r *reader) checkKernel(resolved *layer.Resolved) {
	g := resolved.Group(Section, "Kernel")
	if r.counts["Kernel"] > 0 || r.Incomplete || r.Later && g == nil {
		return
	}
	at, what := r.Main, "the kernel is missing"
	if g != nil { // then the last of its assignments cleared it
		at, what = g.Entries[len(g.Entries)-1].Origin, "this leaves no kernel, and there is no default"
	}
	image := resolved.Group(Section, "Image")
	cleared := image != nil && image.Entries[len(image.Entries)-1].Fate == layer.Clears
	switch {
	case g != nil:
	case r.vm.Image.Set:
		r.problems.Add(r.vm.ImageError("accepted: Kernel= in the image's "+ImageFile+", or in a file of the host", "no kernel: neither this image nor a file of the host has Kernel="))
		return
	case cleared:
		at, what = image.Entries[len(image.Entries)-1].Origin, "this leaves no image, and there is no kernel without it"
	}
	r.problems.Errorf(at, "Kernel", "", "accepted: the absolute path of a Linux kernel image, such as Kernel=/boot/vmlinuz", "%s", what)
}

// checkCommandLine refuses parameters that set what a key or the credential
// channel sets, and those that make the guest ignore its credentials.
func (r *reader) checkCommandLine() {
	carried := r.vm.carried()
	for _, w := range r.vm.KernelCommandLine {
		name, _, _ := strings.Cut(w.Text, "=")
		at := w.From
		at.Shown = name
		if strings.Contains(w.Text, "=") {
			at.Shown = name + "=" + diag.Elided
		}
		// To systemd "-" and "_" are one, and it knows its parameters with the
		// prefix of the initial RAM disk too.
		name = strings.TrimPrefix(strings.ReplaceAll(name, "-", "_"), "rd.")
		switch {
		case !kernelTakes(w.Text):
			at.Errorf(r.problems, "accepted: words without double quotes and control characters", "the kernel cannot take this word as it is")
		case strings.IndexByte(w.Text, 0xA0) >= 0:
			at.Errorf(r.problems, "accepted: words of ASCII characters", "to the kernel a byte of this word, 0xa0, is a blank at which it cuts")
		case strings.HasPrefix(name, "systemd.set_credential"):
			at.Errorf(r.problems, "use SetCredential=, or LoadCredential= for a secret",
				"credentials do not travel on the kernel command line, which every process in the guest can read")
		case name == "CREDENTIALS_DIRECTORY", name == "ENCRYPTED_CREDENTIALS_DIRECTORY":
			at.Errorf(r.problems, "remove it", "with this variable the guest's systemd ignores every credential of the VM")
		case name == "systemd.import_credentials" && len(carried) > 0:
			what := "the credentials"
			if len(r.vm.Credentials) == 0 {
				what = carried[0].Key + "="
			}
			at.Errorf(r.problems, "remove it, or "+what, "this parameter decides whether the guest takes its credentials (%s)", carried[0].Origin)
		case name == "systemd.machine_id":
			at.Errorf(r.problems, "use MachineID=", "this is what MachineID= sets")
		case name == "initrd":
			at.Errorf(r.problems, "use Initrd=", "this is what Initrd= sets")
		}
	}
}

// kernelTakes reports whether a word arrives whole. The kernel ends no quote by
// an escape, and all of ASCII's white space is a blank to it.
func kernelTakes(word string) bool {
	for _, r := range word {
		if r == '"' || r == 0x7f || r < ' ' && r != '\t' {
			return false
		}
	}
	return true
}

// JoinCommandLine writes words as the kernel splits them: a word with a blank
// is quoted after its "=", as the kernel's own parser wants it.
func JoinCommandLine(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if strings.ContainsAny(w, " \t") {
			if name, value, ok := strings.Cut(w, "="); ok && !strings.ContainsAny(name, " \t") {
				quoted[i] = fmt.Sprintf(`%s="%s"`, name, value)
			} else {
				quoted[i] = `"` + w + `"`
			}
		}
	}
	return strings.Join(quoted, " ")
}
