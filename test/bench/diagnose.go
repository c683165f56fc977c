package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// storePaths and nixVMs are those of the host on which diagnose is measured,
// storeScripts the run scripts that the rebuilds of each VM have left in its store;
// diagnoseLimit and diagnoseMemory are what it may take.
const (
	storePaths, nixVMs, storeScripts = 200_000, 50, 20
	diagnoseLimit                    = 1.0 // seconds
	diagnoseMemory                   = 150 // MiB
)

// builder stands in for a test where a tree of a host is made.
type builder struct {
	testing.TB
	dir string
}

func (b *builder) Helper()         {}
func (b *builder) TempDir() string { return b.dir }
func (b *builder) Fatal(args ...any) {
	panic(fmt.Errorf("making a host: %s", fmt.Sprint(args...)))
}
func (b *builder) Fatalf(format string, args ...any) { b.Fatal(fmt.Sprintf(format, args...)) }
func (b *builder) Skip(args ...any)                  { b.Fatal(args...) }

// nixHost makes the host: of its VMs one has lost its override, and one is newer than
// what runs.
func (s setup) nixHost(dir string) (root string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	defer func() {
		if failed, ok := recover().(error); ok {
			err = failed
		}
	}()
	h := nixhost.New(&builder{dir: dir})
	h.Secret("/etc/secrets/key", "not a secret, for a bench")
	for i := range nixVMs {
		name := fmt.Sprintf("vm-%d", i)
		h.VM(name, nixhost.Loads("API_KEY", "/etc/secrets/key"), func(vm *nixhost.VM) {
			if i == 0 {
				vm.BinScript = "set -e\nexec cloud-hypervisor --fs \"$(cat \"$CREDENTIALS_DIRECTORY/API_KEY\")\"\n"
				return
			}
			nixhost.QEMU(vm)
			nixhost.Passes("API_KEY")(vm)
		})
	}
	h.Switch()
	root = h.Finish()
	h.Fill(storePaths, storeScripts)
	return root, nil
}

// measureDiagnose has a large host explained. The peer is what an administrator types to
// find the same by hand: the run scripts in the store, and what the system refers to.
func measureDiagnose(s setup) ([]measurement, error) {
	dir := filepath.Join(s.dir, "nix")
	root, err := s.nixHost(dir)
	if err != nil {
		return nil, err
	}
	number, err := version("sqlite3")
	if err != nil {
		return nil, err
	}
	system, err := os.Readlink(filepath.Join(root, "run/current-system"))
	if err != nil {
		return nil, err
	}
	closure := `with recursive c(id) as (select id from ValidPaths where path = '` + system + `' union select reference from Refs join c on referrer = c.id) select path from ValidPaths where id in c`
	var ours, peer []float64
	memory := 0.0
	for range s.runs {
		cmd := exec.Command(s.program, "diagnose", "--root", root, "--json")
		began := time.Now()
		out, err := cmd.Output()
		ours = append(ours, time.Since(began).Seconds())
		if err := diagnosed(out, err); err != nil {
			return nil, err
		}
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			memory = max(memory, float64(usage.Maxrss)/1024)
		}
		byHand := exec.Command("sh", "-c", `find "$1/nix/store" -maxdepth 1 -name '*-microvm-run' && sqlite3 "$1/nix/var/nix/db/db.sqlite" "$2"`, "sh", root, closure)
		began = time.Now()
		said, err := byHand.Output()
		peer = append(peer, time.Since(began).Seconds())
		if want := nixVMs * (storeScripts + 1); err != nil || strings.Count(string(said), "-microvm-run\n") < want {
			return nil, fmt.Errorf("by hand %d scripts are found, and there are %d: %w", strings.Count(string(said), "-microvm-run\n"), want, err)
		}
	}
	what := fmt.Sprintf("diagnose: %d store paths, %d VMs, ", storePaths, nixVMs)
	return []measurement{
		{what: what + "median", ours: median(ours), peer: median(peer), peerName: "find and the closure by sqlite3 " + number, show: showSeconds, bound: atMost(median(ours), diagnoseLimit, showSeconds)},
		{what: what + "peak memory", ours: memory, show: showMiB, bound: atMost(memory, diagnoseMemory, showMiB)},
	}, nil
}

// diagnosed says what is wrong with what was found.
func diagnosed(out []byte, err error) error {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	var report struct {
		Findings []struct{ Code, VM string }
		VMs      []any
		Partial  []any
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return fmt.Errorf("diagnose: %w\n%.2000s", err, out)
	}
	lost := 0
	for _, f := range report.Findings {
		if f.Code == "runner-override-lost" && f.VM == "vm-0" {
			lost++
		}
	}
	if lost != 1 || len(report.Findings) != 2 || len(report.VMs) != nixVMs || len(report.Partial) > 0 {
		return fmt.Errorf("diagnose finds something else:\n%.4000s", out)
	}
	return nil
}
