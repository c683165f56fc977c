package generator

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// The exit codes. systemd notes any but 0 in the journal and uses what was
// written all the same.
const (
	ExitDone    = 0
	ExitTrouble = 1 // a file has mistakes, or a unit could not be written
	ExitUsage   = 2
)

// Directory is where the system manager wants the units of generators. A
// run into another one is somebody's trial, and no unit of it is ever loaded.
const Directory = "/run/systemd/generator"

// patience is how long a generator may take. systemd waits for 90 seconds, then
// kills all generators at once, and the boot goes on without any of their units.
const patience = 60 * time.Second

// Main is ampoule-generator: argv are the directories that systemd gives
// (systemd.generator(7)), of which the first is used.
func Main(argv []string, drivers []driver.Driver, errors io.Writer) int {
	if len(argv) != 1 && len(argv) != 3 {
		fmt.Fprintln(errors, "usage: ampoule-generator NORMAL-DIR [EARLY-DIR LATE-DIR]\nsystemd runs it; ampoule generate --dry-run shows what it would write")
		return ExitUsage
	}
	// Collect at 8 MiB for the first time rather than at 4: a fresh page costs as
	// much as what is saved by never collecting.
	debug.SetGCPercent(200)
	say := &Log{Errors: errors, Journal: journalSocket, Kernel: kernelLog}
	defer say.Close()
	program, err := program()
	if err != nil {
		say.Failure("ampoule-generator", err)
		return ExitTrouble
	}
	w := &Writer{Out: argv[0]}
	if filepath.Clean(argv[0]) == Directory {
		w.Store = StoreDirectory
	}
	// Whatever hangs (a network file system behind a link) must not take the
	// other generators with it.
	done := make(chan int, 1)
	go func() {
		done <- generate(w, say, Input{
			Dirs: source.SearchPath(), Drivers: drivers, Program: program, Running: Running(""), Last: LastGood(""),
		})
	}()
	select {
	case code := <-done:
		return code
	case <-time.After(patience):
		// The other goroutine has its own; it may hang while it says something.
		last := &Log{Errors: errors, Journal: journalSocket, Kernel: kernelLog}
		defer last.Close()
		last.Failure("ampoule-generator", fmt.Errorf("gave up after %v: a file of a VM, or of its drop-ins, cannot be read to its end", patience))
		return ExitTrouble
	}
}

// generate writes all units and says what there is to say, in the order of the
// VMs.
func generate(w *Writer, say *Log, in Input) int {
	g := New(in)
	vms := g.VMs()
	code := ExitDone
	if len(vms) > 0 {
		if err := w.Open(); err != nil {
			say.Failure("ampoule-generator", err)
			code = ExitTrouble
			w.Store = ""
		}
	}
	say.Problems("", g.Notes())
	type result struct {
		unit Unit
		err  error
	}
	var mu sync.Mutex
	trouble := map[int]result{}
	good := make([]bool, len(vms))
	g.Each(vms, in.Running, func(i int, u Unit) {
		err := w.Write(u)
		good[i] = u.State == Made || u.State == Kept || u.State == Gone
		u.Text, u.Links, u.Files = nil, nil, nil
		if err != nil || len(u.Problems) > 0 {
			mu.Lock()
			trouble[i] = result{u, err}
			mu.Unlock()
		}
	})
	for i := range vms {
		r, ok := trouble[i]
		if !ok {
			continue
		}
		say.Problems(r.unit.Name, r.unit.Problems)
		if r.err != nil {
			say.Failure(r.unit.Name, r.err)
		}
		if r.err != nil || r.unit.Problems.HasErrors() {
			code = ExitTrouble
		}
	}
	if err := w.Forget(func(vm string) bool {
		i, ok := slices.BinarySearch(vms, vm)
		return ok && good[i]
	}); err != nil {
		say.Failure("ampoule-generator", err)
	}
	return code
}

// Running names the VMs that a service runs, sorted.
func Running(root string) []string {
	names, err := state.Services(root)
	if err != nil {
		return nil
	}
	slices.Sort(names)
	return names
}

// LastGood reads the last good units of the host below root.
func LastGood(root string) func(vm string) []byte {
	store := filepath.Join(root, StoreDirectory)
	return func(vm string) []byte { return Last(store, vm) }
}

// program is the path of ampoule, which is installed with its generator:
// PREFIX/lib/systemd/system-generators and PREFIX/bin.
func program() (string, error) {
	own, err := OwnPath()
	if err != nil {
		return "", fmt.Errorf("looking for ampoule: %w", err)
	}
	return filepath.Join(filepath.Dir(own), "..", "..", "..", "bin", "ampoule"), nil
}

// OwnPath is the path of the program that runs, without the links that lead to it.
func OwnPath() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(own)
}
