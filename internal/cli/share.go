package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/share"
)

// shareCommand is for ExecStart= of the unit of a share.
func shareCommand(s Streams) *cobra.Command {
	var planFile, digest string
	cmd := &cobra.Command{
		Use:   "share TAG",
		Short: "Serve a share of a VM",
		Args:  argumentsOf("share takes the TAG of a share", 1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := readPlan(s, planFile, digest)
			if err != nil {
				return err
			}
			sh, ok := p.VM.Share(args[0])
			if !ok {
				return fmt.Errorf("%s has no share with the tag %s", p.VM.Name, args[0])
			}
			program, dir, problems := prepareShare(cmd, p, sh)
			if problems.HasErrors() {
				printProblems(s, problems)
				return exitError(run.ExitBadInput)
			}
			return share.Become(program, sh, plan.ShareSocket(p.VM.Name, sh.Tag), dir)
		},
	}
	cmd.Flags().StringVar(&planFile, "plan", "", "the plan's `FILE`")
	cmd.Flags().StringVar(&digest, "digest", "", "the plan's `DIGEST`")
	return cmd
}

// prepareShare finds virtiofsd, and the directory that it is to serve. The service
// manager has made that appear beside the socket, where nobody can put another in
// its place; it must be the one that is looked at here.
func prepareShare(cmd *cobra.Command, p *plan.Plan, sh plan.Share) (program, dir string, problems diag.List) {
	fail := func(format string, args ...any) (string, string, diag.List) {
		problems.Add(diag.Problem{Origin: p.Origin(sh.From), Key: plan.KeyOf(sh.From), Value: share.Line(sh), What: fmt.Sprintf(format, args...)})
		return "", "", problems
	}
	program, problems = share.Find(cmd.Context(), p, host.Local())
	source, wrong := share.Open(p, sh)
	if problems = append(problems, wrong...); problems.HasErrors() {
		return "", "", problems
	}
	if source == nil {
		return fail("%s is not for a guest, or root may not look it up", sh.Source)
	}
	defer source.Close()
	dir = filepath.Join(plan.ShareDirectory(p.VM.Name, sh.Tag), "d")
	served, err := os.Open(dir)
	if err != nil {
		return fail("this is for the unit that the generator makes of a share: %v", err)
	}
	defer served.Close()
	if !share.Same(source, served) {
		return fail("%s was replaced while the share was started, or the unit does not show it (BindPaths=)", sh.Source)
	}
	return program, dir, problems
}
