package diagnose

import (
	"io/fs"
	"time"

	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
)

// Host is all that was seen of a host. Paths in it are as the host has them, without
// the directory that its tree lies in.
type Host struct {
	// Root is that directory, "/" for this host.
	Root string
	// Program is Ampoule's own, by the path that a unit could start it by.
	Program string
	// StateDir is where the VMs are, as the units say.
	StateDir string
	// System is the store path of the system that counts as the current one:
	// /run/current-system, or in a tree that does not run the profile's. Activated is
	// when it became that, zero where it is not known.
	System    string
	Activated time.Time
	// Running: there is a /run/current-system. Booted is the system that the host
	// booted with, "" where it is not known.
	Running bool
	Booted  string
	// Stale are parts of the booted system that the current one has another of:
	// kernel, initrd, kernel-modules.
	Stale []Difference
	// Profile is the system profile. Specialisation: the current system is one of the
	// profile's system's.
	Profile        nixstore.Profile
	Specialisation string
	// UnitDir is where the units of the current system are, "" where there are none.
	UnitDir string
	// ProcessesKnown: there is a /proc.
	ProcessesKnown bool
	// RootUnits are the units that execute as root what lies in a VM's directory.
	RootUnits []Evidence
	// State is what is known of the state directory itself.
	State *nixstore.Info
	// stateUnseen: it could not be looked at.
	stateUnseen bool
	// Untracked are files that the host's own configuration names and git does not
	// track; ConfigDir is where that lies.
	Untracked []Untracked
	// VMs are sorted by name.
	VMs []*VM
	// Partial is what could not be read.
	Partial []Partial
}

// Difference is a link that leads to two places.
type Difference struct{ Name, Old, New string }

// Untracked is a file or directory that a tracked file names.
type Untracked struct {
	// File and Line name it, Path is where it lies below Tree, the work tree.
	File string
	Line int
	Path string
	Tree string
}

// Link is one of a VM's links to a runner.
type Link struct {
	Path string
	// There: the link is. Target is what it leads to, "" where that cannot be told;
	// Dangling: there is nothing.
	There    bool
	Target   string
	Dangling bool
	// Unseen: whether there is one is not known.
	Unseen bool
	// Made is when the link was.
	Made time.Time
}

// Install is what the current system's unit install-microvm-NAME does.
type Install struct {
	// Unit and Script are files.
	Unit, Script string
	// Runner, Toplevel and Flake are what the script makes links to and writes, at
	// RunnerLine; "" where it does not.
	Runner, Toplevel, Flake string
	RunnerLine              int
	// Once is the condition that lets it run for a VM that is not there yet alone.
	Once *Evidence
}

// VM is all that was seen of one.
type VM struct {
	Name string
	// Dir is its directory below the state directory; DirInfo is nil where there is
	// none.
	Dir     string
	DirInfo *nixstore.Info
	// dirUnseen: it could not be looked at.
	dirUnseen bool
	Install   *Install
	Current   Link
	Booted    Link
	// Flake is the first line of the file of that name; FlakeThere: there is one.
	// Toplevel is what the link of that name leads to.
	Flake      string
	FlakeThere bool
	Toplevel   string
	// Rooted: the imperative command made a garbage-collection root for it.
	Rooted bool
	// Unit is microvm@NAME.service as systemd would load it; nil where there is none.
	Unit *Unit
	// Credentials are those of the unit, by id.
	Credentials []*Credential
	// Deployed and Started are the runners behind current and booted; nil where they
	// could not be read.
	Deployed, Started *Runner
	// Forced is the program that a drop-in puts in the place of the runner's.
	Forced *Forced
	// PreReads are credentials that commands in front of it read.
	PreReads []Read
	// Process is what runs, nil where nothing does or it is not known.
	Process *Process
	// Taps are interfaces of the runner that the host has.
	Taps []string
	// Lost are other run scripts for the VM, which read credentials and to which
	// nothing refers; the newest first.
	Lost []Lost
	// Generations say which runner each generation of the system has for the VM;
	// gathered only where Lost is not empty.
	Generations []GenerationRunner
	// Written are the places in sources that are of interest, by attribute.
	Written []Written
	// Unrooted are links whose runner no root keeps.
	Unrooted []Link
	// Untracked is as Host's, for the VM's own flake.
	Untracked []Untracked
	// Wanted are credentials that services of the guest want.
	Wanted []Wanted
	// Leaks are places where a secret stands.
	Leaks []Leak
}

