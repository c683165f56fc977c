// Package diagnose explains the state of the microVMs of a NixOS host that
// microvm.nix makes: what is declared, installed, booted and running, where these
// differ, which of a unit's credentials never reach a guest, and why.
//
// Three steps, one direction: [Look] gathers facts from files, each with the path it
// was read from; [Judge] turns facts into findings, and sees nothing else; [Compare]
// sets two VMs side by side. No Nix is asked, nothing is executed or written, and no
// value of a secret leaves the memory that it was read into.
//
// What must not live here: the formats of microvm.nix (package microvmnix) and of Nix
// (package nixstore), and printing.
package diagnose

import (
	"cmp"
	"slices"
	"time"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// Finding is a cause that was found.
type Finding struct {
	Code     Code          `json:"code"`
	Severity diag.Severity `json:"severity"`
	// VM is empty where the finding is the host's.
	VM string `json:"vm,omitempty"`
	// Title is one line, Cause a paragraph.
	Title    string     `json:"title"`
	Evidence []Evidence `json:"evidence"`
	Cause    string     `json:"cause"`
	// Cure are lines for a shell. What is to be written elsewhere stands in lines that
	// begin with "#".
	Cure []string `json:"cure"`

	// raised: the severity is the rule's own, and not that of its row.
	raised bool
}

// Evidence is a place, and what is to be seen there. Line and To are 0 where it is
// the file as a whole.
type Evidence struct {
	Path string `json:"path"`
	Line int    `json:"line,omitempty"`
	To   int    `json:"to,omitempty"`
	What string `json:"what"`
}

// Partial is something that could not be read, or was not there to be read, and what
// is therefore not known.
type Partial struct {
	Path    string `json:"path"`
	Why     string `json:"why"`
	Unknown string `json:"unknown"`
}

// State is a VM at a glance. The store paths are those of runners.
type State struct {
	Name      string  `json:"name"`
	Declared  *string `json:"declared"`
	Installed *string `json:"installed"`
	Booted    *string `json:"booted"`
	// Running is a [Run], false, or nil where it is not known.
	Running any `json:"running"`
}

// Run is a VM's process.
type Run struct {
	PID   int        `json:"pid"`
	Since *time.Time `json:"since"`
}

// Report is all that is said of a host.
type Report struct {
	Root     string    `json:"root"`
	Findings []Finding `json:"findings"`
	VMs      []State   `json:"vms"`
	Partial  []Partial `json:"partial"`
	// Comparison is there where two VMs were compared.
	Comparison *Comparison `json:"comparison,omitempty"`
}

// Judge turns facts into a report, about the VMs of these names alone where there
// are any. Findings are sorted: the worst first, then by VM, in the order of the
// table of codes.
func Judge(h *Host, names []string) Report {
	r := Report{Root: h.Root, Findings: []Finding{}, VMs: []State{}, Partial: append([]Partial{}, h.Partial...)}
	rank := map[Code]int{}
	for i, row := range Codes() {
		rank[row.Code] = i
		if row.host != nil {
			r.add(row, "", row.host(h))
		}
	}
	for _, vm := range h.VMs {
		if len(names) > 0 && !slices.Contains(names, vm.Name) {
			continue
		}
		r.VMs = append(r.VMs, vm.state(h))
		for _, row := range Codes() {
			if row.vm != nil {
				r.add(row, vm.Name, row.vm(h, vm))
			}
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(rank[a.Code], rank[b.Code]), cmp.Compare(a.VM, b.VM))
	})
	return r
}

// add completes what a rule has found by what its row says. A rule gives at most one
// finding.
func (r *Report) add(row Row, vm string, f *Finding) {
	if f == nil {
		return
	}
	f.Code, f.VM = row.Code, vm
	if !f.raised {
		f.Severity = row.Severity
	}
	r.Findings = append(r.Findings, *f)
}

// state is the VM's line in the table.
func (vm *VM) state(h *Host) State {
	s := State{Name: vm.Name}
	known := func(p string) *string {
		if p == "" {
			return nil
		}
		return &p
	}
	if vm.Install != nil {
		s.Declared = known(vm.Install.Runner)
	}
	s.Installed, s.Booted = known(vm.Current.Target), known(vm.Booted.Target)
	switch {
	case vm.Process != nil:
		run := Run{PID: vm.Process.PID}
		if !vm.Process.Since.IsZero() {
			since := vm.Process.Since.UTC().Truncate(time.Second)
			run.Since = &since
		}
		s.Running = run
	case h.ProcessesKnown:
		s.Running = false
	}
	return s
}

// Find returns the VM of a name; nil: there is none.
func (h *Host) Find(name string) *VM {
	for _, vm := range h.VMs {
		if vm.Name == name {
			return vm
		}
	}
	return nil
}
