package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ampoule-vm/ampoule/internal/control/qmp"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
)

// startTimeout bounds one start up to the first byte on the console.
const startTimeout = 2 * time.Minute

// sample is what one start took and needed.
type sample struct {
	running time.Duration // from exec until the guest's processor runs
	console time.Duration // from exec until its first byte on the console
	// Peaks of resident memory in MiB. supervisor is 0 where there is none.
	supervisor, hypervisor float64
}

// measureStarts compares `ampoule run` with QEMU started by hand with the same
// command line and the same credentials.
func measureStarts(s setup) ([]measurement, error) {
	v, err := s.writeVM("bench", "")
	if err != nil {
		return nil, err
	}
	var ours, bare []sample
	// The first start of each fills the page cache and does not count.
	for n := range s.runs + 1 {
		mine, recipe, err := v.ampoule(n == 0)
		if err != nil {
			return nil, fmt.Errorf("ampoule run: %w", err)
		}
		if n == 0 {
			v.recipe = recipe
		}
		theirs, err := v.recipe.start(v.socket)
		if err != nil {
			return nil, fmt.Errorf("QEMU by hand: %w", err)
		}
		if n > 0 {
			ours, bare = append(ours, mine), append(bare, theirs)
		}
	}
	number, err := version(v.recipe.argv[0])
	if err != nil {
		return nil, err
	}
	return startTable(ours, bare, "QEMU "+number+" by hand"), nil
}

func startTable(ours, bare []sample, peer string) []measurement {
	running := func(s sample) time.Duration { return s.running }
	console := func(s sample) time.Duration { return s.console }
	line := func(what string, of func(sample) time.Duration, q float64) measurement {
		return measurement{
			what: what, ours: milliseconds(quantile(pick(ours, of), q)), peer: milliseconds(quantile(pick(bare, of), q)),
			peerName: peer, show: showMilliseconds,
		}
	}
	// What else a machine does only ever adds: the least of all starts of each
	// kind is the least disturbed, and the only one fit for a bound.
	least := line(fmt.Sprintf("start: exec to running guest, least of %d", len(ours)), running, 0)
	added := least.ours - least.peer
	var pairs []time.Duration
	for i := range ours {
		pairs = append(pairs, ours[i].running-bare[i].running)
	}
	supervisor := slices.Max(pick(ours, func(s sample) float64 { return s.supervisor }))
	// How far the guest has come when it is asked differs: hence no maximum.
	qemu := func(s sample) float64 { return s.hypervisor }
	hypervisor, alone := median(pick(ours, qemu)), median(pick(bare, qemu))
	return []measurement{
		least,
		{
			what: "start: what Ampoule adds, least less least", ours: added, peerName: peer, show: showMilliseconds,
			bound: atMost(added, overheadLimit, showMilliseconds),
		},
		line("start: exec to running guest, median", running, 0.5),
		{
			what: "start: what Ampoule adds, median of the pairs", ours: milliseconds(median(pairs)), peerName: peer,
			show: showMilliseconds,
		},
		line("start: exec to running guest, 90 %", running, 0.9),
		line("start: exec to first console byte, median", console, 0.5),
		{
			what: "memory: peak of ampoule run, most", ours: supervisor, peer: hypervisor,
			peerName: "the QEMU process it watches, up to the first byte", show: showMiB,
			bound: atMost(supervisor, memoryLimit, showMiB),
		},
		{
			what: "memory: peak of QEMU itself, median", ours: hypervisor, peer: alone, peerName: peer, show: showMiB,
			bound: ratioAtMost(hypervisor, alone, 1.1),
		},
	}
}

// pick returns one number of every sample.
func pick[S any, T time.Duration | float64](samples []S, of func(S) T) []T {
	var out []T
	for _, s := range samples {
		out = append(out, of(s))
	}
	return out
}

// earlyConsole makes the kernel's first byte come before seconds of emulated
// boot bury the difference.
const earlyConsole = "earlycon=uart8250,io,0x3f8 "

// vm is the .microvm file of the measurement and what was learnt from its first
// start.
type vm struct {
	setup
	file, socket, key string
	recipe            *recipe
}

// writeVM makes a VM whose guest gets words on its kernel command line; lines
// are more of its file.
func (s setup) writeVM(name, words string, lines ...string) (*vm, error) {
	v := &vm{setup: s, file: filepath.Join(s.dir, name+".microvm"), socket: filepath.Join(s.dir, "monitor")}
	v.key = filepath.Join(s.dir, "key")
	if err := os.WriteFile(v.key, []byte("a key of two dozen bytes"), 0o600); err != nil {
		return nil, err
	}
	// The second monitor tells when the guest runs, in both kinds of start
	// alike.
	text := fmt.Sprintf("[MicroVM]\nAccelerator=tcg\nMemory=512M\nKernel=%s\nInitrd=%s\n"+
		"KernelCommandLine=%s\n"+
		"LoadCredential=KEY:%s\nSetCredential=ENVIRONMENT:production\n"+
		"HypervisorArgs=-qmp unix:%s,server=on,wait=off\n%s\n",
		s.guest.Kernel, s.guest.Initrd, earlyConsole+guest.TestParameters+" "+words, v.key, v.socket, strings.Join(lines, "\n"))
	return v, os.WriteFile(v.file, []byte(text), 0o600)
}

