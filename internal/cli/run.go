package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

const runTakes = "run takes either one NAME or FILE, or --plan"

const exitCodes = `Exit codes:
  0    the guest powered off
  2    bad input; nothing was started
  119  the guest's own exit status, where it is one of these codes
  120  the guest's kernel panicked
  121  the hypervisor died or did not start
  122  the guest did not power off in time and was killed`

func runCommand(s Streams) *cobra.Command {
	var sel selection
	var planFile, digest string
	cmd := &cobra.Command{
		Use:   "run NAME|FILE",
		Short: "Run a VM in the foreground",
		Long: "Runs the VM until its guest powers off. Its console is on the terminal, or, where standard output is none, on standard output line by line.\n\n" +
			"SIGTERM, SIGINT and Ctrl-] typed three times press the power button; a guest that has not powered off after the stop timeout " +
			"(TimeoutStopSec= in [Service], 60 seconds by default) is killed. A reboot of the guest keeps plan and credentials.\n\n" +
			"Credentials come from $CREDENTIALS_DIRECTORY where it is set, and else from the sources that the file names.\n\n" + exitCodes,
		Example:           "  ampoule run ./web.microvm\n  ampoule run web --set Memory=2G\n  ampoule plan web --json | ampoule run --plan -",
		Args:              argumentsOf(runTakes, 0, 1),
		ValidArgsFunction: completeVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed
			switch {
			case (len(args) == 1) == given("plan"):
				return errors.New(runTakes)
			case given("plan") && (given("root") || given("set")):
				return errors.New("--plan stands for the whole VM; --set and --root cannot change it")
			case given("digest") && !given("plan"):
				return errors.New("--digest goes with --plan")
			case given("digest") && digest == "":
				// A variable that was not set must not switch the check off.
				return errors.New("--digest is empty")
			}
			if err := sel.verify(cmd, args...); err != nil {
				return err
			}
			p, err := getPlan(cmd.Context(), s, &sel, args, planFile, digest)
			if err != nil {
				return err
			}
			return carryOut(cmd.Context(), s, p, "")
		},
	}
	sel.addFlags(cmd)
	cmd.Flags().StringVar(&planFile, "plan", "", "carry out the plan in this `FILE`, or of standard input for -")
	cmd.Flags().StringVar(&digest, "digest", "", "refuse a plan that does not have this `DIGEST` (sha256:…)")
	return cmd
}

func bootCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "boot",
		Short: "Carry out the plan in $AMPOULE_PLAN, from within a Runner=",
		Long: "Carries out the plan that ampoule run handed to the program named by Runner=, with the credentials in $CREDENTIALS_DIRECTORY. " +
			"The program runs it, or executes it as its last step.\n\n" + exitCodes,
		Args: argumentsOf("boot takes no arguments", 0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, control := os.Getenv(run.PlanVariable), os.Getenv(run.ControlVariable)
			if file == "" || control == "" {
				return fmt.Errorf("boot is run by a program that Runner= names; $%s and $%s are not both set", run.PlanVariable, run.ControlVariable)
			}
			p, err := readPlan(s, file, "")
			if err != nil {
				return err
			}
			return carryOut(cmd.Context(), s, p, control)
		},
	}
}

// getPlan resolves NAME or FILE now, or reads a plan that was made before.
func getPlan(ctx context.Context, s Streams, sel *selection, args []string, planFile, digest string) (*plan.Plan, error) {
	if len(args) == 0 {
		return readPlan(s, planFile, digest)
	}
	res := sel.load(args[0])
	if res.Plan == nil {
		// What a check would note of a VM that is fine is no news here.
		printProblems(s, slices.DeleteFunc(judge(ctx, s, res), func(p diag.Problem) bool { return p.Severity == diag.Note }))
		fmt.Fprintf(s.Err, "ampoule: %s: nothing was started\n", cmp.Or(res.Source.Name, args[0]))
		return nil, exitError(run.ExitBadInput)
	}
	res.Problems = append(res.Problems, byHand(res.VM)...)
	res.Problems.Sort()
	printProblems(s, res.Problems)
	// A plan that a unit carries was frozen before; this one is of now.
	drops := ""
	switch n := len(res.Source.Files) - 1; {
	case n == 1:
		drops = " and 1 drop-in"
	case n > 1:
		drops = fmt.Sprintf(" and %d drop-ins", n)
	}
	fmt.Fprintf(s.Err, "ampoule: %s: resolved now from %s%s\n", res.Source.Name, res.Source.Main, drops)
	return res.Plan, nil
}

