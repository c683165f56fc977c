package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/diagnose"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
)

// The exit codes of diagnose, beside 0 and that of bad input.
const (
	exitWarnings = 1
	exitErrors   = 3
)

const diagnoseLong = `Reads a NixOS host and explains the state of the microVMs that microvm.nix makes on it: what is declared, installed, booted and running, where these differ, which credentials never reach their guest, which secrets lie open, and why. ` +
	`It needs no Nix, asks nobody, changes nothing, and reads what whoever calls it may read; what could not be read is said at the end.

First comes a table of the VMs, with the beginning of the store path of each runner; then a finding after the other, the worst first: one sentence, the evidence with paths and lines, the cause, and what to do. Lines under "do" are for a shell as they are; what has to be written elsewhere stands behind "#". ` +
	`The causes, with what they are recognised by, are in docs/diagnose.md.

With --root the host is a tree that lies elsewhere: a disk that is mounted, a copy. Links in it are followed as on the host itself.

With --against two VMs are set side by side: in what they differ, and which of the differences explains what is wrong with the first.

With --json: an object with root, findings (code, severity, vm, title, evidence, cause, cure), vms (name, declared, installed, booted, running) and partial (path, why, unknown); with --against also comparison. A finding without vm is the host's. running is an object with pid and since, false, or null where it is not known.

Exit codes:
  0  nothing was found; notes do not count
  1  warnings, and no error
  2  bad input, or no VM has that name
  3  errors`

func diagnoseCommand(s Streams) *cobra.Command {
	var root, against string
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "diagnose [NAME…]",
		Short:             "Explain the state of the microVMs of a NixOS host with microvm.nix",
		Long:              diagnoseLong,
		Example:           "  ampoule diagnose\n  ampoule diagnose test-vm\n  ampoule diagnose test-vm --against app-vm-01\n  ampoule diagnose --root /mnt --json | jq -r '.findings[].code'",
		ValidArgsFunction: completeNixVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			if root == "" && cmd.Flags().Changed("root") {
				return errors.New("--root is empty")
			}
			if against != "" && len(args) != 1 {
				return errors.New("--against takes one NAME to compare with")
			}
			tree, err := nixstore.NewTree(root)
			if err != nil {
				return err
			}
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("looking for the path of this program: %w", err)
			}
			h := diagnose.Look(tree, program)
			for _, name := range append(slices.Clone(args), against) {
				if name != "" && h.Find(name) == nil {
					return noSuchVM(h, name)
				}
			}
			report := diagnose.Judge(h, args)
			if against != "" {
				c := diagnose.Compare(h, h.Find(args[0]), h.Find(against))
				report.Comparison = &c
			}
			if asJSON {
				err = printJSON(s.Out, report)
			} else {
				err = printReport(s.Out, &report, len(args) > 0)
			}
			return errors.Join(err, codeOfReport(&report))
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "read the host whose files lie below this `DIR` instead of /")
	cmd.Flags().StringVar(&against, "against", "", "compare with the VM of this `NAME`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the same as JSON")
	_ = cmd.MarkFlagDirname("root")
	_ = cmd.RegisterFlagCompletionFunc("against", completeNixVM)
	return cmd
}

