// Package plan is what Ampoule decided about a virtual machine: plain,
// printable, comparable data, frozen before anything starts.
//
// A plan is a function of the files, the architecture and Ampoule's version
// alone. What only the host or the moment knows (is KVM usable, which channel
// do the credentials fit) stands in it as a question with all its answers;
// ampoule run picks one at start. No secret is in a plan, no closure, no
// pointer to anything outside.
package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Schema is the version of the plan's form. Run reads this one and the
// previous, and refuses any other.
const Schema = 1

// MaxBytes is the largest plan: systemd 257 hands credentials to its executor
// on one line of at most 1 MiB in Base64 (docs/measured.md).
const MaxBytes = 512 << 10

// Plan is a virtual machine, decided.
type Plan struct {
	Schema int `json:"schema"`
	// Ampoule is the version that made the plan; it is in neither digest.
	Ampoule string `json:"ampoule"`
	Digest  Digest `json:"digest"`
	VM      VM     `json:"vm"`
	// Unit is what of the unit needs a restart when it changes.
	Unit Unit `json:"unit"`
	// Origins says for each assignment, by its key or KEY[INDEX], where it was
	// written. They travel with the plan and are in neither digest.
	Origins map[string]diag.Origin `json:"origins"`
}

// Digest are "sha256:" and 64 hexadecimal digits each.
type Digest struct {
	// VM covers all that reaches hypervisor and guest: Plan.VM without From and
	// Why.
	VM string `json:"vm"`
	// Unit covers Service and Credentials of Plan.Unit, without From.
	Unit string `json:"unit"`
}

// Unit is the part of a plan that reaches the service and not the guest.
type Unit struct {
	// Service holds the [Service] assignments whose change needs a restart, those
	// that clear included.
	Service []Assignment `json:"service"`
	// Resources holds those of resource control, which most versions of systemd
	// apply to a running service at daemon-reload; they are in no digest.
	Resources []Assignment `json:"resources,omitempty"`
	// KeepRunning: ampoule apply does not restart the VM; it is in no digest.
	KeepRunning bool `json:"keep_running,omitempty"`
	// Credentials are those that [Service] loads, read out of its lines.
	Credentials []Credential `json:"credentials"`
}

// Assignment is a line of [Service].
type Assignment struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	From  string `json:"from,omitempty"`
}

