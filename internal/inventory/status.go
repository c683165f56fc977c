package inventory

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/systemd"
)

// Status is all that is known of one VM.
type Status struct {
	VM
	// Detail is the service manager's; nil: it has no unit.
	Detail *systemd.Unit
	// Pid is that of the process that runs the VM; 0: none, or not known.
	Pid int
	// Record is what the run wrote down; nil where nothing runs or it cannot be
	// read, and then Unread may say why.
	Record *state.Record
	Unread error
	// Plans are the one that runs, the one that is loaded and the one that the
	// files come to now.
	Plans Plans
	// Contents are the same plans in whole, with their origins.
	Contents Contents
	// Plan is the loaded one, or that of the files where none is loaded; nil:
	// neither can be had.
	Plan *plan.Plan
	// Files are those that were read now, the weakest first, Problems what is
	// wrong with them.
	Files    []string
	Problems diag.List
	// FileMasked: the VM's file is a link to /dev/null.
	FileMasked bool
	// Refused are the mistakes for which the loaded unit refuses to start, as it
	// says them.
	Refused []string
	// StateDirectory is where relative disks lie; it need not exist.
	StateDirectory string
	// Ended says how the last run of the service ended; empty: not at all, or
	// not known.
	Ended string
}

// Plans are the three of a VM; a zero one is absent or not known.
type Plans struct{ Runs, Loaded, Files plan.Digest }

// Contents are the three plans of a VM; a nil one is absent or not known.
type Contents struct {
	Runs, Loaded, Files *plan.Plan
	// Merged is what Runs came to with an image that was read at the start; nil:
	// it waited for none, or that is not known.
	Merged *plan.Plan
}

// Difference says in words what differs between two plans; empty: nothing. A
// digest that is not known differs in nothing.
func Difference(a, b plan.Digest) string {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	switch vm, unit := differ(a.VM, b.VM), differ(a.Unit, b.Unit); {
	case vm && unit:
		return "the VM and [Service] differ"
	case vm:
		return "the VM differs"
	case unit:
		return "[Service] differs"
	}
	return ""
}

// UnknownError means that there is no such VM. Near is the name that was meant,
// perhaps.
type UnknownError struct{ Name, Near string }

// Error says so.
func (e *UnknownError) Error() string {
	if e.Near != "" {
		return fmt.Sprintf("no VM has the name %q; did you mean %s?", e.Name, e.Near)
	}
	return fmt.Sprintf("no VM has the name %q; ampoule list shows all", e.Name)
}

// Look returns all that is known of one VM. The error is an UnknownError where
// nothing is.
func Look(ctx context.Context, p Place, name string) (*Status, error) {
	s, err := p.survey()
	if err != nil {
		return nil, err
	}
	f := s.at(name)
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	if client != nil {
		defer client.Close()
		if err := s.ask(client, f); err != nil {
			return nil, err
		}
	}
	f.runs = runningDigest(f)
	vm, ok := f.judge(s.managed)
	if !ok {
		delete(s.vms, name)
		names := make([]string, 0, len(s.vms))
		for known := range s.vms {
			names = append(names, known)
		}
		slices.Sort(names)
		return nil, &UnknownError{name, diag.Nearest(name, names)}
	}
	vm.Interfaces = of(interfaces(p.Root, s.vms), name)
	st := &Status{VM: vm, StateDirectory: filepath.Join("/var/lib/ampoule/vm", name)}
	st.Plans.Runs.VM, st.Plans.Loaded.VM = vm.Runs, vm.Loaded
	st.fromUnit(f.unit)
	st.fromRun(p, f.run)
	st.runningPlan(f, p.Root)
	st.FileMasked = f.declared != nil && f.declared.masked
	s.fromFiles(st)
	return st, nil
}

// ask asks the service manager about one VM.
func (s *survey) ask(client *systemd.Client, f *facts) error {
	if spec.CheckName(f.name) != nil {
		return nil
	}
	u, err := client.Unit(spec.UnitName(f.name))
	if err != nil {
		return err
	}
	f.unit = &u
	return f.custom(client)
}

func (st *Status) fromUnit(u *systemd.Unit) {
	if u == nil || st.Unit == "" {
		return
	}
	st.Detail, st.Pid, st.Ended = u, u.MainPID, Ending(u)
	// A unit is written by whoever may; what in it is no plan is none.
	p, err := plan.Parse(u.SetCredential[rule.PlanName])
	if err == nil && (st.Loaded == "" || st.Loaded == p.Digest.VM) {
		st.Plan, st.Contents.Loaded, st.Plans.Loaded = p, p, p.Digest
	}
	if text := string(u.SetCredential[rule.ProblemsName]); refuses(u) || strings.Contains(u.Description, emit.KeptWords) {
		st.Refused = slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return line == "" })
	}
}

func (st *Status) fromRun(p Place, run *state.Instance) {
	if run == nil || !run.Running {
		return
	}
	st.Record, st.Unread = run.Record, run.Problem
	if st.Pid == 0 {
		st.Pid = run.Pid
	}
	if st.Record != nil {
		st.Plans.Runs.Unit = st.Record.UnitDigest
	}
	if st.ByHand {
		st.StateDirectory = state.ByHandDirectories(st.Name, p.Getenv).State
	}
}

// fromFiles says what the files come to now.
func (s *survey) fromFiles(st *Status) {
	if !st.Declared {
		return
	}
	res := s.load(s.tree, st.Name)
	for _, file := range res.Source.Files {
		st.Files = append(st.Files, file.Path)
	}
	st.Problems = res.Problems
	if res.Plan == nil {
		return
	}
	st.Plans.Files, st.Contents.Files = res.Plan.Digest, res.Plan
	if st.Plan == nil {
		st.Plan = res.Plan
	}
}

// The codes by which the kernel says how a process ended (siginfo).
const (
	exited = 1
	killed = 2
	dumped = 3
)

// Ending says in words how the main process of a service last ended.
func Ending(u *systemd.Unit) string {
	switch u.ExitCode {
	case exited:
		words := codes()[u.ExitStatus]
		if words == "" {
			words = "ended"
		}
		if u.Result != "success" && u.Result != "exit-code" && u.Result != "" {
			words += ", " + u.Result
		}
		return fmt.Sprintf("%s (exit code %d)", words, u.ExitStatus)
	case killed, dumped:
		words := "was killed by signal " + signal(u.ExitStatus)
		if u.Result != "success" && u.Result != "signal" && u.Result != "" {
			words += " (" + u.Result + ")"
		}
		return words
	}
	if u.Result != "success" && u.Result != "" {
		return "did not start (" + u.Result + ")"
	}
	return ""
}

// codes are the exit codes of ampoule run, and those by which systemd says that
// it could not start it.
func codes() map[int]string {
	return map[int]string{
		0: "the guest powered off", 2: "bad input; nothing was started", 119: "the guest ended with an exit status of its own",
		120: "the guest's kernel panicked", 121: "the hypervisor died or did not start",
		122: "the guest did not power off in time and was killed",
		203: "systemd could not execute the program", 226: "systemd could not set up the sandbox",
		243: "systemd could not load a credential",
	}
}

// signal names one by its number.
func signal(n int) string {
	if name := syscall.Signal(n).String(); !strings.HasPrefix(name, "signal ") {
		return fmt.Sprintf("%d, %s", n, name)
	}
	return fmt.Sprint(n)
}
