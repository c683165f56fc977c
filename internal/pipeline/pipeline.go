// Package pipeline is the one chain from files to a plan, which every command
// and the generator share:
//
//	source → unitfile → layer → spec → driver → plan
//
// It prints nothing and decides nothing that a link of the chain decides.
package pipeline

import (
	"fmt"
	"path"
	"runtime"
	"strings"
	"unicode/utf8"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
	"github.com/ampoule-vm/ampoule/internal/version"
)

// Input is what a plan is made from.
type Input struct {
	// Argument is the NAME or FILE of a command; Root a directory below which
	// the search path is looked up, "" for the host's own.
	Argument, Root string
	Dirs           []string
	// Tree, if not nil, is in the place of Root and Dirs: the search path as it
	// was when somebody looked, for many NAMEs.
	Tree *source.Tree
	// Source, if not nil, is in the place of all these: the files themselves.
	Source *source.Set
	// Set are KEY=VALUE of the command line, above every file.
	Set     []string
	Drivers []driver.Driver
	// Architecture is systemd's word for the host's; "" means this one.
	Architecture string
	// JSON is memory for Result.JSON, from where it begins; nil takes fresh one.
	JSON []byte
}

// Result is all that is known of a VM. Plan is nil if Problems hold an error.
type Result struct {
	Source source.Set
	// Image is the file of the VM's image; nil where it has none that can be read.
	Image    *source.File
	Resolved *layer.Resolved
	VM       *spec.VM
	Plan     *plan.Plan
	// JSON is the canonical form of Draft, which is Plan where there is one.
	JSON []byte
	// Draft is the plan without the assignments that Problems refuse, by which
	// a command can look for further mistakes; nil if no file could be read. It
	// must never be carried out.
	Draft    *plan.Plan
	Problems diag.List
}

// Files are the paths of all files that were read, the weakest first.
func (res *Result) Files() []string {
	var out []string
	if res.Image != nil {
		out = append(out, res.Image.Path)
	}
	for _, f := range res.Source.Files {
		out = append(out, f.Path)
	}
	return out
}

// Load runs the whole chain and reports every mistake of every link.
func Load(in Input) Result {
	set, problems := in.find()
	res := Result{Source: set, Problems: problems}
	main := diag.Origin{File: set.Main, Line: 1, Layer: "main"}
	if err := spec.CheckName(set.Name); err != nil && path.Base(set.Main) == set.Name+source.Suffix {
		if len(set.Files) == 0 {
			res.Problems = nil // that a VM which cannot exist was not found says nothing
		}
		res.Problems.Add(diag.Problem{Origin: main, What: err.Error(), Accepted: spec.AcceptedName})
	}
	files := make([]*unitfile.File, 0, len(set.Files)+1)
	incomplete := true
	for _, f := range set.Files {
		parsed := unitfile.Parse(f.Path, f.Layer, f.Data)
		files = append(files, parsed)
		res.Problems = append(res.Problems, spec.CheckFile(parsed)...)
		if f.Layer == "main" {
			main, incomplete = mainOrigin(parsed), spec.Unread(parsed)
		}
	}
	files = append(files, parseSet(in.Set, &res.Problems))
	if len(set.Files) == 0 {
		res.Problems.Sort()
		return res
	}
	id := spec.Identity{Name: set.Name, Fragment: set.Fragment, Architecture: in.Architecture, Paths: spec.SystemPaths}
	if id.Architecture == "" {
		id.Architecture = Architecture()
	}
	resolved, twice := layer.Resolve(files, spec.Rules(id))
	ctx := spec.Context{Identity: id, Main: main, Incomplete: incomplete, Hypervisors: driver.Names(in.Drivers)}
	var image source.Image
	if dir := imageOf(id, resolved); dir != "" {
		image = source.ReadImage(in.imageRoot(), dir, spec.ImageFile, spec.Store)
		if ctx.Image, ctx.Later = dir, image.Absent; !image.Absent && image.What == "" {
			res.Image = &image.File
			own, wrong := parseImage(image)
			res.Problems = append(res.Problems, wrong...)
			ctx.Incomplete = ctx.Incomplete || spec.Unread(own)
			resolved, twice = layer.Resolve(append([]*unitfile.File{own}, files...), spec.Rules(id))
		}
	}
	ctx.Incomplete = ctx.Incomplete || image.What != ""
	res.Resolved = resolved
	res.Problems = append(res.Problems, twice...)
	vm, p, wrong := decide(ctx, resolved, in.imageRoot(), image, in.Drivers)
	p.Seal()
	res.VM = vm
	res.Problems = append(res.Problems, wrong...)
	res.JSON = p.AppendJSON(in.JSON[:0])
	if n := len(res.JSON); n > plan.MaxBytes {
		res.Problems.Add(diag.Problem{
			Origin: main, What: fmt.Sprintf("the plan has %d bytes, more than the %d that a unit can carry", n, plan.MaxBytes),
			Accepted: "put large values into files and load them",
		})
	}
	res.Problems.Sort()
	if res.Draft = p; !res.Problems.HasErrors() {
		res.Plan = p
	}
	return res
}

