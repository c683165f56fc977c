package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// exitNotRunning is that of systemctl status, too.
const exitNotRunning = 3

// status is a VM in status's JSON, which is documented.
type status struct {
	listed
	Description    *string       `json:"description"`
	UnitFile       *string       `json:"unit_file"`
	DropIns        []string      `json:"drop_ins"`
	Pid            *int          `json:"pid"`
	Run            *state.Record `json:"run"`
	Plans          statusPlans   `json:"plans"`
	StateDirectory string        `json:"state_directory"`
	Result         *string       `json:"result"`
	ExitStatus     *int          `json:"exit_status"`
	Ended          *string       `json:"ended"`
	Restarts       int           `json:"restarts"`
	Refused        []string      `json:"refused"`
	Files          []string      `json:"files"`
	Problems       diag.List     `json:"problems"`
}

// statusPlans are the digests of the three plans; null: there is none, or it is
// not known.
type statusPlans struct {
	Runs   *plan.Digest `json:"running"`
	Loaded *plan.Digest `json:"loaded"`
	Files  *plan.Digest `json:"files"`
}

func statusCommand(s Streams) *cobra.Command {
	var root string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Show all that is known of one VM",
		Long: "Prints what a VM is doing, the answers that its run gave to the questions of the plan, whether the plan that runs is the one that systemd has loaded and the one that the files come to now, " +
			"how it ended last, and the mistakes of its files. Of credentials it shows name, size and source. What the run of a service wrote down is for root alone.\n\n" + listStates + "\n\n" +
			"With --json: the object of ampoule list --json, and description, unit_file, drop_ins, pid, run (the record of the run), plans (running, loaded, files: the digests vm and unit of each), state_directory, " +
			"result and exit_status (of the last end, systemd's), ended (the same in words), restarts, refused (why the loaded unit does not start), files and problems. What is not there, or not known, is null.\n\n" +
			"Exit codes:\n  0  the VM runs\n  2  bad input, or no VM has that name\n  3  the VM does not run",
		Example:           "  ampoule status web\n  ampoule status web --json | jq .run.credentials",
		Args:              argumentsOf("status takes one NAME", 1, 1),
		ValidArgsFunction: completeVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := placeOf(cmd, root)
			if err != nil {
				return err
			}
			names, err := vmNames("status", args)
			if err != nil {
				return err
			}
			st, err := inventory.Look(cmd.Context(), place, names[0])
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(s.Out, jsonStatus(st))
			} else {
				err = printStatus(s.Out, st, time.Now())
			}
			if err == nil && !st.Running {
				err = exitError(exitNotRunning)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "look for NAME below this `DIR` instead of /, without asking systemd")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the same as JSON")
	_ = cmd.MarkFlagDirname("root")
	return cmd
}

func jsonStatus(st *inventory.Status) status {
	out := status{
		listed: jsonOf(st.VM), Run: st.Record, StateDirectory: st.StateDirectory, Ended: known(st.Ended),
		Plans:    statusPlans{knownDigest(st.Plans.Runs), knownDigest(st.Plans.Loaded), knownDigest(st.Plans.Files)},
		DropIns:  []string{},
		Refused:  append([]string{}, st.Refused...),
		Files:    append([]string{}, st.Files...),
		Problems: append(diag.List{}, st.Problems...),
	}
	if st.Pid > 0 {
		out.Pid = &st.Pid
	}
	if u := st.Detail; u != nil {
		out.Description, out.UnitFile, out.DropIns = known(u.Description), known(u.FragmentPath), append(out.DropIns, u.DropInPaths...)
		out.Result, out.Restarts = known(u.Result), u.Restarts
		if u.ExitCode != 0 {
			out.ExitStatus = &u.ExitStatus
		}
	}
	return out
}

func knownDigest(d plan.Digest) *plan.Digest {
	if d == (plan.Digest{}) {
		return nil
	}
	return &d
}

// page is a table of names and values.
type page struct {
	text strings.Builder
	rows *tabwriter.Writer
}

// row adds a line unless it would say nothing.
func (p *page) row(name string, parts ...string) {
	var said []string
	for _, part := range parts {
		if part != "" {
			said = append(said, emit.Visible(part))
		}
	}
	if len(said) > 0 {
		fmt.Fprintf(p.rows, "  %s\t%s\n", name, strings.Join(said, ", "))
	}
}