// completeNixVM offers the VMs in microvm.nix's usual directory.
func completeNixVM(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	entries, _ := os.ReadDir("/var/lib/microvms")
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func noSuchVM(h *diagnose.Host, name string) error {
	names := make([]string, 0, len(h.VMs))
	for _, vm := range h.VMs {
		names = append(names, vm.Name)
	}
	switch near := diag.Nearest(name, names); {
	case near != "":
		return fmt.Errorf("no VM has the name %q; did you mean %s?", name, near)
	case len(names) == 0:
		return fmt.Errorf("no VM has the name %q; there is none in %s, and no unit declares one", name, h.StateDir)
	}
	return fmt.Errorf("no VM has the name %q; accepted: %s", name, strings.Join(names, ", "))
}

func codeOfReport(r *diagnose.Report) error {
	worst := diag.Note
	for _, f := range r.Findings {
		worst = min(worst, f.Severity)
	}
	switch worst {
	case diag.Error:
		return exitError(exitErrors)
	case diag.Warning:
		return exitError(exitWarnings)
	}
	return nil
}

// printer writes a report for people.
type printer struct {
	strings.Builder
	width  int
	colour bool
}

// most VMs of which none has a finding are counted in place of being listed.
const mostListed = 20

func printReport(w *os.File, r *diagnose.Report, named bool) error {
	p := &printer{width: 80}
	if term.IsTerminal(int(w.Fd())) {
		if width, _, err := term.GetSize(int(w.Fd())); err == nil && width > 0 {
			p.width = min(width, 110)
		}
		p.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	p.table(r, named)
	if r.Comparison != nil {
		p.comparison(r.Comparison)
	}
	for i := range r.Findings {
		p.WriteString("\n")
		p.finding(&r.Findings[i])
	}
	if len(r.Findings) == 0 {
		p.WriteString("\nnothing was found\n")
	}
	if len(r.Partial) > 0 {
		p.WriteString("\nNot known, since it could not be read:\n")
		for _, u := range r.Partial {
			p.wrapped("  ", "      ", emit.Visible(u.Path)+": "+emit.Visible(u.Why)+"; so it is not known: "+emit.Visible(u.Unknown))
		}
	}
	_, err := io.WriteString(w, p.String())
	return err
}

// table shows the VMs with the beginnings of their runners' hashes.
func (p *printer) table(r *diagnose.Report, named bool) {
	if len(r.VMs) == 0 {
		p.WriteString("no VM of microvm.nix is declared, installed or running\n")
		return
	}
	found := map[string]int{}
	for _, f := range r.Findings {
		found[f.VM]++
	}
	hidden := 0
	t := tabwriter.NewWriter(p, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VM\tDECLARED\tINSTALLED\tBOOTED\tRUNNING\tFINDINGS")
	for _, vm := range r.VMs {
		if !named && len(r.VMs) > mostListed && found[vm.Name] == 0 {
			hidden++
			continue
		}
		running := "no"
		switch run := vm.Running.(type) {
		case diagnose.Run:
			running = "pid " + strconv.Itoa(run.PID)
		case nil:
			running = "unknown"
		}
		row(t, emit.Visible(vm.Name), short(vm.Declared), short(vm.Installed), short(vm.Booted), running, strconv.Itoa(found[vm.Name]))
	}
	_ = t.Flush()
	if hidden > 0 {
		fmt.Fprintf(p, "and %d VMs of which nothing is to be said\n", hidden)
	}
}

// short is enough of a store path to tell two runners apart.
func short(p *string) string {
	if p == nil {
		return "-"
	}
	base := path.Base(*p)
	return emit.Visible(base[:min(8, len(base))])
}

func (p *printer) finding(f *diagnose.Finding) {
	who := "host"
	if f.VM != "" {
		who = emit.Visible(f.VM)
	}
	p.wrapped(p.paint(f.Severity, who+": "+f.Severity.String())+": ", "  ", emit.Visible(f.Title)+" ["+string(f.Code)+"]")
	const most = 12
	for i, e := range f.Evidence {
		if i == most && len(f.Evidence) > most+1 {
			fmt.Fprintf(p, "  and %d more\n", len(f.Evidence)-most)
			break
		}
		p.WriteString("  " + emit.Visible(where(e)) + "\n")
		p.wrapped("      ", "      ", emit.Visible(e.What))
	}
	p.wrapped("  why: ", "       ", emit.Visible(f.Cause))
	p.WriteString("  do:\n")
	for _, line := range f.Cure {
		p.WriteString("    " + emit.Visible(line) + "\n")
	}
}

// where is the place that evidence is, as editors take it.
func where(e diagnose.Evidence) string {
	switch {
	case e.Line > 0 && e.To > e.Line:
		return fmt.Sprintf("%s:%d-%d", e.Path, e.Line, e.To)
	case e.Line > 0:
		return fmt.Sprintf("%s:%d", e.Path, e.Line)
	}
	return e.Path
}

// paint colours the beginning of a finding, on a terminal alone.
func (p *printer) paint(s diag.Severity, text string) string {
	if !p.colour {
		return text
	}
	colour := map[diag.Severity]string{diag.Error: "\x1b[1;31m", diag.Warning: "\x1b[1;33m", diag.Note: "\x1b[1m"}[s]
	return colour + text + "\x1b[0m"
}

// wrapped writes words in lines of the terminal's width. A word that is longer, as a
// store path is, is not broken: it is to be copied.
func (p *printer) wrapped(first, rest, text string) {
	p.WriteString(first)
	at := len(first)
	if p.colour && strings.HasPrefix(first, "\x1b") {
		at -= len("\x1b[1;31m") + len("\x1b[0m")
	}
	begin := true
	for word := range strings.FieldsSeq(text) {
		n := len([]rune(word))
		if !begin && at+1+n > p.width {
			p.WriteString("\n" + rest)
			at, begin = len(rest), true
		}
		if !begin {
			p.WriteByte(' ')
			at++
		}
		p.WriteString(word)
		at, begin = at+n, false
	}
	p.WriteByte('\n')
}

// comparison writes what two VMs have in common below what they differ in.
func (p *printer) comparison(c *diagnose.Comparison) {
	fmt.Fprintf(p, "\n%s beside %s:\n", emit.Visible(c.Of), emit.Visible(c.Against))
	explained := false
	for _, differs := range []bool{true, false} {
		for _, f := range c.Facts {
			if f.Differs != differs {
				continue
			}
			if !differs {
				p.wrapped("  same    ", "          ", f.Name+": "+emit.Visible(f.Of))
				continue
			}
			p.wrapped("  differs ", "          ", f.Name+":")
			p.wrapped("            ", "            ", emit.Visible(c.Of)+": "+emit.Visible(f.Of))
			p.wrapped("            ", "            ", emit.Visible(c.Against)+": "+emit.Visible(f.Against))
			for _, code := range f.Explains {
				explained = true
				p.wrapped("            ", "            ", "explains "+string(code))
			}
		}
	}
	if len(c.Findings) > 0 && !explained {
		p.wrapped("  ", "  ", "what is found of "+emit.Visible(c.Of)+" alone is explained by none of these differences")
	}
}