// VM is all that reaches the hypervisor and the guest.
type VM struct {
	Name         string `json:"name"`
	Architecture string `json:"architecture"`
	Hypervisor   string `json:"hypervisor"`
	Binary       Binary `json:"binary"`
	Machine      string `json:"machine"`
	VCPU         int    `json:"vcpu"`
	// Topology is how the processors are put together; nil: as the hypervisor
	// does by itself.
	Topology *Topology `json:"cpu_topology,omitempty"`
	// Memory is in bytes, and so is HugePages, the size of the host's pages that it
	// is made of; 0: of ordinary ones.
	Memory    int64 `json:"memory"`
	HugePages int64 `json:"huge_pages,omitempty"`
	// MemoryHotplug is how much can be added while the guest runs, in bytes; with a
	// Balloon some can be taken. Resize says how.
	MemoryHotplug     int64        `json:"memory_hotplug,omitempty"`
	Balloon           bool         `json:"balloon,omitempty"`
	Resize            *Resize      `json:"resize,omitempty"`
	Watchdog          bool         `json:"watchdog,omitempty"`
	Kernel            string       `json:"kernel"`
	Initrd            string       `json:"initrd,omitempty"`
	KernelCommandLine []string     `json:"kernel_command_line"`
	CommandLineMax    int          `json:"kernel_command_line_max"`
	Disks             []Disk       `json:"disks"`
	Devices           []Device     `json:"devices,omitempty"`
	Shares            []Share      `json:"shares,omitempty"`
	Console           bool         `json:"console"`
	MachineID         string       `json:"machine_id,omitempty"`
	GuestSystemd      int          `json:"guest_systemd"`
	Readiness         Readiness    `json:"readiness"`
	StopTimeout       Milliseconds `json:"stop_timeout_ms"`
	Runner            string       `json:"runner,omitempty"`
	Credentials       []Credential `json:"credentials"`
	// Given are credentials that Ampoule itself gives the guest, by the same
	// channel.
	Given []Given `json:"given,omitempty"`
	// VSock is the guest's socket to this host; nil where it has none.
	VSock *VSock `json:"vsock,omitempty"`
	// Networks are the guest's, in its order, and Ports those of this host that lead
	// to it.
	Networks []Network `json:"networks,omitempty"`
	Ports    []Port    `json:"ports,omitempty"`
	// Control is the protocol on the hypervisor's control socket: QMP or HTTP.
	Control string `json:"control"`
	// API is what the hypervisor is asked over HTTP; nil with another protocol.
	API *API `json:"api,omitempty"`
	// Command is the hypervisor's command line without its first word, in
	// parts that are literal or wait for an answer.
	Command []Part `json:"command"`
	// Accelerator and Channels are the questions with their answers, in the
	// order in which they are tried.
	Accelerator []Accelerator `json:"accelerator"`
	Channels    []Channel     `json:"channels"`
	// Image is the directory of the guest's own defaults, nil where it has none.
	Image *Image `json:"image,omitempty"`
	// KernelFormats are those that the hypervisor boots, of BzImage, PVH, ELF and
	// ArmImage; empty for BzImage and PVH.
	KernelFormats []string `json:"kernel_formats,omitempty"`
	// SystemCalls are those that the hypervisor needs beyond what every service
	// may make, by their names.
	SystemCalls []string `json:"system_calls,omitempty"`
	// LockDisks: the hypervisor does not lock its disks, so that whoever carries out
	// the plan is to.
	LockDisks bool `json:"lock_disks,omitempty"`
	// FixedVHD: of VHDs the hypervisor reads only those of fixed size.
	FixedVHD bool `json:"fixed_vhd,omitempty"`
}

// Topology is how a guest's processors are put together.
type Topology struct {
	Sockets int `json:"sockets"`
	Cores   int `json:"cores"`   // in each socket
	Threads int `json:"threads"` // on each core
}

// String is the topology as a file has it.
func (t *Topology) String() string { return fmt.Sprintf("%d:%d:%d", t.Sockets, t.Cores, t.Threads) }

// The formats of a kernel.
const (
	// BzImage is what Linux on x86 is installed as; PVH is a vmlinux with that
	// note, and ELF one with or without; ArmImage is Linux on arm64.
	BzImage  = "bzImage"
	PVH      = "pvh"
	ELF      = "elf"
	ArmImage = "arm-image"
)

// NotifyCredential is the credential by which a guest's systemd learns where it can
// say how it goes, NotifyParameter the kernel's parameter that has it, and
// NotifyRoom as long as its value can become.
const (
	NotifyCredential = spec.NotifyCredential
	NotifyRoom       = "vsock-stream:2:4294967295"
	NotifyParameter  = "systemd.set_credential=" + NotifyCredential + ":"
)

// VSock is a guest's socket of the family AF_VSOCK.
type VSock struct {
	// CID is the guest's number; 0: one that is free on this host at start.
	CID int64 `json:"cid,omitempty"`
	// Multiplexed: the hypervisor connects the guest with unix sockets of its own
	// process; else the host's kernel does.
	Multiplexed bool `json:"multiplexed,omitempty"`
}

// Image is a directory in which a guest brings its defaults.
type Image struct {
	Path string `json:"path"`
	// AtStart: the directory was not there when the plan was made. The rest of
	// the plan is what the host's lines come to without it, and is not carried
	// out: at start Lines go over what the image says, and the plan is made anew.
	AtStart bool `json:"at_start,omitempty"`
	// Lines are the assignments of [MicroVM] in the host's files that count or
	// clear, in their order.
	Lines []ImageLine `json:"lines,omitempty"`
}

// Waits reports whether the VM is decided only at start, by what its image says
// then.
func (vm *VM) Waits() bool { return vm.Image != nil && vm.Image.AtStart }

