package emit

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// UnitSource is what a unit is made from.
type UnitSource struct {
	Plan *plan.Plan
	// JSON is the plan's canonical form, where somebody has made it already.
	JSON []byte
	// Resolved holds the lines of [Unit], [Service] and [Install], which pass
	// through and win.
	Resolved *layer.Resolved
	// Main is the absolute path of the VM's file, Files those of all of its
	// files in the order in which they were read.
	Main  string
	Files []string
	// Program is the absolute path of ampoule.
	Program string
	// KVMGroup is the group that may open /dev/kvm, where the host has one.
	KVMGroup string
	// Service is the name of the VM's unit, where it is not the one that the
	// generator gives it: what serves its shares is part of that.
	Service string
	// Prepared: root has done something for the VM, which runs, and the unit is to
	// undo it whatever the plan says.
	Prepared bool
	// Room, if not nil, is used in the place of fresh memory. The unit stays
	// good until it is used again.
	Room *Room
}

// Room is memory for one unit after the other.
type Room struct {
	// JSON is for UnitSource.JSON.
	JSON    []byte
	entries []unitfile.Entry
	text    []byte
}

// Unit writes the service that runs a plan: the plan itself, frozen, the
// credentials, the sandbox with the reason for each opening, and the user's own
// lines, which come last and so win.
func Unit(s UnitSource) ([]byte, error) {
	if s.Room == nil {
		s.Room = &Room{}
	}
	var files []string
	for _, f := range s.Files {
		files = append(files, legible(f))
	}
	head := unitfile.Block{Comment: fmt.Sprintf("Made by ampoule %s. What is changed here is lost; change the files:\n%s",
		s.Plan.Ampoule, strings.Join(files, "\n"))}
	service, err := s.service()
	if err != nil {
		return nil, err
	}
	blocks := []unitfile.Block{head, s.unit(), service}
	if install := s.pass("Install"); len(install) > 0 {
		blocks = append(blocks, unitfile.Block{Name: "Install", Entries: install})
	}
	text, err := unitfile.Append(s.Room.text[:0], blocks)
	if err == nil {
		s.Room.text = text
	}
	return text, err
}

