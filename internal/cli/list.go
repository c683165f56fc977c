package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/source"
)

// listed is a VM in list's JSON, which is documented.
type listed struct {
	Name        string                `json:"name"`
	State       string                `json:"state"`
	Remarks     []string              `json:"remarks"`
	Running     bool                  `json:"running"`
	ByHand      bool                  `json:"by_hand"`
	Declared    bool                  `json:"declared"`
	File        *string               `json:"file"`
	Unit        *string               `json:"unit"`
	Since       *time.Time            `json:"since"`
	Memory      *int64                `json:"memory_bytes"`
	Interfaces  []inventory.Interface `json:"interfaces"`
	PlanRuns    *string               `json:"plan_running"`
	PlanLoaded  *string               `json:"plan_loaded"`
	ReloadDue   bool                  `json:"reload_due"`
	LoadState   *string               `json:"load_state"`
	ActiveState *string               `json:"active_state"`
	SubState    *string               `json:"sub_state"`
	StatusText  *string               `json:"status_text"`
}

const listStates = `States:
  inactive          declared and loaded, and not running
  booting           started, and not ready yet
  ready             the guest has said so, on its console or over vsock (Readiness=)
  started           running; the guest is not observed (Readiness=started)
  rebooting         the guest reboots
  powering off      the guest is about to end
  restarting        it ended, and systemd is about to start it again
  failed            its last run ended with an error
  masked            systemctl mask, or a file that is a link to /dev/null
  broken            its files have mistakes; ampoule status NAME shows them
  not loaded        declared, and systemd has not been told: systemctl daemon-reload

Behind a state may stand: by hand (ampoule run, not systemd), no longer declared (its file is gone), unit of others (that starts it by a plan), masked, ` +
	`files have mistakes, files changed (daemon-reload is due), runs another plan (than its next start would), as UNIT (it runs under a unit of another name).`

func listCommand(s Streams) *cobra.Command {
	var root string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all VMs: declared, loaded by systemd, or running",
		Long: "Prints a line for each VM: those that files declare, those that systemd has loaded, and those that were started by hand. " +
			"MEMORY is what the service uses; INTERFACES are those of this host that were made for it; PLAN the beginning of the digest of the plan that runs, else of the one that is loaded; FILE what the VM was made from. " +
			"What cannot be known is \"-\": without being root, what a service's run wrote down.\n\n" + listStates + "\n\n" +
			"With --json: an array with an object for each VM: name, state, remarks (an array), running, by_hand, declared, file, unit, since (RFC 3339), memory_bytes, interfaces (an array: name, kind, on, up), " +
			"plan_running and plan_loaded (whole digests), reload_due, and systemd's own words as load_state, active_state, sub_state and status_text. What is not there, or not known, is null.\n\n" +
			"Exit code 0, also where there are no VMs.",
		Example: "  ampoule list\n  ampoule list --json | jq -r '.[] | select(.running) | .name'",
		Args:    argumentsOf("list takes no arguments; ampoule status shows one VM", 0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			place, err := placeOf(cmd, root)
			if err != nil {
				return err
			}
			vms, err := inventory.List(cmd.Context(), place)
			if err != nil {
				return err
			}
			if asJSON {
				out := make([]listed, 0, len(vms))
				for _, vm := range vms {
					out = append(out, jsonOf(vm))
				}
				return printJSON(s.Out, out)
			}
			if err := printList(s.Out, vms, sinceOn(s.Out)); err != nil {
				return err
			}
			hints(s, vms)
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "list what is declared below this `DIR` instead of /, without asking systemd")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the VMs as JSON")
	_ = cmd.MarkFlagDirname("root")
	return cmd
}

// placeOf is this host, or the directory of --root.
func placeOf(cmd *cobra.Command, root string) (inventory.Place, error) {
	if root == "" && cmd.Flags().Changed("root") {
		return inventory.Place{}, errors.New("--root is empty")
	}
	return inventory.Place{Root: root, Dirs: source.SearchPath(), Drivers: all.Drivers(), Getenv: os.Getenv}, nil
}