// ImageLine is an assignment of the host's files.
type ImageLine struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// Milliseconds is a duration; 0 means no limit.
type Milliseconds int64

// Binary is the hypervisor: Path if the user named one, else the first of
// Search in $PATH at start.
type Binary struct {
	Path   string   `json:"path,omitempty"`
	Search []string `json:"search,omitempty"`
}

// Disk is a disk of the guest. A relative Path lies in the state directory.
type Disk struct {
	Path     string `json:"path"`
	Format   string `json:"format"`
	ReadOnly bool   `json:"read_only,omitempty"`
	Direct   bool   `json:"direct,omitempty"`
	Serial   string `json:"serial,omitempty"`
	// Size creates a missing disk, in bytes; FileSystem is made on it then, with
	// Label for its name.
	Size       int64  `json:"size,omitempty"`
	FileSystem string `json:"file_system,omitempty"`
	Label      string `json:"label,omitempty"`
	From       string `json:"from"`
}

// Device is a device of the host that the guest gets. Bus is pci or usb; see
// spec.Device for the addresses.
type Device struct {
	Bus     string `json:"bus"`
	Address string `json:"address"`
	// External: somebody else takes it from the host, and gives it back.
	External bool   `json:"external,omitempty"`
	From     string `json:"from"`
}

// String returns the device as it is written in a file.
func (d Device) String() string { return spec.DeviceLine(d.Bus, d.Address, d.External) }

// Readiness says when the VM counts as started: Mode is "started", "guest", by
// the guest's own word over vsock, or "console", with a regular expression.
type Readiness struct {
	Mode    string `json:"mode"`
	Pattern string `json:"pattern,omitempty"`
}

// Credential is where a credential comes from and what it is called in the
// guest. Value is that of a SetCredential= line, which is public, or the
// sealed text of SetCredentialEncrypted=.
type Credential struct {
	Kind  string `json:"kind"`
	ID    string `json:"id"`
	Guest string `json:"guest,omitempty"`
	Path  string `json:"path,omitempty"`
	Value []byte `json:"value,omitempty"`
	From  string `json:"from"`
}

// Given is a credential that Ampoule itself gives the guest. It is no secret.
type Given struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
	// Ask is what its value waits for; empty where it is known.
	Ask Question `json:"ask,omitempty"`
	// From names the assignment that asks for it.
	From string `json:"from"`
}

// MakesKey reports whether the guest takes a key that is made at its start.
func (vm *VM) MakesKey() bool {
	return slices.ContainsFunc(vm.Given, func(g Given) bool { return g.Ask == AskSSHKey })
}

// Carries reports whether anything has to go into the guest by a credential
// channel.
func (vm *VM) Carries() bool { return len(vm.Credentials) > 0 || len(vm.Given) > 0 }

// Question names what a part of the command line waits for.
type Question string

// The questions of a command line.
const (
	AskAccelerator Question = "accelerator"
	AskChannel     Question = "channel"
	// AskCommandLine is the kernel's command line as one word, with what
	// accelerator and channel add.
	AskCommandLine Question = "kernel-command-line"
	// AskControl and AskConsole are inherited descriptors; their Words hold
	// {fd} where its number goes. A control socket may be one that the hypervisor
	// makes itself, at {path}.
	AskControl Question = "control"
	AskConsole Question = "console"
	// AskStdio: the console is the hypervisor's standard input and output. It has
	// no words.
	AskStdio Question = "console-stdio"
	// AskEvents is an inherited descriptor to which the hypervisor writes events.
	AskEvents Question = "events"
	// AskVSock is the path of a multiplexed vsock, in Words at {path}, or, in Words
	// with {fd} and {cid}, that of the kernel.
	AskVSock Question = "vsock"
	// AskNetwork are the descriptors of an interface, that of From: their numbers in
	// Words at {fds}, with colons between; and at {vhostfds}, in a piece in brackets
	// that is left out where there are none, those of vhost. A request takes them
	// with it.
	AskNetwork Question = "network"
	// AskKernel is the path of the kernel by a descriptor, so that the guest
	// reboots with what it was started with; AskLandlock is true where the
	// hypervisor can lock itself in.
	AskKernel   Question = "kernel"
	AskLandlock Question = "landlock"
	// AskInitrd is the path of the initial RAM disk behind its Words: the VM's
	// own, or a descriptor with the one that the channel makes of it. Where
	// there is neither, nothing stands there.
	AskInitrd Question = "initrd"
	// AskSSHKey, which only what the guest is given asks, is the public half of a
	// key that is made for this start.
	AskSSHKey Question = "ssh-key"
)

