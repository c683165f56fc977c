package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// unitCommand holds what generated units and the package's scripts run, and
// nobody types.
func unitCommand(s Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:    "unit",
		Short:  "Parts of the units that the generator makes",
		Hidden: true,
		Args:   argumentsOf("unit takes a command", 0, 0),
		RunE:   func(*cobra.Command, []string) error { return errors.New("unit takes a command") },
	}
	cmd.AddCommand(refuseCommand(s), resumeCommand(s), endedCommand(), sourcesCommand(s), holdCommand(s), releaseCommand(), shareCommand(s),
		prepareCommand(s), undoCommand())
	return cmd
}

// crashed is the file by which a unit remembers, until it is stopped, that its
// VM ended otherwise than it was told to.
func crashed() string {
	// The user may have other runtime directories too.
	dirs := filepath.SplitList(os.Getenv("RUNTIME_DIRECTORY"))
	for _, dir := range dirs {
		if strings.HasSuffix(filepath.Dir(dir), "/"+state.Root) {
			return filepath.Join(dir, "crashed")
		}
	}
	return filepath.Join(os.Getenv("RUNTIME_DIRECTORY"), "crashed")
}

func refuseCommand(s Streams) *cobra.Command {
	var file string
	var unlessCrashed bool
	cmd := &cobra.Command{
		Use:   "refuse",
		Short: "End a start with the mistakes of the VM's files",
		Args:  argumentsOf("refuse takes no arguments", 0, 0),
		RunE: func(*cobra.Command, []string) error {
			if unlessCrashed && afterCrash() {
				return nil
			}
			return refuse(s, file)
		},
	}
	cmd.Flags().StringVar(&file, "problems", "", "the `FILE` with one mistake a line")
	cmd.Flags().BoolVar(&unlessCrashed, "unless-crashed", false, "let a VM start that has crashed")
	return cmd
}

// afterCrash reports whether the VM has crashed, once.
func afterCrash() bool { return os.Getenv("RUNTIME_DIRECTORY") != "" && os.Remove(crashed()) == nil }

// refuse says why a VM does not start.
func refuse(s Streams, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("the unit does not say why it cannot start (ampoule generate --dry-run does): %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(s.Err, f); err != nil {
		return fmt.Errorf("reading why the unit cannot start: %w", err)
	}
	return exitError(run.ExitBadInput)
}

func resumeCommand(s Streams) *cobra.Command {
	var problems, planFile, digest string
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Run a VM again that has crashed and whose files have mistakes now",
		Args:  argumentsOf("resume takes no arguments", 0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !afterCrash() {
				return refuse(s, problems)
			}
			p, err := readPlan(s, planFile, digest)
			if err != nil {
				return err
			}
			return carryOut(cmd.Context(), s, p, "")
		},
	}
	cmd.Flags().StringVar(&problems, "problems", "", "the `FILE` with one mistake a line")
	cmd.Flags().StringVar(&planFile, "plan", "", "the plan's `FILE`")
	cmd.Flags().StringVar(&digest, "digest", "", "the plan's `DIGEST`")
	return cmd
}

func endedCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ended",
		Short: "Remember whether the VM has crashed",
		Args:  argumentsOf("ended takes no arguments", 0, 0),
		RunE: func(*cobra.Command, []string) error {
			if os.Getenv("RUNTIME_DIRECTORY") == "" {
				return errors.New("this is for ExecStopPost= of a unit with RuntimeDirectory=")
			}
			if !hasCrashed(os.Getenv("SERVICE_RESULT"), os.Getenv("EXIT_STATUS")) {
				if err := os.Remove(crashed()); !errors.Is(err, os.ErrNotExist) {
					return err
				}
				return nil
			}
			f, err := os.OpenFile(crashed(), os.O_WRONLY|os.O_CREATE, 0o600)
			if err != nil {
				return err
			}
			return f.Close()
		},
	}
}

// hasCrashed judges by what systemd gives to ExecStopPost=. Without a status the
// main process was never there.
func hasCrashed(result, status string) bool {
	switch status {
	case "", strconv.Itoa(run.ExitBadInput):
		return false
	case strconv.Itoa(run.ExitKilled):
		return false // it was told to stop
	}
	return result != "success" && result != ""
}

func sourcesCommand(s Streams) *cobra.Command {
	var planFile, digest string
	cmd := &cobra.Command{
		Use:   "sources",
		Short: "Refuse credentials whose sources are missing",
		Args:  argumentsOf("sources takes no arguments", 0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := readPlan(s, planFile, digest)
			if err != nil {
				return err
			}
			problems := run.MissingSources(cmd.Context(), run.Options{Plan: p, Getenv: os.Getenv})
			printProblems(s, problems)
			if problems.HasErrors() {
				return exitError(run.ExitBadInput)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&planFile, "plan", "", "the plan's `FILE`")
	cmd.Flags().StringVar(&digest, "digest", "", "the plan's `DIGEST`")
	return cmd
}

func holdCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "hold",
		Short: "Give running VMs units that outlive the generator",
		Args:  argumentsOf("hold takes no arguments", 0, 0),
		RunE: func(*cobra.Command, []string) error {
			program, err := ownPath()
			if err != nil {
				return err
			}
			held, err := generator.Hold("", program)
			for _, unit := range held {
				fmt.Fprintf(s.Err, "ampoule: %s runs on; systemctl stop stops it in order\n", unit)
			}
			return err
		},
	}
}

func releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "release",
		Short: "Remove the units that hold made",
		Args:  argumentsOf("release takes no arguments", 0, 0),
		RunE:  func(*cobra.Command, []string) error { return generator.Release("") },
	}
}