// imageRoot is the directory below which an image is: a FILE stands for itself.
func (in Input) imageRoot() string {
	if in.Tree != nil {
		return in.Tree.Root()
	}
	if source.IsFile(in.Argument) {
		return ""
	}
	return in.Root
}

func (in Input) find() (source.Set, diag.List) {
	if in.Source != nil {
		return *in.Source, nil
	}
	if in.Tree != nil {
		return in.Tree.Find(in.Argument)
	}
	return source.Find(in.Argument, in.Root, in.Dirs)
}

// mainOrigin is where a problem of the VM as a whole is reported: the first
// header of our section, else the first line.
func mainOrigin(f *unitfile.File) diag.Origin {
	for _, s := range f.Sections {
		if s.Name == spec.Section {
			return s.Origin
		}
	}
	return diag.Origin{File: f.Name, Line: 1, Layer: f.Layer}
}

// parseSet makes a layer of KEY=VALUE arguments; the argument's number stands
// for the line.
func parseSet(set []string, problems *diag.List) *unitfile.File {
	f := &unitfile.File{Name: "--set", Layer: "set"}
	for i, s := range set {
		origin := diag.Origin{File: f.Name, Line: i + 1, Layer: f.Layer}
		key, value, ok := strings.Cut(s, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case !ok || key == "":
			what := `an argument without "="`
			if ok {
				what = `nothing stands before "="`
			}
			problems.Add(diag.Problem{Origin: origin, What: what, Accepted: "accepted: --set KEY=VALUE with a key of [" + spec.Section + "]"})
		case strings.ContainsAny(value, "\n\r\x00") || !utf8.ValidString(value):
			problems.Add(diag.Problem{Origin: origin, Key: key, Value: diag.Elided, What: "a line break, a NUL or bytes that are not UTF-8", Accepted: "accepted: one line of UTF-8"})
		default:
			f.Assignments = append(f.Assignments, unitfile.Assignment{Section: spec.Section, Key: key, Value: value, Origin: origin})
		}
	}
	return f
}

// Architecture is systemd's word for the one this binary was built for.
func Architecture() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86-64"
	case "386":
		return "x86"
	}
	return runtime.GOARCH
}

// decide is the end of the chain: the VM that the lines describe, and its plan, of
// which the digests are still to be computed.
func decide(ctx spec.Context, resolved *layer.Resolved, root string, image source.Image, drivers []driver.Driver) (*spec.VM, *plan.Plan, diag.List) {
	vm, problems := spec.Read(ctx, resolved)
	problems = append(problems, judgeImage(root, image, vm)...)
	part, refused := driver.Find(drivers, vm.Hypervisor.Value).Compose(vm, ctx.Identity.Architecture)
	p := build(vm, part)
	switch {
	case image.Absent:
		p.VM.Image = frozen(image, resolved, p.Origins)
	case image.Dir != "":
		p.VM.Image = &plan.Image{Path: image.Dir}
	}
	return vm, p, append(problems, chosen(refused, vm.Hypervisor)...)
}

// chosen adds to what a hypervisor refuses the line that chose it, which is the
// other one that can be changed.
func chosen(refused diag.List, hypervisor spec.Setting[string]) diag.List {
	for i := range refused {
		if p := &refused[i]; hypervisor.Set && p.Origin != hypervisor.From.Origin {
			p.What += fmt.Sprintf(" (Hypervisor=%s, %s)", hypervisor.Value, hypervisor.From.Origin)
		}
	}
	return refused
}

