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
	for _, f := range []func(*VM) error{checkNumbers, checkPaths, checkDisks, checkShares, checkDevices, checkReadiness, checkVSock, checkNetworks, checkControl, checkResize, checkCommand, checkChannels, checkGiven} {
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
	if t := vm.Topology; t != nil && (min(t.Sockets, t.Cores, t.Threads) < 1 || max(t.Sockets, t.Cores, t.Threads) > math.MaxInt16 || t.Sockets*t.Cores*t.Threads != vm.VCPU) {
		return fmt.Errorf("vm.cpu_topology: it does not come to %d processors", vm.VCPU)
	}
	if p := vm.HugePages; p != 0 && (p != spec.HugePage2M && p != spec.HugePage1G || vm.Memory%p != 0) {
		return fmt.Errorf("vm.huge_pages: not a size of huge pages, or the memory is no multiple of it")
	}
	return nil
}

func checkResize(vm *VM) error { return vm.Resize.check(vm) }

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
		case !slices.Contains(spec.DiskFormats(), d.Format):
			return fmt.Errorf("%s: the format is none of %s", at, strings.Join(spec.DiskFormats(), ", "))
		case d.Size < 0 || d.Size > maxBytes:
			return fmt.Errorf("%s: a disk cannot have %d bytes", at, d.Size)
		case d.Size > 0 && path.IsAbs(d.Path):
			return fmt.Errorf("%s: disks are created in the state directory only", at)
		case d.FileSystem == "" && d.Label == "":
			continue
		case d.Size == 0 || d.Format != spec.Raw:
			return fmt.Errorf("%s: a file system is made on new raw disks only", at)
		}
		f, ok := spec.FindFileSystem(d.FileSystem)
		if !ok || len(d.Label) > f.MaxLabel || strings.HasPrefix(d.Label, "-") || strings.IndexByte(d.Label, 0) >= 0 {
			return fmt.Errorf("%s: no file system that a disk can be given, or no label of it", at)
		}
	}
	return nil
}

func checkDevices(vm *VM) error {
	for i, d := range vm.Devices {
		if err := spec.CheckDevice(d.Bus, d.Address); err != nil {
			return fmt.Errorf("vm.devices[%d]: %w", i, err)
		}
	}
	return nil
}

func checkReadiness(vm *VM) error {
	switch r := vm.Readiness; r.Mode {
	case "started":
	case "guest":
		if vm.VSock == nil {
			return fmt.Errorf("vm.readiness: it waits for the guest's word, and the VM has no vsock")
		}
	case "console":
		if err := checkPattern("vm.readiness", r.Pattern); err != nil {
			return err
		}
		if !vm.Console {
			return fmt.Errorf("vm.readiness: it waits for a console, and the VM has none")
		}
	default:
		return fmt.Errorf("vm.readiness: this version of Ampoule knows the modes started, guest and console")
	}
	return nil
}

func checkPattern(at, pattern string) error {
	if _, err := regexp.Compile(pattern); err != nil {
		return fmt.Errorf("%s: the pattern is no regular expression", at)
	}
	return nil
}

// checkVSock refuses numbers that are not a guest's: those up to 2 are the
// hypervisor's, the loopback's and the host's, and the last is any.
func checkVSock(vm *VM) error {
	if v := vm.VSock; v != nil && v.CID != 0 && (v.CID < 3 || v.CID >= math.MaxUint32) {
		return fmt.Errorf("vm.vsock: %d is not the number of a guest", v.CID)
	}
	return nil
}

func checkControl(vm *VM) error {
	switch {
	case vm.Control != QMP && vm.Control != HTTP:
		return fmt.Errorf("vm.control: this version of Ampoule knows %s and %s only", QMP, HTTP)
	case (vm.Control == HTTP) != (vm.API != nil):
		return fmt.Errorf("vm.api: requests go over %s, and over nothing else", HTTP)
	case vm.API != nil:
		return vm.API.check()
	}
	return nil
}