// ampoule starts the VM by the program. With learn, it returns how to start the
// same hypervisor without it.
func (v *vm) ampoule(learn bool) (sample, *recipe, error) {
	cmd := v.command(v.file)
	console, err := cmd.StdoutPipe()
	if err != nil {
		return sample{}, nil, err
	}
	var words bytes.Buffer
	cmd.Stderr = &words
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, nil, err
	}
	var r *recipe
	got, err := observe(started, v.socket, console, func(got *sample) error {
		pid, err := onlyChild(cmd.Process.Pid)
		if err != nil {
			return err
		}
		got.supervisor, err = peak(cmd.Process.Pid)
		if err != nil {
			return err
		}
		got.hypervisor, err = peak(pid)
		if err == nil && learn {
			r, err = readRecipe(pid)
		}
		return err
	})
	// It says that the hypervisor was told to end, as it was.
	if err := finish(cmd); err != nil {
		return sample{}, nil, err
	}
	if err != nil {
		return sample{}, nil, fmt.Errorf("%w\n%s", err, words.String())
	}
	return got, r, nil
}

// ownSession gives a process a session of its own. Linux may share the
// processors out by session before it does by process (sched_autogroup), and
// ampoule's hypervisor has one of its own: without this, the peer would have
// less of a busy machine.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// observe waits for the guest, takes the sample while it runs, and ends it.
func observe(started time.Time, socket string, console interface{ Read([]byte) (int, error) }, sampled func(*sample) error) (sample, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	var got sample
	first := make(chan error, 1)
	go func() {
		var b [1]byte
		_, err := console.Read(b[:])
		got.console = time.Since(started)
		first <- err
		// Who writes to the console must not have to wait.
		for buf := make([]byte, 4096); err == nil; {
			_, err = console.Read(buf)
		}
	}()
	monitor, err := dial(ctx, socket)
	if err != nil {
		return sample{}, err
	}
	defer monitor.Close()
	if err := waitRunning(ctx, monitor); err != nil {
		return sample{}, err
	}
	got.running = time.Since(started)
	select {
	case err = <-first:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return sample{}, fmt.Errorf("waiting for the console: %w", err)
	}
	if err := sampled(&got); err != nil {
		return sample{}, err
	}
	return got, monitor.Execute(ctx, "quit", nil, nil)
}

// dial connects with the monitor as soon as there is one.
func dial(ctx context.Context, socket string) (*qmp.Client, error) {
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return qmp.New(ctx, conn)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the monitor: %w", err)
		case <-time.After(time.Millisecond):
		}
	}
}

func waitRunning(ctx context.Context, monitor *qmp.Client) error {
	var status struct {
		Running bool `json:"running"`
	}
	if err := monitor.Execute(ctx, "query-status", nil, &status); err != nil || status.Running {
		return err
	}
	for {
		select {
		case e, ok := <-monitor.Events():
			if !ok {
				return errors.New("the hypervisor went away before the guest ran")
			}
			if e.Event == "RESUME" {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("waiting until the guest runs: %w", ctx.Err())
		}
	}
}

// finish waits for a process whose exit code does not matter, and kills it
// where it does not end.
func finish(cmd *exec.Cmd) error {
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		return fmt.Errorf("%s did not end and was killed", cmd.Path)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// onlyChild returns the process that ampoule run has started.
func onlyChild(pid int) (int, error) {
	children, err := childrenOf(pid)
	if err != nil {
		return 0, err
	}
	if len(children) != 1 {
		return 0, fmt.Errorf("process %d has the children %d, want one", pid, children)
	}
	return children[0], nil
}

// childOf returns the one child of a process whose program has such a name.
func childOf(pid int, prefix string) (int, error) {
	children, err := childrenOf(pid)
	if err != nil {
		return 0, err
	}
	for _, child := range children {
		if path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", child)); err == nil && strings.HasPrefix(filepath.Base(path), prefix) {
			return child, nil
		}
	}
	return 0, fmt.Errorf("none of the children %d of process %d is a %s…", children, pid, prefix)
}

func childrenOf(pid int) ([]int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	var children []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that ended
		}
		if err != nil {
			return nil, fmt.Errorf("reading the children: %w", err)
		}
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			children = append(children, child)
		}
	}
	return children, nil
}

// peak returns the most resident memory that a process has had, in MiB.
func peak(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the peak of memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			return float64(kib) / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}
