// Package spec is the typed virtual machine: what a .microvm file means.
//
// One file per feature holds its fields, its rows of the key table and its
// checks. A row (see [Row]) is the only place where a key is known: parser,
// completion, manual page and the rule whether an image may set the key come
// from it. Every field knows the line it came from, so that a refusal far
// behind this package still names file and line.
//
// The package is pure: it reads no file and knows no hypervisor and no host.
package spec

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
)

// Section is the section of a .microvm file that is ours.
const Section = "MicroVM"

// From is the assignment behind a value. The zero value is a built-in default.
type From struct {
	Origin diag.Origin
	// Key and Shown are the assignment for messages; Shown holds no secret.
	Key, Shown string
	// ID names the assignment within a VM: the key, and for lists its index.
	ID string
}

// Errorf reports an error at the assignment.
func (f From) Errorf(l *diag.List, accepted, format string, args ...any) {
	l.Errorf(f.Origin, f.Key, f.Shown, accepted, format, args...)
}

// Warnf reports a warning at the assignment.
func (f From) Warnf(l *diag.List, accepted, format string, args ...any) {
	l.Add(diag.Problem{Origin: f.Origin, Severity: diag.Warning, Key: f.Key, Value: f.Shown, Accepted: accepted, What: fmt.Sprintf(format, args...)})
}

// Setting is a scalar with the assignment that gave it.
type Setting[T any] struct {
	Value T
	Set   bool
	From  From
}

// Word is one word of a list of words.
type Word struct {
	Text string
	From From
}

// VM is a virtual machine as its files describe it.
type VM struct {
	Identity Identity
	// Main is where a problem of the VM as a whole is reported: the header of
	// [MicroVM] in the main file.
	Main diag.Origin

	// Image is a directory in which the guest brings its defaults.
	Image Setting[string]

	Hypervisor     Setting[string]
	HypervisorPath Setting[string]
	HypervisorArgs []Word
	Accelerator    Setting[string]
	Machine        Setting[string]

	VCPU        Setting[int]
	CPUTopology Setting[CPUTopology]
	Memory      Setting[int64]
	// HugePages is the size of the host's pages that the memory is made of, in
	// bytes; 0: of ordinary ones.
	HugePages Setting[int64]
	// MemoryHotplug is how much can be added to Memory, in bytes, while the guest
	// runs; with a Balloon some of it can be taken.
	MemoryHotplug Setting[int64]
	Balloon       Setting[bool]
	Watchdog      Setting[bool]

	Kernel            Setting[string]
	Initrd            Setting[string]
	KernelCommandLine []Word
	MachineID         Setting[string]
	GuestSystemd      Setting[int]

	Disks   []Disk
	Devices []Device
	Shares  []Share

	Console   Setting[string]
	Readiness Setting[Readiness]

	// VSockCID is AnyCID for auto; if it is not set, there is no vsock.
	VSockCID Setting[int64]
	// SSH is EphemeralKey or "no".
	SSH Setting[string]

	Networks []Network
	Ports    []Ports

	Credentials       []Credential
	CredentialChannel Setting[string]

	Runner Setting[string]

	// RestartIfChanged is for ampoule apply alone.
	RestartIfChanged Setting[bool]

	// Service are the live assignments of [Service], and those that clear, in
	// order; they pass through to the unit. StopTimeout is its TimeoutStopSec=, 0 for infinity.
	Service     []layer.Entry
	StopTimeout Setting[time.Duration]
	// ServiceCredentials are the credentials that [Service] loads, which
	// Credential= passes on when the VM is run by hand.
	ServiceCredentials []Credential
	// Install are the links that [Install] asks for, sorted.
	Install []Link
}

// DefaultStopTimeout is the time between power button and kill.
const DefaultStopTimeout = 60 * time.Second

// Readiness says when the VM counts as started.
type Readiness struct {
	// Mode is "auto", "started", "guest" or "console".
	Mode string
	// Pattern is the regular expression of console:REGEX.
	Pattern string
}

// String returns the value as it is written in a file.
func (r Readiness) String() string {
	if r.Mode == "console" {
		return "console:" + r.Pattern
	}
	return r.Mode
}

