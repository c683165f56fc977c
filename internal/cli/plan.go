package cli

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/share"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

func planCommand(s Streams) *cobra.Command {
	var sel selection
	var asJSON, asUnit bool
	var part sharePart
	cmd := &cobra.Command{
		Use:   "plan NAME|FILE",
		Short: "Show what a VM's files come to, without starting it",
		Long: "Prints the plan of a VM: what is decided, what is answered only at start, and the hypervisor's command line. " +
			"The plan depends on the files, the architecture and Ampoule's version alone; no file that it names is opened, and no secret is in it.\n\n" +
			"With --json it is the canonical form, one line, the same bytes for the same files; ampoule run --plan takes it.\n\n" +
			"With --unit it is a service for systemd that runs this plan, frozen, in a sandbox that is closed but for what the plan needs. " +
			"The lines of [Unit], [Service] and [Install] are in it. Its credentials are loaded by systemd; save it under a name of your own.\n\n" +
			"A virtiofs share is served by a service of its own, which the VM's wants. With --unit --share TAG --of UNIT it is that of the share TAG, " +
			"for the VM's service under the name UNIT, with which it starts, restarts and stops. Save it under the name that --unit says for it.",
		Example: "  ampoule plan web\n  ampoule plan ./web.microvm --json\n  ampoule plan web --unit > /etc/systemd/system/web.service\n" +
			"  ampoule plan web --unit --share data --of web.service > /etc/systemd/system/microvm-share@web:data.service",
		Args:              argumentsOf("plan takes one NAME or FILE", 1, 1),
		ValidArgsFunction: completeVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sel.verify(cmd, args...); err != nil {
				return err
			}
			if err := part.verify(cmd, asUnit); err != nil {
				return err
			}
			res := sel.load(args[0])
			printProblems(s, res.Problems)
			if res.Plan == nil {
				return exitError(run.ExitBadInput)
			}
			switch {
			case part.tag != "":
				return part.print(s, res)
			case asUnit:
				return printUnit(s, res)
			case asJSON:
				_, err := s.Out.Write(append(res.Plan.JSON(), '\n'))
				return err
			}
			return emit.Plan(s.Out, res.Plan)
		},
	}
	sel.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the plan as canonical JSON")
	cmd.Flags().BoolVar(&asUnit, "unit", false, "print a service that runs the plan")
	part.addFlags(cmd)
	cmd.MarkFlagsMutuallyExclusive("json", "unit")
	cmd.MarkFlagsMutuallyExclusive("json", "share")
	return cmd
}

// sharePart is the unit of a share, in the place of the VM's.
type sharePart struct{ tag, service string }

func (p *sharePart) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.tag, "share", "", "with --unit, print the service of the virtiofs share with this `TAG`")
	cmd.Flags().StringVar(&p.service, "of", "", "with --share, the name of the VM's service, as `UNIT`")
	for _, name := range []string{"share", "of"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	cmd.MarkFlagsRequiredTogether("share", "of")
}

// serviceName is that of a service, as systemd.unit(5) has it.
var serviceName = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]+)?\.service$`)

func (p *sharePart) verify(cmd *cobra.Command, asUnit bool) error {
	switch {
	case !cmd.Flags().Changed("share"):
		return nil
	case p.tag == "":
		return errors.New("--share is empty; accepted: the TAG of a share")
	case !asUnit:
		return errors.New("--share is for --unit")
	case !serviceName.MatchString(p.service) || len(p.service) > 255:
		return fmt.Errorf("--of=%s: no name of a service; accepted: as web.service, of at most 255 letters, digits, ':', '_', '.', '-' and '\\'", p.service)
	}
	return nil
}

// print prints the service of one share.
func (p *sharePart) print(s Streams, res pipeline.Result) error {
	source, err := unitSource(res)
	if err != nil {
		return err
	}
	source.Service = p.service
	units, err := emit.ShareUnits(source)
	if err != nil {
		return err
	}
	name := spec.ShareUnitName(res.Plan.VM.Name, p.tag)
	i := slices.IndexFunc(units, func(u emit.ShareUnit) bool { return u.Name == name })
	if i < 0 {
		return fmt.Errorf("--share=%s: %s has no virtiofs share of that tag; accepted: %s", p.tag, res.Plan.VM.Name, cmp.Or(servedTags(res.Plan), "nothing, for it has none"))
	}
	_, err = s.Out.Write(units[i].Text)
	return err
}

// servedTags are those of the shares that have units of their own.
func servedTags(p *plan.Plan) string {
	var tags []string
	for _, sh := range p.VM.Served() {
		tags = append(tags, sh.Tag)
	}
	return strings.Join(tags, ", ")
}

// printUnit prints the service of a VM as it would be on this host.
func printUnit(s Streams, res pipeline.Result) error {
	text, err := unitText(res)
	if err != nil {
		return err
	}
	if _, err = s.Out.Write(text); err != nil {
		return err
	}
	var notes diag.List
	for _, sh := range res.Plan.VM.Served() {
		notes.Add(diag.Problem{
			Origin: res.Plan.Origin(sh.From), Severity: diag.Note, Key: plan.KeyOf(sh.From), Value: share.Line(sh),
			What:     "a unit of its own serves it, " + spec.ShareUnitName(res.Plan.VM.Name, sh.Tag),
			Accepted: "print that too, with --share " + sh.Tag + " --of UNIT, where UNIT is the name of the VM's unit",
		})
	}
	printProblems(s, notes)
	return nil
}

// unitText is the service of a VM as it would be on this host, also of one whose
// files have mistakes.
func unitText(res pipeline.Result) ([]byte, error) {
	source, err := unitSource(res)
	if err != nil {
		return nil, err
	}
	return emit.Unit(source)
}

func unitSource(res pipeline.Result) (emit.UnitSource, error) {
	program, err := ownPath()
	if err != nil {
		return emit.UnitSource{}, err
	}
	source := emit.UnitSource{Plan: res.Draft, Resolved: res.Resolved, Main: res.Source.Fragment, Program: program}
	for _, file := range res.Files() {
		path, err := filepath.Abs(file)
		if err != nil {
			return emit.UnitSource{}, fmt.Errorf("looking for the path of %s: %w", file, err)
		}
		source.Files = append(source.Files, path)
	}
	if hostfiles.Root("").HasGroup("kvm") {
		source.KVMGroup = "kvm"
	}
	return source, nil
}
