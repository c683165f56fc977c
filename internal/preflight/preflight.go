// Package preflight judges a plan on this host before anything starts: files
// that are missing or of the wrong kind, memory that is not there, a
// hypervisor that is absent. It answers the plan's questions that the host
// alone can answer. It reads, and changes nothing.
package preflight

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/inspect"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Answers are what the host says to a plan's questions.
type Answers struct {
	// Binary is the absolute path of the hypervisor.
	Binary      string
	Accelerator plan.Accelerator
	// Emulated says why the guest is emulated although nobody asked for it;
	// empty otherwise.
	Emulated string
	// Images is what the files tell that the guest boots from.
	Images Images
}

// judge collects problems about one plan.
type judge struct {
	plan *plan.Plan
	host host.Host
	Places
	images   Images
	problems diag.List
}

// Places are the VM's own on this host.
type Places struct {
	// State is the directory in which relative disks lie; it need not exist.
	// Empty: the VM has none.
	State string
	// Running: the VM runs, so that its disks are in its own use.
	Running bool
	// Seen remembers what was seen in files.
	Seen inspect.Memory
	// Slow is called with a path if looking into it takes more than a second;
	// it may be nil.
	Slow func(path string)
}

// Judge checks the plan against the host. When ctx ends it stops looking into
// files, and what it returns is an error.
func Judge(ctx context.Context, p *plan.Plan, h host.Host, places Places) (Answers, diag.List) {
	j := &judge{plan: p, host: h, Places: places}
	var a Answers
	a.Binary = j.binary()
	a.Accelerator, a.Emulated = j.accelerator()
	j.boot(ctx)
	a.Images = j.images
	j.memory()
	j.commandLine(a.Accelerator)
	j.disks()
	j.devices()
	j.vsock()
	j.runner()
	j.problems.Sort()
	return a, j.problems
}

// fail reports an error at the assignment with that id, or, for a default, at
// the VM as a whole.
func (j *judge) fail(id, value, accepted, format string, args ...any) {
	j.problems.Errorf(j.plan.Origin(id), plan.KeyOf(id), value, accepted, format, args...)
}

// warn reports what stops nothing.
func (j *judge) warn(key, value, what string) {
	j.problems.Add(diag.Problem{Origin: j.plan.Origin(key), Severity: diag.Warning, Key: key, Value: value, What: what})
}

func (j *judge) binary() string {
	b := j.plan.VM.Binary
	if b.Path != "" {
		if err := host.CheckExecutable(b.Path); err != nil {
			j.fail("HypervisorPath", b.Path, "accepted: the absolute path of an executable file", "the hypervisor cannot be started: %v", err)
		}
		return b.Path
	}
	path, ok := j.host.FindBinary(b.Search)
	if !ok {
		j.fail("Hypervisor", j.plan.VM.Hypervisor, "install it, or name it with HypervisorPath=",
			"the hypervisor is absent: none of %s is in $PATH (%s)", strings.Join(b.Search, ", "), j.host.Path)
	}
	return path
}

func (j *judge) accelerator() (answer plan.Accelerator, emulated string) {
	choices := j.plan.VM.Accelerator
	usable, why := j.host.KVMUsable()
	for _, c := range choices {
		if c.Name != "kvm" || usable {
			if !usable && len(choices) > 1 {
				emulated = why
			}
			return c, emulated
		}
	}
	why = cmp.Or(why, "the plan does not name it")
	if _, asked := j.plan.Origins["Accelerator"]; asked {
		j.fail("Accelerator", "kvm", "accepted: auto or tcg, which emulate the processor, with a hypervisor that can", "KVM is not usable here: %s", why)
	} else { // it is the hypervisor that has nothing else
		j.fail("Hypervisor", j.plan.VM.Hypervisor, "accepted: a hypervisor that can emulate the processor", "it needs KVM, which is not usable here: %s", why)
	}
	return plan.Accelerator{}, ""
}

// vsock asks for the kernel's, where it is that which connects the guest.
func (j *judge) vsock() {
	v := j.plan.VM.VSock
	if v == nil || v.Multiplexed {
		return
	}
	if ok, why, cure := j.host.VSockUsable(); !ok {
		value := "auto"
		if v.CID != 0 {
			value = strconv.FormatInt(v.CID, 10)
		}
		j.fail("VSockCID", value, cure, "this host's kernel connects no guests by vsock: %s", why)
	}
}

// commandLine judges the kernel's command line, by itself and with what the
// accelerator adds.
func (j *judge) commandLine(a plan.Accelerator) {
	most := j.plan.VM.CommandLineMax
	fits := func(words []string, with string) bool {
		n := len(spec.JoinCommandLine(words))
		if most == 0 || n <= most {
			return true
		}
		j.fail("KernelCommandLine[0]", diag.Elided, fmt.Sprintf("accepted: at most %d bytes", most),
			"the kernel's command line has %d bytes%s, and the kernel would cut it", n, with)
		return false
	}
	if !fits(j.plan.VM.KernelCommandLine, "") {
		return
	}
	if len(a.CommandLine) > 0 {
		fits(slices.Concat(longest(a), j.plan.VM.KernelCommandLine), " with the words that Accelerator="+a.Name+" needs")
	}
	if j.plan.VM.VSock != nil && !j.plan.VM.Carries() {
		fits(slices.Concat(longest(a), []string{plan.NotifyParameter + plan.NotifyRoom}, j.plan.VM.KernelCommandLine), " with where the guest says that it is ready")
	}
}

// longest returns the accelerator's words for the kernel, as long as they can
// become: no counter is faster than 100 GHz.
func longest(a plan.Accelerator) []string {
	var words []string
	for _, w := range a.CommandLine {
		words = append(words, strings.ReplaceAll(w, "{tsc_khz}", "100000000"))
	}
	return words
}

// CommandLineBytes is how long the kernel's command line becomes, at most, with
// what accelerator and channel add.
func CommandLineBytes(p *plan.Plan, a plan.Accelerator, c *plan.Channel) int {
	return len(spec.JoinCommandLine(slices.Concat(longest(a), c.KernelWords(p.VM.KernelCommandLine))))
}

// RoundUp returns the next multiple of a MiB.
func RoundUp(n int64) int64 { return (n + 1<<20 - 1) &^ (1<<20 - 1) }

func (j *judge) runner() {
	if r := j.plan.VM.Runner; r != "" {
		if err := host.CheckExecutable(r); err != nil {
			j.fail("Runner", r, "accepted: the absolute path of an executable file", "%v", err)
		}
	}
}