// Context is what reading needs beside the files.
type Context struct {
	Identity Identity
	// Main is the origin of the VM as a whole.
	Main diag.Origin
	// Incomplete: lines of the main file are not among the assignments, so that
	// what seems to be missing may be written there.
	Incomplete bool
	// Image is the directory to which lines of the layer ImageLayer are relative.
	// Later: it is not there yet, and what is missing may stand in it.
	Image string
	Later bool
	// Hypervisors are the names of the drivers, the default first.
	Hypervisors []string
}

// reader carries one VM through its rows.
type reader struct {
	Context
	vm       *VM
	problems *diag.List
	resolved *layer.Resolved
	// counts numbers the effective assignments of each key.
	counts map[string]int
}

// Read turns resolved assignments into a VM. All mistakes are in the list; the
// VM is whole only if the list holds no error.
func Read(ctx Context, resolved *layer.Resolved) (*VM, diag.List) {
	var problems diag.List
	r := &reader{Context: ctx, vm: defaults(ctx), problems: &problems, resolved: resolved, counts: map[string]int{}}
	r.checkNames(resolved)
	for i := range table {
		row := &table[i]
		for e := range resolved.Group(Section, row.List()).Live() {
			if e.Key == row.Name {
				r.read(row, e)
			}
		}
	}
	r.readService(resolved)
	r.readInstall(resolved)
	r.checkKernel(resolved)
	r.checkNetworks(resolved)
	r.check()
	problems.Sort()
	return r.vm, problems
}

func defaults(ctx Context) *VM {
	return &VM{
		Identity:          ctx.Identity,
		Main:              ctx.Main,
		Hypervisor:        Setting[string]{Value: ctx.Hypervisors[0]},
		Accelerator:       Setting[string]{Value: "auto"},
		VCPU:              Setting[int]{Value: 1},
		Memory:            Setting[int64]{Value: 512 << 20},
		GuestSystemd:      Setting[int]{Value: UnknownGuestSystemd},
		Console:           Setting[string]{Value: "auto"},
		Readiness:         Setting[Readiness]{Value: Readiness{Mode: "auto"}},
		CredentialChannel: Setting[string]{Value: "auto"},
		SSH:               Setting[string]{Value: "no"},
		RestartIfChanged:  Setting[bool]{Value: true},
		StopTimeout:       Setting[time.Duration]{Value: DefaultStopTimeout},
	}
}

// read hands one assignment to its row.
func (r *reader) read(row *Row, e *layer.Entry) {
	from := From{Origin: e.Origin, Key: e.Key, Shown: showJoined(e.Assignment, row.show(e.Value)), ID: e.Key}
	if row.Merge != layer.Scalar {
		from.ID = e.Key + "[" + strconv.Itoa(r.counts[e.Key]) + "]"
	}
	r.counts[e.Key]++
	value := e.Value
	if e.Origin.Layer == ImageLayer {
		value = r.inImage(row, value)
	}
	if err := row.apply(r, value, from); err != nil {
		r.refuse(from, err, r.accepted(row))
	}
}

// refuse reports what is wrong with the value of an assignment.
func (r *reader) refuse(from From, err error, accepted string) {
	if bad, ok := errors.AsType[*valueError](err); ok {
		from.Errorf(r.problems, bad.accepted, "%s", bad.what)
		return
	}
	from.Errorf(r.problems, accepted, "%v", err)
}

// valueError is a mistake in a part of a value, for which something else would
// be accepted than for the value as a whole.
type valueError struct{ what, accepted string }

func (e *valueError) Error() string { return e.what + "; " + e.accepted }

// accepted is the row's, except where only the caller knows the words.
func (r *reader) accepted(row *Row) string {
	if row.Name == "Hypervisor" {
		return "accepted: " + list(r.Hypervisors)
	}
	return row.Accepted
}

// setScalar builds the apply function of a scalar: expand specifiers, parse,
// store with its origin.
func setScalar[T any](field func(*VM) *Setting[T], parse func(string) (T, error)) func(*reader, string, From) error {
	return func(r *reader, value string, from From) error {
		expanded, err := r.Identity.Expand(value)
		if err != nil {
			return err
		}
		v, err := parse(expanded)
		if err != nil {
			return err
		}
		*field(r.vm) = Setting[T]{Value: v, Set: true, From: from}
		return nil
	}
}

// check holds what concerns more than one key.
func (r *reader) check() {
	r.checkReadiness()
	r.checkImage()
	r.checkMemory()
	r.checkDisks()
	r.checkShares()
	r.checkCredentials()
	r.checkSSH()
	r.checkGiven()
	r.checkCommandLine()
}
