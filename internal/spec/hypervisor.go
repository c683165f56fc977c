package spec

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

func hypervisorRows() []Row {
	return []Row{
		{
			Name: "Hypervisor", Form: "NAME", Default: "qemu", Accepted: "accepted: the name of a hypervisor",
			Help: "The program that runs the VM. qemu is told of it by its command line, cloud-hypervisor and firecracker by their APIs.",
			apply: func(r *reader, value string, from From) error {
				set := setScalar(func(vm *VM) *Setting[string] { return &vm.Hypervisor },
					func(s string) (string, error) { return ParseWordOf(s, r.Hypervisors...) })
				if err := set(r, value, from); err != nil {
					return fmt.Errorf("no such hypervisor in this version of Ampoule")
				}
				return nil
			},
		},
		{
			Name: "HypervisorPath", Form: "PATH", Default: "the first of the hypervisor's usual names in $PATH",
			Accepted: "accepted: the absolute path of an executable file",
			Help:     "The hypervisor's binary.",
			apply:    setScalar(func(vm *VM) *Setting[string] { return &vm.HypervisorPath }, ParseAbsolutePath),
		},
		{
			Name: "HypervisorArgs", Merge: layer.List, Form: "WORD…",
			Accepted: "accepted: words separated by blanks, quoted as in systemd's units",
			Help: "Words that are appended to the hypervisor's command line as they are. What another key or the credential channel sets is refused here. " +
				"Not for secrets: every user of the host can read a command line.",
			shown: showArgs,
			apply: setWords(func(vm *VM) *[]Word { return &vm.HypervisorArgs }),
		},
		{
			Name: "Accelerator", Form: "auto|kvm|tcg", Default: "auto", Words: []string{"auto", "kvm", "tcg"},
			Accepted: "accepted: auto, kvm, tcg",
			Help: "auto takes KVM where it is truly usable (/dev/kvm opens for reading and writing and the processor has vmx or svm), and emulation with a warning elsewhere. " +
				"kvm refuses to start without it. tcg always emulates.",
			apply: setScalar(func(vm *VM) *Setting[string] { return &vm.Accelerator },
				func(s string) (string, error) { return ParseWordOf(s, "auto", "kvm", "tcg") }),
		},
		{
			Name: "Machine", Image: true, Form: "TYPE", Default: "q35 for qemu", Words: []string{"q35", "microvm"},
			Accepted: "accepted: a machine type of the hypervisor; qemu has q35 and microvm",
			Help: "The hypervisor's machine type; only qemu has several. For qemu: q35, a PC with PCI, ACPI and SMBIOS, or microvm, a minimal machine without PCI and without SMBIOS, " +
				"whose credentials travel by fw_cfg.",
			apply: setScalar(func(vm *VM) *Setting[string] { return &vm.Machine }, parseToken),
		},
	}
}

// parseToken accepts one word without blanks or commas; which words there are
// is for the driver to say.
func parseToken(s string) (string, error) {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return "", fmt.Errorf("not a single word")
	}
	return s, nil
}

// setWords builds the apply function of a list of words.
func setWords(field func(*VM) *[]Word) func(*reader, string, From) error {
	return func(r *reader, value string, from From) error {
		words, err := unitfile.SplitWords(value)
		if err != nil {
			return err
		}
		for _, w := range words {
			expanded, err := r.Identity.Expand(w)
			if err != nil {
				return err
			}
			if strings.IndexByte(expanded, 0) >= 0 {
				return fmt.Errorf("a command line cannot hold a NUL byte")
			}
			if !utf8.ValidString(expanded) {
				return fmt.Errorf("a word is not valid UTF-8 once its escapes are undone")
			}
			*field(r.vm) = append(*field(r.vm), Word{Text: expanded, From: from})
		}
		return nil
	}
}

// showArgs keeps the beginning of a list of words, up to the first that gives
// something a value: what follows may be a password.
func showArgs(value string) string {
	lower := strings.ToLower(value)
	end := len(value)
	for _, mark := range []string{"=", "credential", "pass", "secret", "token"} {
		if i := strings.Index(lower, mark); i >= 0 {
			end = min(end, i+len(mark))
		}
	}
	if end < len(value) {
		return value[:end] + diag.Elided
	}
	return value
}

func runnerRows() []Row {
	return []Row{{
		Name: "Runner", Image: true, Form: "PATH",
		Accepted: "accepted: the absolute path of an executable file",
		Help: "A program of yours that is started instead of the hypervisor, with the plan on the descriptor path in $AMPOULE_PLAN and the credentials in $CREDENTIALS_DIRECTORY. " +
			"It runs, or executes, ampoule boot, which carries out that plan.",
		inImage: plainPath,
		apply:   setScalar(func(vm *VM) *Setting[string] { return &vm.Runner }, ParseAbsolutePath),
	}}
}