// byHand warns of lines of [Service] that only a service manager carries out:
// what is not in the machine that runs must not go unsaid.
func byHand(vm *spec.VM) diag.List {
	var out diag.List
	if vm == nil || os.Getenv("INVOCATION_ID") != "" {
		return nil
	}
	for _, e := range vm.Service {
		if e.Value == "" {
			continue // there was nothing to clear
		}
		switch e.Key {
		case "LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted", "ImportCredential", "TimeoutStopSec", "TimeoutSec":
			continue
		}
		out.Add(diag.Problem{Origin: e.Origin, Severity: diag.Warning, Key: e.Key, Value: diag.Elided,
			What: "run by hand, [Service] is not carried out; systemd does that"})
	}
	return out
}

// credentialsRoot is where systemd has the credentials of services.
const credentialsRoot = "/run/credentials/"

// noPlan says where the plan of a unit went, by the file that should be it.
func noPlan(file string) error {
	unit := filepath.Base(filepath.Dir(file))
	why := "a drop-in with an empty SetCredential= may have cleared it (systemctl cat " + unit + " shows all)"
	if by := hostfiles.Root("").Clearing(unit, "SetCredential", "SetCredentialEncrypted"); len(by) > 0 {
		why = "SetCredential= is cleared at " + strings.Join(by, ", ")
	}
	return fmt.Errorf("the unit does not carry the plan %s; %s", filepath.Base(file), why)
}

// readPlan reads and verifies a plan.
func readPlan(s Streams, file, digest string) (*plan.Plan, error) {
	in, name := s.In, "standard input"
	if file != "-" {
		f, err := os.Open(file)
		// A unit without any credential is denied the directory, or has none.
		missing := errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission)
		if missing && filepath.Base(file) == rule.PlanName && strings.HasPrefix(file, credentialsRoot) {
			return nil, noPlan(file)
		}
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("reading the plan: %w for uid %d; let it, or pass the plan by LoadCredential= and --plan=%%d/NAME", err, os.Geteuid())
		}
		if err != nil {
			return nil, fmt.Errorf("reading the plan: %w", err)
		}
		defer f.Close()
		in, name = f, file
	}
	data, err := io.ReadAll(io.LimitReader(in, plan.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the plan from %s: %w", name, err)
	}
	p, err := plan.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if arch := pipeline.Architecture(); p.VM.Architecture != arch {
		return nil, fmt.Errorf("%s: the plan is for %s, and this host is %s", name, p.VM.Architecture, arch)
	}
	if digest != "" && p.Digest.VM != digest {
		return nil, fmt.Errorf("%s: the plan has the digest %s, not %s; a drop-in of the unit may have replaced it (systemctl cat %s shows all)",
			name, p.Digest.VM, digest, spec.UnitName(p.VM.Name))
	}
	return p, nil
}

// carryOut runs the plan and turns the outcome into words and an exit code.
// control is the descriptor of the run above, for boot.
func carryOut(ctx context.Context, s Streams, p *plan.Plan, control string) error {
	if ctx == nil {
		ctx = context.Background()
	}
	frozen := p.Digest
	p, problems := pipeline.AtStart(p, all.Drivers())
	printProblems(s, problems)
	if p == nil {
		return exitError(run.ExitBadInput)
	}
	d := driver.Find(all.Drivers(), p.VM.Hypervisor)
	if d == nil {
		return fmt.Errorf("the plan names the hypervisor %q, which this version of Ampoule does not have", p.VM.Hypervisor)
	}
	var handed []*os.File
	if control == "" {
		// Neither a Runner= nor a hypervisor is to think that they are its own.
		handed = activation.Files(true)
	}
	out := run.Run(ctx, run.Options{
		Plan: p, Frozen: frozen, Driver: d, Host: host.Local(), Getenv: os.Getenv,
		Stdin: s.In, Stdout: s.Out, Messages: console.NewMessages(s.Err), Control: control, Handed: handed,
		// From now on there is little to do, and to hand it from one thread to
		// another takes processor time from the guest (docs/measured.md).
		Running: func() { runtime.GOMAXPROCS(1) },
	})
	printProblems(s, out.Problems)
	fmt.Fprintf(s.Err, "ampoule: %s: %s\n", p.VM.Name, out.Text)
	if out.Code == 0 {
		return nil
	}
	return exitError(out.Code)
}