func printStatus(w io.Writer, st *inventory.Status, now time.Time) error {
	var p page
	p.rows = tabwriter.NewWriter(&p.text, 0, 8, 2, ' ', 0)
	head := strings.Join(append([]string{st.State}, st.Remarks...), ", ")
	if !st.Since.IsZero() {
		head += fmt.Sprintf(" since %s (%s)", stamp(st.Since), ago(now, st.Since))
	}
	fmt.Fprintf(&p.text, "%s: %s\n", emit.Visible(st.Name), emit.Visible(head))
	p.service(st)
	p.run(st)
	p.row("State directory", st.StateDirectory)
	p.row("Last end", st.Ended, endedAt(st))
	for i, file := range st.Files {
		p.row(map[bool]string{true: "Files"}[i == 0], file)
	}
	_ = p.rows.Flush()
	p.plans(st)
	p.credentials(st.Record)
	p.mistakes(st)
	_, err := io.WriteString(w, p.text.String())
	return err
}

func (p *page) service(st *inventory.Status) {
	u := st.Detail
	if u == nil {
		if st.File != "" && len(st.Files) == 0 {
			p.row("File", st.File)
		}
		return
	}
	if !strings.Contains(u.Description, ": cannot start: ") {
		p.row("Description", u.Description)
	}
	p.row("Unit", st.Unit, u.FragmentPath, u.UnitFileState)
	for _, dropIn := range u.DropInPaths {
		p.row("Drop-in", dropIn)
	}
	p.row("Load error", u.LoadError)
	said := ""
	if st.StatusText != "" {
		said = fmt.Sprintf("%q", st.StatusText)
	}
	p.row("systemd says", u.ActiveState+" ("+u.SubState+")", said)
	if st.Memory >= 0 {
		p.row("Memory in use", binarySize(st.Memory))
	}
	if u.Restarts > 0 {
		p.row("Restarts", fmt.Sprint(u.Restarts))
	}
	if u.Err != nil {
		p.row("Not known", u.Err.Error())
	}
}

// run shows what is of the run, and of the plan that tells more of it.
func (p *page) run(st *inventory.Status) {
	if st.Pid > 0 {
		p.row("Process", fmt.Sprint(st.Pid))
	}
	if vm := planned(st); vm != nil {
		p.row("Machine", vm.Hypervisor+" "+vm.Machine, fmt.Sprintf("%d VCPU", vm.VCPU), spec.FormatSize(vm.Memory)+" memory")
		if st.Record == nil && vm.Runner != "" {
			p.row("Runner", vm.Runner)
		}
	}
	p.networks(st)
	rec := st.Record
	switch {
	case rec == nil && st.Unread != nil:
		p.row("Run", st.Unread.Error())
	case rec == nil && st.Running && os.Geteuid() != 0:
		p.row("Run", "what it wrote down is for root")
	}
	if rec == nil {
		return
	}
	pid := ""
	if rec.HypervisorPid > 0 {
		pid = fmt.Sprintf("process %d", rec.HypervisorPid)
	}
	p.row("Hypervisor", rec.Hypervisor, rec.Version, pid)
	p.row("Accelerator", rec.Accelerator)
	ready := "not yet"
	if rec.Ready {
		ready = stamp(rec.ReadyAt)
		if rec.Phase == state.Started {
			ready = "the guest is not observed"
		}
	}
	p.row("Started", stamp(rec.Started))
	p.row("Ready", ready)
	if rec.Reboots > 0 {
		p.row("Reboots", fmt.Sprint(rec.Reboots))
	}
	p.row("Channel", rec.Channel, rec.ChannelWhy)
	p.row("Console", cmp.Or(rec.Console, "none"))
}

// networks shows those of the guest, and of interfaces that should be there whether
// they are.
func (p *page) networks(st *inventory.Status) {
	vm := planned(st)
	switch runs := st.Contents; {
	case runs.Merged != nil:
		vm = &runs.Merged.VM
	case runs.Runs != nil:
		vm = &runs.Runs.VM
	}
	if vm == nil {
		return
	}
	for i := range vm.Networks {
		n := &vm.Networks[i]
		gone := ""
		if st.Running && n.Made() && st.Interfaces != nil && !slices.ContainsFunc(st.Interfaces, func(i inventory.Interface) bool { return i.Name == n.Name }) {
			gone = "NOT THERE: ampoule verify says more"
		}
		p.row("Network", emit.Network(*n), gone)
	}
	for _, port := range vm.Ports {
		p.row("Published port", port.String())
	}
}

