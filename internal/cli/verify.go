package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/verify"
)

// The exit codes of verify: that of the first broken link in the order of the
// chain, over all VMs.
const (
	exitDeclared    = 10
	exitLoaded      = 11
	exitRunning     = 12
	exitCredentials = 13
	exitGuest       = 14
	exitNotObserved = 15 // with --strict
)

func exitOf(link verify.Link) int {
	switch link {
	case verify.Declared:
		return exitDeclared
	case verify.Loaded:
		return exitLoaded
	case verify.Running:
		return exitRunning
	case verify.Credentials:
		return exitCredentials
	}
	return exitGuest
}

// verified is verify's JSON, which is documented.
type verified struct {
	VMs   []verify.Chain `json:"vms"`
	Notes diag.List      `json:"notes"`
}

const verifyLong = `Follows each VM from its files to its guest, and says of each link whether it is whole, broken, or not observed: by what that was seen, and, where it is broken, why, and what mends it. ` +
	`Of a VM that is named all links are shown; of all VMs of the host, those that are broken.

The links:
  declared     the files as they are now: they are there and have no mistakes
  loaded       what systemd holds is what the files come to: no daemon-reload is due, no other file provides the unit, no drop-in of systemd's takes its command, its plan or its credentials away
  running      what runs was started from the plan that is loaded, and from the hypervisor, kernel, initrd and runner that lie on the disk now
  credentials  what was delivered, and by which channel; whether each source still has that value, is there, and is its owner's alone. Values are compared in memory, with what the running unit holds; none is kept. A source that is a socket or a FIFO is not asked
  guest        its own word: what Readiness= waits for, on its console or over vsock. Otherwise it is not observed

Notes break nothing: lines that do not count because of others, masks, VMs that were started by hand, drop-ins of systemd's without harm. Only root sees everything; for anybody else some links are not observed.

With --json: an object with vms and notes. A VM has name, links and notes; a link has link, grade (whole, broken, not observed), evidence and findings; a finding has kind, what and cure, which has either command or line. ` +
	`The kinds: mistakes, not-declared, hidden, drop-in-alone, reload-due, command-replaced, plan-reset, credential-replaced, failed, old-plan, hypervisor-replaced, device-lost, file-replaced, source-changed, source-missing, source-open, delivery-not-recorded.

Exit codes:
  0   no link is broken (with --strict: all links of all VMs are whole)
  2   bad input, or no VM has that name
  10  declared is broken
  11  loaded is broken
  12  running is broken
  13  credentials is broken
  14  guest is broken
  15  with --strict: none is broken, and one is not observed
The first broken link of any VM counts.`

func verifyCommand(s Streams) *cobra.Command {
	var root string
	var strict, asJSON bool
	cmd := &cobra.Command{
		Use:               "verify [NAME…]",
		Short:             "Check each link from a VM's files to its guest, with the cure for what is broken",
		Long:              verifyLong,
		Example:           "  ampoule verify\n  ampoule verify web\n  ampoule verify --json | jq '.vms[].links[].findings[].cure'",
		ValidArgsFunction: completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			place, g, names, err := declaredAt(cmd, "verify", root, args)
			if err != nil {
				return err
			}
			facts, notes, err := verify.Look(cmd.Context(), place, g, names)
			if err != nil {
				return err
			}
			out := verified{VMs: make([]verify.Chain, 0, len(facts)), Notes: append(diag.List{}, notes...)}
			for _, f := range facts {
				out.VMs = append(out.VMs, verify.Judge(f))
			}
			if asJSON {
				err = printJSON(s.Out, out)
			} else {
				err = printChains(s, out, len(args) > 0)
			}
			return errors.Join(err, codeOf(out.VMs, strict))
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "look for the files below this `DIR` instead of /, without asking systemd")
	cmd.Flags().BoolVar(&strict, "strict", false, "a link that is not observed is as bad as a broken one")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the same as JSON")
	_ = cmd.MarkFlagDirname("root")
	return cmd
}

// codeOf is the exit code of the first broken link.
func codeOf(vms []verify.Chain, strict bool) error {
	whole := true
	for _, link := range verify.Links() {
		for i := range vms {
			if whole = whole && vms[i].Whole(); vms[i].Broken() == link {
				return exitError(exitOf(link))
			}
		}
	}
	if strict && !whole {
		return exitError(exitNotObserved)
	}
	return nil
}

// printChains writes all links of VMs that were named or are broken, and a line
// for each other.
func printChains(s Streams, out verified, all bool) error {
	printProblems(s, out.Notes)
	var b strings.Builder
	if len(out.VMs) == 0 {
		b.WriteString("no VM is declared, and none runs\n")
	}
	for i := range out.VMs {
		c := &out.VMs[i]
		fmt.Fprintf(&b, "%s: %s\n", emit.Visible(c.Name), verdict(c))
		if all || c.Broken() != "" {
			printLinks(&b, c)
			for _, note := range c.Notes {
				fmt.Fprintf(&b, "  note: %s\n", emit.Visible(note))
			}
		}
	}
	_, err := io.WriteString(s.Out, b.String())
	return err
}

// verdict is the chain in a few words.
func verdict(c *verify.Chain) string {
	var unseen []string
	for _, s := range c.Links {
		if s.Grade == verify.NotObserved {
			unseen = append(unseen, string(s.Link))
		}
	}
	notes := ""
	if n := len(c.Notes); n == 1 {
		notes = ", 1 note"
	} else if n > 1 {
		notes = fmt.Sprintf(", %d notes", n)
	}
	switch broken := c.Broken(); {
	case broken != "":
		return "broken at " + string(broken)
	case len(unseen) > 0:
		return "nothing is broken; not observed: " + strings.Join(unseen, ", ") + notes
	}
	return "whole" + notes
}

func printLinks(b *strings.Builder, c *verify.Chain) {
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	for _, s := range c.Links {
		lines := make([]string, 0, len(s.Findings)+len(s.Evidence))
		for _, f := range s.Findings {
			lines = append(lines, f.What, "cure: "+f.Cure.String())
		}
		lines = append(lines, s.Evidence...)
		if len(lines) == 0 {
			lines = append(lines, "")
		}
		row(t, "  "+string(s.Link), string(s.Grade), lines[0])
		for _, line := range lines[1:] {
			row(t, "", "", line)
		}
	}
	_ = t.Flush()
}