// Part is a piece of a command line.
type Part struct {
	Words []string `json:"words,omitempty"`
	Ask   Question `json:"ask,omitempty"`
	// From names the assignment behind the part, a key of Plan.Origins; empty
	// where Ampoule itself wants it.
	From string `json:"from,omitempty"`
}

// Accelerator is one answer to "how does the guest's processor run".
type Accelerator struct {
	Name  string   `json:"name"` // "kvm" or "tcg"
	Words []string `json:"words"`
	// CommandLine are words for the kernel, before the user's own. {tsc_khz}
	// stands for the rate of the host's time stamp counter.
	CommandLine []string `json:"kernel_command_line,omitempty"`
}

// Encoding says in which form a channel takes credentials.
type Encoding string

// The encodings.
const (
	// SMBIOS: descriptors that each hold one DMI type 11 structure.
	SMBIOS Encoding = "smbios-type-11"
	// OEMStrings: the strings of a DMI type 11 structure, which the hypervisor
	// makes, in the body of a request.
	OEMStrings Encoding = "oem-strings"
	// Raw: one descriptor per credential with its bytes.
	Raw Encoding = "raw"
	// CPIO: one descriptor with an initial RAM disk, in which an archive with
	// the credentials and the program that delivers them stands before the
	// VM's own.
	CPIO Encoding = "cpio"
)

// Channel is one way of credentials into the guest, with its limits. All
// limits are checked before anything starts; 0 means none.
type Channel struct {
	Name     string   `json:"name"`
	Encoding Encoding `json:"encoding"`
	// MaxName is in bytes; RefuseInName are characters that the channel
	// cannot carry in a name.
	MaxName      int    `json:"max_name,omitempty"`
	RefuseInName string `json:"refuse_in_name,omitempty"`
	// MaxStructure is the size of one DMI structure and MaxTotal that of all,
	// in bytes as encoded.
	MaxStructure int `json:"max_structure,omitempty"`
	MaxTotal     int `json:"max_total,omitempty"`
	MaxCount     int `json:"max_count,omitempty"`
	// Once are words for the hypervisor if there is any credential, Each are
	// those for every descriptor: {fd}, {name} with Doubled characters
	// doubled, {count}.
	Once    []string `json:"once,omitempty"`
	Each    []string `json:"each,omitempty"`
	Doubled string   `json:"doubled,omitempty"`
	// CommandLine are words for the kernel, before the user's own, or in the
	// place of the last of the parameters that Replaces names, which do not
	// reach the kernel: the channel carries them out.
	CommandLine []string `json:"kernel_command_line,omitempty"`
	Replaces    []string `json:"replaces_parameters,omitempty"`
	// Init is what the delivering program executes in the end, where the user
	// named it; else that is what the kernel would execute.
	Init string `json:"init,omitempty"`
	// Refused says why this VM cannot take the channel, whatever its
	// credentials are, and Cure what would help.
	Refused string `json:"refused,omitempty"`
	Cure    string `json:"cure,omitempty"`
	// Why explains the limits to the user.
	Why string `json:"why,omitempty"`
}

