package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/clean"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/privileged"
)

// left is a VM in clean's JSON, which is documented.
type left struct {
	Name  string       `json:"name"`
	Bytes int64        `json:"bytes"`
	Items []clean.Item `json:"items"`
	// Kept says who still has a use for it; empty: nobody that is known of.
	Kept string `json:"kept"`
}

func cleanCommand(s Streams) *cobra.Command {
	var root string
	var remove, asJSON bool
	cmd := &cobra.Command{
		Use:   "clean [NAME…]",
		Short: "Show, and remove, what VMs have left that are not declared any more",
		Long: "Lists the directories of VMs that no file declares and that do not run: their state, with the disks that Ampoule created, their cache, what a run has left in /run, what root had done for it and did not come to undo, and the last unit that was kept of them. With --remove, those of the VMs that are named are removed, disks included, for good; what root had done is undone before.\n\n" +
			"What belongs to a VM that is declared, masked or running is never removed, nor what a unit file in systemd's directories mentions. A VM that was run by hand from a FILE elsewhere is among those that are listed: nothing tells that it is needed again. Only root sees all of it.\n\n" +
			"With --json: an array with an object for each VM: name, bytes (on the disk), items (kind: state, cache, runtime, prepared or unit; path, bytes, link) and kept (who has a use for it).\n\n" +
			"Exit codes: 0, also where there is nothing; 2 for bad input, with nothing removed; 1 where something could not be removed.",
		Example:           "  ampoule clean\n  ampoule clean --remove old-web",
		ValidArgsFunction: completeLeft,
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := placeOf(cmd, root)
			if err != nil {
				return err
			}
			names, err := vmNames("clean", args)
			if err != nil {
				return err
			}
			switch {
			case remove && len(names) == 0:
				return errors.New("--remove takes the names of VMs; without it, ampoule clean lists what there is")
			case remove && root == "" && os.Geteuid() != 0:
				return errors.New("what VMs have left is for root to remove")
			}
			vms, _, err := inventory.Runs(cmd.Context(), place)
			if err != nil {
				return err
			}
			found, problem := findLeft(root, vms)
			if found, err = chosen(found, names, vms); err != nil {
				return err
			}
			switch {
			case remove:
				return removeLeft(s, root, found)
			case asJSON:
				err = printJSON(s.Out, found)
			default:
				err = printLeft(s.Out, found)
			}
			if problem != nil {
				fmt.Fprintf(s.Err, "ampoule: %v\n", problem)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "look below this `DIR` instead of /, without asking systemd")
	cmd.Flags().BoolVar(&remove, "remove", false, "remove what the named VMs have left, disks included")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the same as JSON")
	_ = cmd.MarkFlagDirname("root")
	cmd.MarkFlagsMutuallyExclusive("remove", "json")
	return cmd
}

// findLeft lists what VMs have left that are none of those, by name.
func findLeft(root string, vms []*inventory.Status) ([]left, error) {
	known := map[string]bool{}
	for _, vm := range vms {
		known[vm.Name] = vm.Declared || vm.Running
	}
	items, err := clean.Find(root, func(name string) bool { return known[name] })
	out := []left{}
	if len(items) == 0 {
		return out, err
	}
	users := clean.FindUsers(root)
	for _, name := range slices.Sorted(maps.Keys(items)) {
		l := left{Name: name, Items: items[name], Kept: users.Of(name)}
		for _, item := range l.Items {
			l.Bytes += item.Bytes
		}
		out = append(out, l)
	}
	return out, err
}

// chosen are those of the names, of which each must have something.
func chosen(found []left, names []string, vms []*inventory.Status) ([]left, error) {
	if len(names) == 0 {
		return found, nil
	}
	var out []left
	for _, name := range names {
		i := slices.IndexFunc(found, func(l left) bool { return l.Name == name })
		j := slices.IndexFunc(vms, func(vm *inventory.Status) bool { return vm.Name == name })
		switch {
		case i >= 0:
			out = append(out, found[i])
		case j >= 0 && vms[j].Running:
			return nil, fmt.Errorf("%s is running, and what it has is its own", name)
		case j >= 0 && vms[j].Declared:
			return nil, fmt.Errorf("%s is declared by %s, and what it has is its own", name, vms[j].File)
		default:
			all := make([]string, 0, len(found))
			for _, l := range found {
				all = append(all, l.Name)
			}
			if near := diag.Nearest(name, all); near != "" {
				return nil, fmt.Errorf("no VM %s has left anything; did you mean %s?", name, near)
			}
			return nil, fmt.Errorf("no VM %s has left anything; ampoule clean lists what there is", name)
		}
	}
	return out, nil
}

func printLeft(w io.Writer, found []left) error {
	if len(found) == 0 {
		_, err := fmt.Fprintln(w, "nothing is left of VMs that are not declared any more")
		return err
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row(t, "NAME", "KIND", "SIZE", "PATH")
	for _, l := range found {
		for i, item := range l.Items {
			name := l.Name
			if i > 0 {
				name = ""
			}
			size := binarySize(item.Bytes)
			if item.Link {
				size = "link"
			}
			row(t, name, string(item.Kind), size, item.Path)
		}
		if l.Kept != "" {
			row(t, "", "kept", "", l.Kept)
		}
	}
	_ = t.Flush()
	_, err := io.WriteString(w, b.String())
	return err
}

// removeLeft removes all, or, where somebody has a use for one, nothing.
func removeLeft(s Streams, root string, found []left) error {
	for _, l := range found {
		if l.Kept != "" {
			return fmt.Errorf("what %s has left is kept: %s", l.Name, l.Kept)
		}
	}
	failed := false
	for _, l := range found {
		for _, item := range l.Items {
			err := undoLeft(root, l.Name, item)
			if err == nil {
				err = clean.Remove(item)
			}
			if err != nil {
				failed = true
				fmt.Fprintf(s.Err, "ampoule: %s: %v\n", l.Name, err)
				continue
			}
			if _, err := fmt.Fprintf(s.Out, "%s: removed %s\n", l.Name, item.Path); err != nil {
				return err
			}
		}
	}
	if failed {
		return exitError(1)
	}
	return nil
}

// undoLeft has undone what root did for a VM of this host.
func undoLeft(root, name string, item clean.Item) error {
	if root != "" || item.Kind != clean.Prepared {
		return nil
	}
	_, err := privileged.Release(privileged.Request{Plan: &plan.Plan{VM: plan.VM{Name: name}}, Network: hostNetwork})
	return err
}

// completeLeft offers the VMs that have left something.
func completeLeft(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	place, err := placeOf(cmd, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	vms, _, err := inventory.Runs(cmd.Context(), place)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	found, _ := findLeft("", vms)
	var names []string
	for _, l := range found {
		names = append(names, l.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