func jsonOf(vm inventory.VM) listed {
	l := listed{
		Name: vm.Name, State: vm.State, Remarks: vm.Remarks, Running: vm.Running, ByHand: vm.ByHand, Declared: vm.Declared, File: known(vm.File), Unit: known(vm.Unit),
		PlanRuns: known(vm.Runs), PlanLoaded: known(vm.Loaded), ReloadDue: vm.ReloadDue, Interfaces: vm.Interfaces,
		LoadState: known(vm.LoadState), ActiveState: known(vm.ActiveState), SubState: known(vm.SubState), StatusText: known(vm.StatusText),
	}
	if l.Remarks == nil {
		l.Remarks = []string{}
	}
	if !vm.Since.IsZero() {
		since := vm.Since.UTC().Truncate(time.Second)
		l.Since = &since
	}
	if vm.Memory >= 0 {
		l.Memory = &vm.Memory
	}
	return l
}

// known is nil for what is empty.
func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// printList writes the table. since says how a time is shown.
func printList(w io.Writer, vms []inventory.VM, since func(time.Time) string) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSTATE\tSINCE\tMEMORY\tINTERFACES\tPLAN\tFILE")
	for _, vm := range vms {
		state := strings.Join(append([]string{vm.State}, vm.Remarks...), ", ")
		memory := "-"
		if vm.Memory >= 0 {
			memory = binarySize(vm.Memory)
		}
		var names []string
		for _, i := range vm.Interfaces {
			names = append(names, i.Name)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", emit.Visible(vm.Name), emit.Visible(state), cmp.Or(since(vm.Since), "-"), memory, cmp.Or(emit.Visible(strings.Join(names, ",")), "-"),
			cmp.Or(shortDigest(cmp.Or(vm.Runs, vm.Loaded)), "-"), cmp.Or(emit.Visible(vm.File), "-"))
	}
	_ = t.Flush()
	_, err := io.WriteString(w, b.String())
	return err
}

// hints says on a terminal what a table leaves to be guessed.
func hints(s Streams, vms []inventory.VM) {
	if len(vms) == 0 {
		fmt.Fprintln(s.Err, "ampoule: no VMs")
	}
	if !term.IsTerminal(int(s.Err.Fd())) {
		return
	}
	var due []string
	for _, vm := range vms {
		if vm.ReloadDue {
			due = append(due, emit.Visible(vm.Name))
		}
	}
	const most = 5
	switch n := len(due); {
	case n > most:
		fmt.Fprintf(s.Err, "ampoule: systemd has not read the files of %d VMs as they are now; systemctl daemon-reload makes it\n", n)
	case n > 0:
		fmt.Fprintf(s.Err, "ampoule: systemd has not read the files of %s as they are now; systemctl daemon-reload makes it\n", strings.Join(due, ", "))
	}
}

// shortDigest is enough of a digest to tell two plans apart.
func shortDigest(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(12, len(hex))]
}

// binarySize is a number of bytes with three digits at most.
func binarySize(n int64) string {
	value, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 999.5 {
			break
		}
		value, unit = value/1024, next
	}
	if unit != "B" && value < 9.95 {
		return fmt.Sprintf("%.1f %s", value, unit)
	}
	return fmt.Sprintf("%.0f %s", value, unit)
}

// sinceOn shows times as they are read best: how long ago on a terminal, and
// elsewhere when.
func sinceOn(out *os.File) func(time.Time) string {
	if term.IsTerminal(int(out.Fd())) {
		now := time.Now()
		return func(t time.Time) string { return ago(now, t) }
	}
	return stamp
}

// stamp is a moment, in UTC; empty for one that never was.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// ago is how long ago a moment was, in its two largest units. A clock that was
// set back since then makes it lie ahead.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d, word := now.Sub(t).Truncate(time.Second), "ago"
	if d < 0 {
		d, word = -d, "ahead"
	}
	if d == 0 {
		return "now"
	}
	text, shown := "", 0
	for _, u := range []struct {
		name string
		of   time.Duration
	}{{"y", 365 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}} {
		n := d / u.of
		if d -= n * u.of; n > 0 {
			text += fmt.Sprintf("%d%s ", n, u.name)
		}
		// The unit behind the first that counts is the last, also where it is 0.
		if shown > 0 || n > 0 {
			shown++
		}
		if shown == 2 {
			break
		}
	}
	return text + word
}