// KernelWords returns the words of a kernel command line together with those
// that the channel needs: in the place of what it replaces, or before all. What
// stands behind "--" is for the guest's init and stays.
func (c *Channel) KernelWords(words []string) []string {
	end, last := len(words), -1
	if i := slices.Index(words, "--"); i >= 0 {
		end = i
	}
	replaced := func(w string) bool {
		name, _, _ := strings.Cut(w, "=")
		return slices.Contains(c.Replaces, name)
	}
	for i, w := range words[:end] {
		if replaced(w) {
			last = i
		}
	}
	if last < 0 {
		return slices.Concat(c.CommandLine, words)
	}
	var out []string
	for i, w := range words {
		switch {
		case i == last:
			out = append(out, c.CommandLine...)
		case i >= end || !replaced(w):
			out = append(out, w)
		}
	}
	return out
}

// Seal computes both digests.
//
// Neither covers what tells where a thing comes from and explains it, nor a
// channel that cannot be taken: a default that a file states, or better words in
// a later version, change nothing that reaches hypervisor, guest or service.
func (p *Plan) Seal() {
	e := encoders.Get().(*encoder)
	e.out = e.out[:0]
	e.vm(&p.VM)
	p.Digest.VM = digest(e.out)
	e.out = e.out[:0]
	e.unit(&p.Unit)
	p.Digest.Unit = digest(e.out)
	encoders.Put(e)
}

// encoders are those for digests, with the memory of the last.
var encoders = sync.Pool{New: func() any { return &encoder{out: make([]byte, 0, usual), bare: true} }}

// usual is the size, in bytes, that few plans exceed.
const usual = 6 << 10

func digest(of []byte) string {
	const name = "sha256:"
	sum := sha256.Sum256(of)
	return string(hex.AppendEncode(append(make([]byte, 0, len(name)+2*len(sum)), name...), sum[:]))
}

// JSON returns the plan's canonical form: JSON on one line, the same bytes for
// the same files; fields in the order of the Go types, map keys sorted, nothing
// escaped that need not be.
func (p *Plan) JSON() []byte { return p.AppendJSON(nil) }

// AppendJSON is JSON behind what is in out.
func (p *Plan) AppendJSON(out []byte) []byte {
	e := encoder{out: slices.Grow(out, usual)}
	e.plan(p)
	return e.out
}

// Parse reads a plan and refuses one that is not whole: another schema, unknown
// fields, digests that do not fit the contents, or contents that Ampoule never
// writes. The error never repeats what can be a value. A newline at the end is
// no part of a plan.
func Parse(data []byte) (*Plan, error) {
	data = bytes.TrimSuffix(data, []byte("\n"))
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("the plan has more than %d bytes", MaxBytes)
	}
	var head struct {
		Schema *int `json:"schema"`
	}
	if err := json.Unmarshal(data, &head); err != nil || head.Schema == nil {
		return nil, fmt.Errorf("not a plan; ampoule plan --json prints one")
	}
	if *head.Schema != Schema {
		return nil, fmt.Errorf("the plan has schema %d and this version of Ampoule reads %d; make it anew: run systemctl daemon-reload, or, for a plan in a file, ampoule plan --json", *head.Schema, Schema)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var p Plan
	if err := dec.Decode(&p); err != nil {
		return nil, fmt.Errorf("the plan is damaged: %s", describe(err))
	}
	declared := p.Digest
	p.Seal()
	if p.Digest != declared {
		return nil, fmt.Errorf("the plan is damaged: its contents do not have the digests that it names")
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("the plan cannot be carried out: %w", err)
	}
	return &p, nil
}

// describe keeps of a JSON error what names no contents.
func describe(err error) string {
	if i := strings.Index(err.Error(), "unknown field"); i >= 0 {
		return err.Error()[i:]
	}
	return "its JSON does not have the form of a plan"
}

// Whole is the ID under which Origins has the place of the VM as a whole.
const Whole = "[MicroVM]"

// KeyOf returns the key of an assignment by its ID, which is KEY or KEY[INDEX].
func KeyOf(id string) string {
	key, _, _ := strings.Cut(id, "[")
	return key
}

// Origin returns where an assignment was written. For a default that is the
// place of the VM as a whole, so that every message names a file.
func (p *Plan) Origin(id string) diag.Origin {
	if o, ok := p.Origins[id]; ok {
		return o
	}
	return p.Origins[Whole]
}