// build joins what every hypervisor has with the driver's part.
func build(vm *spec.VM, part plan.VM) *plan.Plan {
	origins := origins{plan.Whole: vm.Main}
	part.Name = vm.Identity.Name
	part.Architecture = vm.Identity.Architecture
	part.Hypervisor = vm.Hypervisor.Value
	part.VCPU = vm.VCPU.Value
	if t := vm.CPUTopology; t.Set {
		part.Topology = &plan.Topology{Sockets: t.Value.Sockets, Cores: t.Value.Cores, Threads: t.Value.Threads}
	}
	part.Memory = vm.Memory.Value
	part.HugePages = vm.HugePages.Value
	part.MemoryHotplug, part.Balloon = vm.MemoryHotplug.Value, vm.Balloon.Value
	part.Watchdog = vm.Watchdog.Value
	part.Kernel = vm.Kernel.Value
	part.Initrd = vm.Initrd.Value
	part.Console = vm.Console.Value != "none"
	part.MachineID = vm.MachineID.Value
	part.GuestSystemd = vm.GuestSystemd.Value
	part.Readiness = plan.Readiness(vm.Ready())
	part.StopTimeout = plan.Milliseconds(vm.StopTimeout.Value.Milliseconds())
	if vm.StopTimeout.Value > 0 && part.StopTimeout == 0 {
		part.StopTimeout = 1 // 0 is no limit
	}
	part.Runner = vm.Runner.Value
	part.Disks = []plan.Disk{}
	for _, d := range vm.Disks {
		origins.add(d.From)
		part.Disks = append(part.Disks, plan.Disk{
			Path: d.Path, Format: d.Format, ReadOnly: d.ReadOnly, Direct: d.Direct, Serial: d.Serial,
			Size: d.Size, FileSystem: d.FileSystem, Label: d.Label, From: d.From.ID,
		})
	}
	for _, n := range vm.Networks {
		origins.add(n.From)
	}
	for _, ports := range vm.Ports {
		origins.add(ports.From)
		part.Ports = append(part.Ports, publish(ports)...)
	}
	for _, d := range vm.Devices {
		origins.add(d.From)
		part.Devices = append(part.Devices, plan.Device{Bus: d.Bus, Address: d.Address, External: d.External, From: d.From.ID})
	}
	for _, s := range vm.Shares {
		origins.add(s.From)
		part.Shares = append(part.Shares, plan.Share{
			Source: s.Source, Tag: s.Tag, MountPoint: s.MountPoint, ReadOnly: s.ReadOnly, Protocol: s.Protocol, Cache: s.Cache, Security: s.Security, Socket: s.Socket,
			From: s.From.ID,
		})
	}
	part.Credentials = credentials(vm.Credentials, origins)
	for _, g := range vm.Given() {
		given := plan.Given{Name: g.Name, Value: g.Value, From: g.From.ID}
		if g.Name == spec.SSHCredential {
			given.Ask = plan.AskSSHKey
		}
		part.Given = append(part.Given, given)
	}
	for _, from := range []spec.From{
		vm.Image.From, vm.Hypervisor.From, vm.HypervisorPath.From, vm.Accelerator.From, vm.Machine.From, vm.VCPU.From, vm.CPUTopology.From,
		vm.Memory.From, vm.HugePages.From, vm.MemoryHotplug.From, vm.Balloon.From, vm.Watchdog.From,
		vm.Kernel.From, vm.Initrd.From, vm.MachineID.From, vm.GuestSystemd.From, vm.Console.From, vm.Readiness.From, vm.VSockCID.From, vm.SSH.From,
		vm.CredentialChannel.From, vm.Runner.From, vm.StopTimeout.From, vm.RestartIfChanged.From,
	} {
		origins.add(from)
	}
	for _, w := range append(append([]spec.Word{}, vm.HypervisorArgs...), vm.KernelCommandLine...) {
		origins.add(w.From)
	}
	return &plan.Plan{Schema: plan.Schema, Ampoule: version.Version, VM: part, Unit: unit(vm, origins), Origins: origins}
}

// publish are the single ports of a line.
func publish(p spec.Ports) []plan.Port {
	var out []plan.Port
	for i := range p.Count {
		port := plan.Port{Host: p.Host + i, Guest: p.Guest + i, Protocol: p.Protocol, From: p.From.ID}
		if p.Address.IsValid() {
			port.Address = p.Address.String()
		}
		out = append(out, port)
	}
	return out
}

// origins collects where assignments were written.
type origins map[string]diag.Origin

func (o origins) add(from spec.From) {
	if from.ID != "" {
		o[from.ID] = from.Origin
	}
}

func credentials(list []spec.Credential, origins origins) []plan.Credential {
	out := []plan.Credential{}
	for _, c := range list {
		origins.add(c.From)
		out = append(out, plan.Credential{Kind: string(c.Kind), ID: c.ID, Guest: c.Guest, Path: c.Path, Value: c.Value, From: c.From.ID})
	}
	return out
}

// unit keeps the lines of [Service] whose change needs a restart, or does so with
// some versions of systemd.
func unit(vm *spec.VM, origins origins) plan.Unit {
	out := plan.Unit{Service: []plan.Assignment{}, Credentials: credentials(vm.ServiceCredentials, origins), KeepRunning: !vm.RestartIfChanged.Value}
	counts := map[string]int{}
	for _, e := range vm.Service {
		from := fmt.Sprintf("Service.%s[%d]", e.Key, counts[e.Key])
		counts[e.Key]++
		list := &out.Service
		switch key, ok := systemdkeys.Lookup("Service", e.Key); {
		case !ok || !key.Restart && !key.Cgroup:
			continue
		case !key.Restart:
			list = &out.Resources
		}
		origins[from] = e.Origin
		*list = append(*list, plan.Assignment{Key: e.Key, Value: e.Value, From: from})
	}
	return out
}