// Runner is a runner, and what was found in its files.
type Runner struct {
	*microvmnix.Runner
	// Path is its store path, or where it lies. Script is the store path of its
	// microvm-run, "" where that is not in the store.
	Path, Script string
	// Reads are the credentials that it reads by itself or through a script of the
	// user's that it calls; File is where.
	Reads []Read
	// Altered: the script in the store is not what was built.
	Altered bool
	// Problems are lines that were not understood.
	Problems []Evidence
}

// Read is a credential that something reads. Name is "*" for all there are, and empty
// where it is made up when the script runs.
type Read struct {
	File string
	Line int
	Name string
}

// Unit is a unit with its drop-ins, as systemd merges them.
type Unit struct {
	Name string
	// Fragment is the file, "" where there are drop-ins alone.
	Fragment string
	// Files are the fragment and the drop-ins, in order: where they are found, and
	// where they lie.
	Files []UnitFile
	// Masked: it is a link to /dev/null.
	Masked bool
	*layer.Resolved
}

// UnitFile is one of a unit's files.
type UnitFile struct {
	Path, Real string
}

// Credential is one that the VM's unit loads.
type Credential struct {
	ID string
	// Key is the setting, Source its second part with specifiers undone: "" where the
	// line has none. At is the line; In is where the file lies.
	Key, Source string
	At          Evidence
	In          string
	// Default: SetCredential= gives a value where the source is missing.
	Default bool
	// File is what the source is; nil where that could not be seen, which Absent
	// tells from a source that is not there.
	File   *SourceFile
	Absent bool
	// Unseen: whether it is there is not known.
	Unseen bool
	// Makers are units of the current system that make the source, and whether the VM
	// starts after each.
	Makers []Maker
}

// SourceFile is what is known of a credential's source, and nothing of its value.
type SourceFile struct {
	// Path is where it lies, links followed.
	Path string
	nixstore.Info
	// Open is why others may read it, "" where they may not.
	Open string
}

// Maker is a unit that makes a secret.
type Maker struct {
	Unit string
	// At is where that is to be seen.
	At Evidence
	// Ordered: the VM starts after it.
	Ordered bool
}

// Forced is a command in place of the runner's.
type Forced struct {
	Program string
	At      Evidence
	// Second: it stands beside the template's, which systemd refuses.
	Second bool
	// Ours: it is Ampoule's.
	Ours bool
	// Reads are what the program reads, where it is a script; Opaque: it could not be
	// looked into.
	Reads  []Read
	Opaque bool
}

// Process is one that runs a VM.
type Process struct {
	PID   int
	Args  []string
	Since time.Time
}

// Lost is a run script that nothing refers to.
type Lost struct {
	Path  string
	Reads []Read
	// Built is when it came into the store, zero where that is not known.
	Built time.Time
}

// GenerationRunner is what a generation of the system installs.
type GenerationRunner struct {
	Link   string
	System string
	Runner string
}

// Written is a place in a source that sets something of the VM.
type Written struct {
	// Option is as in the manual: "microvm.hugepageMem".
	Option string
	// Value is a simple one, "" where it is more.
	Value    string
	File     string
	From, To int
	// Sure: it is in what the system refers to, or in the flake's directory, and names
	// the VM.
	Sure bool
}

// Wanted is a credential that a service of the guest wants by name.
type Wanted struct {
	Name string
	At   Evidence
	// id is what the service itself calls it.
	id string
}

// LeakKind says where a secret stands.
type LeakKind int

// The kinds of leaks.
const (
	InArgv LeakKind = iota
	InStore
	InOEMStrings
)

// Leak is a place where a secret stands. What says which one, by its name.
type Leak struct {
	Kind LeakKind
	At   Evidence
	// Name is the credential's.
	Name string
	// Plain: a value that need not be a secret, of SetCredential=.
	Plain bool
}

// mode is a file's permissions, in digits.
func mode(m fs.FileMode) string {
	n := m.Perm()
	return "0" + string([]byte{'0' + byte(n>>6&7), '0' + byte(n>>3&7), '0' + byte(n&7)})
}