// PlanOf reads the plan out of a unit that Unit wrote; nil where there is none, or
// none that can be read.
func PlanOf(unit []byte) *plan.Plan {
	_, text, ok := bytes.Cut(unit, []byte("\nSetCredential="+rule.PlanName+":"))
	if !ok {
		return nil
	}
	text, _, _ = bytes.Cut(text, []byte("\n"))
	p, err := plan.Parse(bytes.ReplaceAll(text, []byte(`\\`), []byte(`\`)))
	if err != nil {
		return nil
	}
	return p
}

// legible is what can stand in a comment of a unit: a path may hold anything.
func legible(s string) string {
	if plain(s) {
		return s
	}
	return strings.ToValidUTF8(Visible(s), "?")
}

// entry is a line with the reason above it.
func entry(comment, key, value string) unitfile.Entry {
	return unitfile.Entry{Comment: legible(comment), Key: key, Value: value}
}

// secretServices are those of sops-nix and agenix, which bring secrets to where
// the files of a VM look for them. A host that has neither does not mind.
const secretServices = "sops-install-secrets.service agenix-install-secrets.service"

func (s UnitSource) unit() unitfile.Block {
	vm := s.Plan.VM
	entries := []unitfile.Entry{
		entry("", "Description", "microVM "+vm.Name),
		entry("", "Documentation", "man:ampoule(1) man:ampoule.microvm(5) man:ampoule-generator(8)"),
		entry("", "SourcePath", percent(s.Main)),
	}
	if paths := s.hostPaths(); len(paths) > 0 {
		var words []string
		for _, p := range paths {
			words = append(words, unitfile.QuoteWord(percent(p.path)))
		}
		entries = append(entries, entry("where the files lie that the VM is made of", "RequiresMountsFor", strings.Join(words, " ")))
	}
	if sources := s.sources(); len(sources) > 0 {
		var words []string
		for _, c := range sources {
			words = append(words, unitfile.QuoteWord(percent(c.Path)))
		}
		entries = append(entries,
			entry("where its credentials come from, and who may put them there", "RequiresMountsFor", strings.Join(words, " ")),
			entry("", "After", secretServices))
	}
	entries = append(entries, s.shareDependencies()...)
	if len(s.Plan.VM.Networks) > 0 {
		entries = append(entries, entry("at boot, whoever makes its bridges and has its addresses comes first", "After", "network.target"))
	}
	if s.kernelVSock() {
		// The sandbox opens the device that is there when the service starts.
		const module = "modprobe@vhost_vsock.service"
		why := s.Plan.Origin("VSockCID").String() + ", VSockCID="
		entries = append(entries, entry(why, "Wants", module), entry(why, "After", module))
	}
	entries = append(entries, s.driverModule()...)
	if why := s.macvtaps(); why != "" {
		// Likewise: it is allowed by the name under which the module has its devices.
		const module = "modprobe@macvtap.service"
		entries = append(entries, entry(why, "Wants", module), entry(why, "After", module))
	}
	return unitfile.Block{Name: "Unit", Entries: append(entries, s.pass("Unit")...)}
}

func (s UnitSource) service() (unitfile.Block, error) {
	vm := s.Plan.VM
	own := s.ownExecStart()
	kind := "notify"
	if own {
		kind = "exec"
	}
	entries := append(append(s.Room.entries[:0], entry("", "Type", kind)), s.notifyAccess()...)
	entries = append(entries,
		entry("the plan below, and no other", "ExecStart", s.program(runArguments+s.Plan.Digest.VM)),
		entry("", "SyslogIdentifier", "microvm@"+vm.Name),
		entry("", "Slice", "machine.slice"),
		entry("ampoule presses the power button; the hypervisor itself is killed only when the time is up", "KillMode", "mixed"),
		entry("", "TimeoutStopSec", stopSeconds(vm.StopTimeout)),
		entry("", "Restart", "on-failure"),
		entry("a mistake in the files does not go away by itself", "RestartPreventExitStatus", "2"),
	)
	if vm.Readiness.Mode != "started" || vm.Waits() {
		entries = append(entries, entry("a guest takes its time to boot", "TimeoutStartSec", "10min"))
	}
	entries = append(entries, s.state()...)
	entries, err := s.sandbox(entries)
	entries = append(entries, s.pass("Service")...)
	// Behind the user's lines: an empty LoadCredential= in [Service] clears what
	// [Service] loads, and not what the guest gets.
	entries = append(entries, s.credentials()...)
	if own && len(s.sources()) > 0 {
		entries = append(entries, entry("the last of its kind: what a hook of yours makes in time is not missing", "ExecStartPre",
			s.program("unit sources --plan=%d/"+rule.PlanName+" --digest="+s.Plan.Digest.VM)))
	}
	entries = append(entries, s.privileged(own)...)
	entries = append(entries, unitfile.Entry{Comment: "the plan", Key: "SetCredential", Value: rule.PlanName + ":", Text: s.json()})
	s.Room.entries = entries
	return unitfile.Block{Name: "Service", Entries: entries}, err
}

// program is a command line of ampoule's.
func (s UnitSource) program(arguments string) string { return programLine(s.Program, arguments) }

func programLine(program, arguments string) string {
	return unitfile.QuoteWord(percent(program)) + " " + arguments
}

func (s UnitSource) json() []byte {
	if s.JSON != nil {
		return s.JSON
	}
	return s.Plan.JSON()
}

// state are the VM's own directories.
func (s UnitSource) state() []unitfile.Entry {
	dir := "ampoule/vm/" + s.Plan.VM.Name
	return []unitfile.Entry{
		entry("relative disks; what was seen in kernel and initrd; the record of the run", "StateDirectory", dir),
		entry("", "StateDirectoryMode", "0700"),
		entry("", "CacheDirectory", dir),
		entry("", "CacheDirectoryMode", "0700"),
		entry("", "RuntimeDirectory", dir),
		entry("", "RuntimeDirectoryMode", "0700"),
		entry("who finds it knows that the VM is between a crash and the next start", "RuntimeDirectoryPreserve", "restart"),
	}
}

// pass returns the user's lines of a section, those that clear included, in the
// order of the files.
func (s UnitSource) pass(section string) []unitfile.Entry {
	var lines []layer.Entry
	for _, g := range s.Resolved.Groups {
		if g.Section != section {
			continue
		}
		for _, e := range g.Entries {
			if e.Fate == layer.Effective || e.Fate == layer.Clears {
				lines = append(lines, e)
			}
		}
	}
	sortByOrder(lines)
	var out []unitfile.Entry
	for _, e := range lines {
		out = append(out, entry(e.Origin.String(), e.Key, e.Value))
	}
	return out
}

// ownExecStart reports whether the user's command takes the place of ampoule run.
func (s UnitSource) ownExecStart() bool {
	for _, g := range s.Resolved.Groups {
		if g.Section == "Service" && g.Name == "ExecStart" && len(g.Effective()) > 0 {
			return true
		}
	}
	return false
}

func stopSeconds(ms plan.Milliseconds) string {
	if ms == 0 {
		return "infinity"
	}
	if ms%1000 != 0 {
		return fmt.Sprintf("%dms", ms)
	}
	return fmt.Sprintf("%ds", ms/1000)
}

// percent keeps systemd from expanding specifiers: what they mean is decided.
func percent(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// hostPath is a file of the host that the VM needs.
type hostPath struct {
	path, from string
	write      bool
}

// hostPaths are the absolute paths of the plan, which lie wherever the user
// wanted them.
func (s UnitSource) hostPaths() []hostPath {
	vm := s.Plan.VM
	var out []hostPath
	add := func(p, from string, write bool) {
		if path.IsAbs(p) {
			out = append(out, hostPath{p, from, write})
		}
	}
	if vm.Waits() {
		add(vm.Image.Path, "Image", false) // what of it the VM needs is not known yet
	}
	add(vm.Kernel, "Kernel", false)
	add(vm.Initrd, "Initrd", false)
	add(vm.Runner, "Runner", false)
	add(vm.Binary.Path, "HypervisorPath", false)
	for _, d := range vm.Disks {
		add(d.Path, d.From, !d.ReadOnly)
	}
	return out
}