// checkCommand demands that every question has its place: a credential, a
// word for the kernel or a console without one would be lost without a word.
func checkCommand(vm *VM) error {
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
		if err := checkDescriptor(vm, part); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		asked[part.Ask]++
	}
	if vm.API != nil {
		for _, r := range vm.API.Start {
			for _, f := range r.Body {
				asked[f.Ask]++
			}
		}
	}
	if n := asked[AskConsole] + asked[AskStdio]; vm.Console && n != 1 || n > 1 {
		return fmt.Errorf("vm.command: the part for the console is there %d times", n)
	}
	for _, q := range []Question{AskAccelerator, AskChannel, AskCommandLine, AskControl, AskInitrd} {
		if asked[q] != 1 {
			return fmt.Errorf("vm.command: the part for %q is there %d times", q, asked[q])
		}
	}
	if vm.VSock != nil && asked[AskVSock] != 1 {
		return fmt.Errorf("vm.command: the part for %q is there %d times", AskVSock, asked[AskVSock])
	}
	if err := checkHandedOver(vm); err != nil {
		return err
	}
	for i, a := range vm.Accelerator {
		if err := checkWords(fmt.Sprintf("vm.accelerator[%d]", i), slices.Concat(a.Words, a.CommandLine)); err != nil {
			return err
		}
	}
	return checkWords("vm.kernel_command_line", vm.KernelCommandLine)
}

// checkDescriptor demands the place of what is inherited.
func checkDescriptor(vm *VM, part Part) error {
	words := strings.Join(part.Words, "\n")
	switch part.Ask {
	case AskConsole, AskEvents:
	case AskControl:
		if vm.Control == HTTP && strings.Contains(words, "{path}") {
			return nil
		}
	case AskVSock:
		if vm.VSock != nil && vm.VSock.Multiplexed {
			if !strings.Contains(words, "{path}") {
				return fmt.Errorf("the words have no {path} in them")
			}
			return nil
		}
		if !strings.Contains(words, "{cid}") {
			return fmt.Errorf("the words have no {cid} in them")
		}
	case AskNetwork:
		return checkNetworkWords(vm, part)
	case AskStdio:
		if words != "" {
			return fmt.Errorf("words where none belong")
		}
		return nil
	default:
		return nil
	}
	if !strings.Contains(words, "{fd}") {
		return fmt.Errorf("the words have no {fd} in them")
	}
	return nil
}

func questions() []Question {
	return []Question{AskAccelerator, AskChannel, AskCommandLine, AskControl, AskConsole, AskStdio, AskEvents, AskVSock, AskNetwork, AskInitrd}
}

func checkWords(at string, words []string) error {
	for _, w := range words {
		if strings.IndexByte(w, 0) >= 0 {
			return fmt.Errorf("%s: a word with a NUL byte", at)
		}
	}
	return nil
}

// checkGiven refuses names that a guest could not take apart.
func checkGiven(vm *VM) error {
	names := map[string]bool{NotifyCredential: vm.VSock != nil}
	for i, g := range vm.Given {
		if err := rule.Name(g.Name); err != nil {
			return fmt.Errorf("vm.given[%d]: %w", i, err)
		}
		switch {
		case names[g.Name]:
			return fmt.Errorf("vm.given[%d]: a second credential of this name", i)
		case g.Ask != "" && g.Ask != AskSSHKey:
			return fmt.Errorf("vm.given[%d]: a question that this version of Ampoule cannot answer", i)
		case (g.Ask == "") != (g.Value != ""):
			return fmt.Errorf("vm.given[%d]: it has a value or waits for one", i)
		case g.Ask == AskSSHKey && vm.VSock == nil:
			return fmt.Errorf("vm.given[%d]: a key for a vsock, and the VM has none", i)
		}
		names[g.Name] = true
	}
	return nil
}

func checkChannels(vm *VM) error {
	if vm.Carries() && len(vm.Channels) == 0 {
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
		case c.Encoding == OEMStrings && (len(c.Each) > 0 || !vm.API.asks(AskChannel)):
			return fmt.Errorf("%s: its strings go into the body of a request", at)
		case c.Encoding == OEMStrings && (c.MaxStructure == 0 || c.MaxStructure > rule.SMBIOSMaxStructure || c.MaxCount == 0):
			return fmt.Errorf("%s: structures of SMBIOS have limits, at most %d bytes each", at, rule.SMBIOSMaxStructure)
		case c.Encoding == OEMStrings:
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