// planned is the VM of the plan that runs or, where nothing does, would run;
// nil: it is not known.
func planned(st *inventory.Status) *plan.VM {
	if st.Plan == nil || st.Plans.Runs.VM != "" && st.Plans.Runs.VM != st.Plan.Digest.VM {
		return nil
	}
	return &st.Plan.VM
}

func endedAt(st *inventory.Status) string {
	if st.Detail == nil || st.Ended == "" {
		return ""
	}
	return stamp(st.Detail.Exited)
}

// plans says of the three plans whether they are one.
func (p *page) plans(st *inventory.Status) {
	d := st.Plans
	t := tabwriter.NewWriter(&p.text, 0, 8, 2, ' ', 0)
	fmt.Fprint(&p.text, "\nPlan\n")
	row := func(name string, digest plan.Digest, absent, words string) {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", name, cmp.Or(shortDigest(digest.VM), "-"), cmp.Or(words, map[bool]string{true: absent}[digest.VM == ""]))
	}
	if st.Running {
		row("running", d.Runs, "not known", "")
	}
	if st.Unit != "" {
		words := ""
		if st.Running && !st.ByHand && d.Runs.VM != "" && d.Loaded.VM != "" {
			words = "the same"
			if differs := inventory.Difference(d.Runs, d.Loaded); differs != "" {
				words = "NOT WHAT RUNS: " + differs + "; a restart takes it"
			}
		}
		absent := "the unit carries no plan"
		if len(st.Refused) > 0 {
			absent = "none: the unit says what is wrong with the files"
		}
		row("loaded", d.Loaded, absent, words)
	}
	row("files now", d.Files, filesWithout(st), p.filesWords(st))
	_ = t.Flush()
	text := p.text.String()
	p.text.Reset()
	for line := range strings.Lines(text) {
		p.text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// filesWithout is why the files come to no plan.
func filesWithout(st *inventory.Status) string {
	switch {
	case !st.Declared:
		return "there are none"
	case st.FileMasked:
		return "masked"
	}
	return "they have mistakes"
}

func (p *page) filesWords(st *inventory.Status) string {
	d := st.Plans
	if d.Files.VM == "" {
		return ""
	}
	before, whose, cure := d.Loaded, "LOADED", "systemctl daemon-reload, and then a restart, takes them"
	if !st.Running {
		cure = "systemctl daemon-reload takes them"
	}
	if st.ByHand {
		before, whose, cure = d.Runs, "RUNS", "the next start takes them"
	}
	if before.VM == "" {
		return ""
	}
	if differs := inventory.Difference(before, d.Files); differs != "" {
		return map[bool]string{true: "NOT WHAT IS LOADED: ", false: "NOT WHAT RUNS: "}[whose == "LOADED"] + differs + "; " + cure
	}
	return "the same"
}

func (p *page) credentials(rec *state.Record) {
	if rec == nil || len(rec.Credentials) == 0 {
		return
	}
	fmt.Fprint(&p.text, "\nCredentials\n")
	t := tabwriter.NewWriter(&p.text, 0, 8, 2, ' ', 0)
	for _, c := range rec.Credentials {
		fmt.Fprintf(t, "  %s\t%d bytes\t%s\n", emit.Visible(c.Name), c.Bytes, emit.Visible(c.Source))
	}
	_ = t.Flush()
}

// mistakes shows those of the files as they are and, where they are others, those
// that the loaded unit knows.
func (p *page) mistakes(st *inventory.Status) {
	now := map[string]bool{}
	if len(st.Problems) > 0 {
		fmt.Fprint(&p.text, "\nProblems of the files\n")
	}
	for _, problem := range st.Problems {
		now[problem.Error()] = true
		fmt.Fprintf(&p.text, "  %s\n", emit.Visible(problem.Error()))
	}
	var old []string
	for _, line := range st.Refused {
		if !now[line] {
			old = append(old, line)
		}
	}
	if len(old) > 0 {
		fmt.Fprint(&p.text, "\nProblems for which the loaded unit refuses to start\n")
	}
	for _, line := range old {
		fmt.Fprintf(&p.text, "  %s\n", emit.Visible(line))
	}
}
