package plan

import (
	"fmt"
	"math"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

const (
	// maxBytes is far above any memory or disk, and far below an overflow.
	maxBytes = 1 << 50
	// maxTimeout is the longest that fits a Go duration.
	maxTimeout Milliseconds = math.MaxInt64 / 1_000_000
)

// check refuses a plan that Ampoule never makes: whoever carries one out may
// count on all this, whoever wrote it. What only this host or the moment
// knows is judged elsewhere, at the line of a file.
func (p *Plan) check() error {
	vm := &p.VM
	if err := spec.CheckName(vm.Name); err != nil {
		return fmt.Errorf("vm.name: %w", err)
	}
	for _, f := range []func(*VM) error{checkNumbers, checkPaths, checkDisks, checkReadiness, checkCommand, checkChannels} {
		if err := f(vm); err != nil {
			return err
		}
	}
	return nil
}

func checkNumbers(vm *VM) error {
	for _, n := range []struct {
		field        string
		value        int64
		least, most  int64
		whatItCounts string
	}{
		{"vcpu", int64(vm.VCPU), 1, math.MaxInt16, "processors"},
		{"memory", vm.Memory, 1, maxBytes, "bytes"},
		{"kernel_command_line_max", int64(vm.CommandLineMax), 0, math.MaxInt32, "bytes"},
		{"stop_timeout_ms", int64(vm.StopTimeout), 0, int64(maxTimeout), "milliseconds"},
	} {
		if n.value < n.least || n.value > n.most {
			return fmt.Errorf("vm.%s: %d is not within %d and %d %s", n.field, n.value, n.least, n.most, n.whatItCounts)
		}
	}
	return nil
}

func checkPaths(vm *VM) error {
	for _, f := range []struct {
		field, path string
		optional    bool
	}{
		{"kernel", vm.Kernel, vm.Waits()}, {"initrd", vm.Initrd, true},
		{"runner", vm.Runner, true}, {"image.path", imagePath(vm), vm.Image == nil}, {"binary.path", vm.Binary.Path, true},
	} {
		if f.optional && f.path == "" {
			continue
		}
		if !path.IsAbs(f.path) || strings.IndexByte(f.path, 0) >= 0 {
			return fmt.Errorf("vm.%s: not an absolute path", f.field)
		}
	}
	return nil
}

func imagePath(vm *VM) string {
	if vm.Image == nil {
		return ""
	}
	return vm.Image.Path
}

func checkDisks(vm *VM) error {
	for i, d := range vm.Disks {
		at := fmt.Sprintf("vm.disks[%d]", i)
		switch {
		case d.Path == "" || strings.IndexByte(d.Path, 0) >= 0:
			return fmt.Errorf("%s: not a path", at)
		case !path.IsAbs(d.Path) && !filepath.IsLocal(d.Path):
			return fmt.Errorf("%s: the path leads out of the state directory", at)
		case d.Format != "raw" && d.Format != "qcow2":
			return fmt.Errorf("%s: the format is neither raw nor qcow2", at)
		case d.Size < 0 || d.Size > maxBytes:
			return fmt.Errorf("%s: a disk cannot have %d bytes", at, d.Size)
		case d.Size > 0 && path.IsAbs(d.Path):
			return fmt.Errorf("%s: disks are created in the state directory only", at)
		}
	}
	return nil
}

func checkReadiness(vm *VM) error {
	switch r := vm.Readiness; r.Mode {
	case "started":
	case "console":
		if _, err := regexp.Compile(r.Pattern); err != nil {
			return fmt.Errorf("vm.readiness: the pattern is no regular expression")
		}
		if !vm.Console {
			return fmt.Errorf("vm.readiness: it waits for a console, and the VM has none")
		}
	default:
		return fmt.Errorf("vm.readiness: this version of Ampoule knows the modes started and console")
	}
	return nil
}

// checkCommand demands that every question has its place: a credential, a
// word for the kernel or a console without one would be lost without a word.
func checkCommand(vm *VM) error {
	if vm.Control != "qmp" {
		return fmt.Errorf("vm.control: this version of Ampoule knows qmp only")
	}
	asked := map[Question]int{}
	for i, part := range vm.Command {
		at := fmt.Sprintf("vm.command[%d]", i)
		if err := checkWords(at, part.Words); err != nil {
			return err
		}
		if part.Ask == "" {
			continue
		}
		if !slices.Contains(questions(), part.Ask) {
			return fmt.Errorf("%s: a question that this version of Ampoule cannot answer", at)
		}
		descriptor := part.Ask == AskControl || part.Ask == AskConsole
		if descriptor && !strings.Contains(strings.Join(part.Words, "\n"), "{fd}") {
			return fmt.Errorf("%s: the words have no {fd} in them", at)
		}
		asked[part.Ask]++
	}
	for _, q := range questions() {
		if needed := q != AskConsole || vm.Console; needed && asked[q] != 1 || asked[q] > 1 {
			return fmt.Errorf("vm.command: the part for %q is there %d times", q, asked[q])
		}
	}
	for i, a := range vm.Accelerator {
		if err := checkWords(fmt.Sprintf("vm.accelerator[%d]", i), slices.Concat(a.Words, a.CommandLine)); err != nil {
			return err
		}
	}
	return checkWords("vm.kernel_command_line", vm.KernelCommandLine)
}

func questions() []Question {
	return []Question{AskAccelerator, AskChannel, AskCommandLine, AskControl, AskConsole, AskInitrd}
}

func checkWords(at string, words []string) error {
	for _, w := range words {
		if strings.IndexByte(w, 0) >= 0 {
			return fmt.Errorf("%s: a word with a NUL byte", at)
		}
	}
	return nil
}

func checkChannels(vm *VM) error {
	if len(vm.Credentials) > 0 && len(vm.Channels) == 0 {
		return fmt.Errorf("vm.channels: there are credentials, and no channel that takes them into the guest")
	}
	for i, c := range vm.Channels {
		at := fmt.Sprintf("vm.channels[%d]", i)
		if err := checkWords(at, slices.Concat(c.Once, c.Each, c.CommandLine)); err != nil {
			return err
		}
		if strings.IndexByte(c.Init, 0) >= 0 || c.Init != "" && !path.IsAbs(c.Init) {
			return fmt.Errorf("%s: the init is not an absolute path", at)
		}
		if min(c.MaxName, c.MaxStructure, c.MaxTotal, c.MaxCount) < 0 {
			return fmt.Errorf("%s: a limit below zero", at)
		}
		each := strings.Join(c.Each, "\n")
		switch {
		case c.Encoding == CPIO || c.Refused != "":
			// It has no words of its own: it takes the place of the initrd.
		case !strings.Contains(each, "{fd}"):
			return fmt.Errorf("%s: the words for each have no {fd} in them", at)
		case c.Encoding == Raw && !strings.Contains(each, "{name}"):
			return fmt.Errorf("%s: the words for each have no {name} in them", at)
		case c.Encoding == SMBIOS && (c.MaxStructure == 0 || c.MaxStructure > rule.SMBIOSMaxStructure || c.MaxTotal == 0):
			return fmt.Errorf("%s: structures and tables of SMBIOS have limits, at most %d bytes each", at, rule.SMBIOSMaxStructure)
		case c.Encoding != Raw && c.Encoding != SMBIOS:
			return fmt.Errorf("%s: an encoding that this version of Ampoule does not know", at)
		}
	}
	return nil
}
