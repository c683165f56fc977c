package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/control/qmp"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
)

const (
	// bootTimeout bounds one boot up to the hypervisor's end.
	bootTimeout = 3 * time.Minute
	// settleTime is how long after a guest's first byte the memory of who
	// watches it is read: it has done what a start takes, and the guest boots.
	settleTime = 3 * time.Second
	// quitTimeout bounds the end of a hypervisor that was told to quit.
	quitTimeout = 20 * time.Second
	// powerOff is what the guest does of itself when it has booted.
	powerOff = "ampoule.test=poweroff"
)

// measureBoots compares the whole life of a guest that powers off by itself:
// under ampoule run, with QEMU by hand from the same recipe, and under
// systemd-vmspawn, whose QEMU has other flags. Who watches the guest is asked
// for its memory meanwhile.
func measureBoots(s setup) ([]measurement, error) {
	peer, err := findVmspawn(s)
	if err != nil {
		return nil, err
	}
	var out []measurement
	var ours memory
	most := ""
	for _, channel := range channels {
		found, watcher, err := s.bootsBy(channel)
		if err != nil {
			return nil, fmt.Errorf("with %s: %w", channel, err)
		}
		out = append(out, found...)
		// The channel that needs most counts.
		if watcher.private > ours.private {
			ours, most = watcher, channel
		}
	}
	number := "systemd-vmspawn " + peer.version
	mine, theirs, err := s.bootsBeside(peer)
	if err != nil {
		return nil, fmt.Errorf("systemd-vmspawn: %w", err)
	}
	out = append(out, measurement{
		what: "boot to power-off, one", ours: mine.took.Seconds(), peer: theirs.took.Seconds(), show: showSeconds,
		peerName: number + ", with QEMU's flags of its choice",
	})
	out = append(out, memoryTable("alone, by "+most, ours, theirs.alone, number+" watching the same guest")...)
	return append(out, memoryTable("beside another", mine.beside, theirs.beside,
		number+" watching the same guest, beside another that watches a stub")...), nil
}

// bootsBy boots in turn with ampoule run and by hand.
func (s setup) bootsBy(channel string) ([]measurement, memory, error) {
	v, err := s.writeVM("boot-"+channel, powerOff, "CredentialChannel="+channel)
	if err != nil {
		return nil, memory{}, err
	}
	if _, v.recipe, err = v.ampoule(true); err != nil {
		return nil, memory{}, err
	}
	var ours, bare []life
	var watcher memory
	both := []func() error{
		func() error {
			mine, err := watchBoot(s.command(v.file), func(pid int) error {
				found, err := memoryOf(pid)
				if found.private > watcher.private {
					watcher = found
				}
				return err
			})
			ours = append(ours, mine)
			if err != nil {
				return fmt.Errorf("ampoule run: %w", err)
			}
			return nil
		},
		func() error {
			theirs, err := v.recipe.boot()
			bare = append(bare, theirs)
			if err != nil {
				return fmt.Errorf("QEMU by hand: %w", err)
			}
			return nil
		},
	}
	for range s.boots {
		for _, boot := range both {
			if err := boot(); err != nil {
				return nil, memory{}, err
			}
		}
		// Who comes second must not be always the same.
		slices.Reverse(both)
	}
	number, err := version(v.recipe.argv[0])
	if err != nil {
		return nil, memory{}, err
	}
	line := func(what, name string, of func(life) time.Duration, q float64) measurement {
		mine, peers := quantile(pick(ours, of), q).Seconds(), quantile(pick(bare, of), q).Seconds()
		return measurement{
			what: fmt.Sprintf("boot to power-off%s by %s, %s of %d", what, channel, name, s.boots), ours: mine, peer: peers,
			peerName: "QEMU " + number + " by hand", show: showSeconds,
			bound: ratioAtMost(mine, peers, bootRatioLimit), aims: []bound{ratioAtMost(mine, peers, bootRatioAim)},
		}
	}
	took := func(l life) time.Duration { return l.took }
	// One boot differs from the next by a tenth, who comes first or not. What
	// the runner takes from its guest can be seen all the same: it is no more
	// than its own processor time.
	own := median(pick(ours, func(l life) time.Duration { return l.own })).Seconds()
	hypervisor := median(pick(ours, func(l life) time.Duration { return l.processor - l.own })).Seconds()
	return []measurement{
		line("", "median", took, 0.5),
		line("", "least", took, 0),
		line(": processor time", "median", func(l life) time.Duration { return l.processor }, 0.5),
		{
			what: "boot to power-off: processor time of ampoule run alone by " + channel + ", median", ours: own, peer: hypervisor,
			peerName: "the QEMU process it watches", show: showSeconds,
			bound: ratioAtMost(own, hypervisor, bootRatioLimit-1), aims: []bound{ratioAtMost(own, hypervisor, bootRatioAim-1)},
		},
	}, watcher, nil
}

// watched is one boot and the memory of who watched it.
type watched struct {
	life
	alone, beside memory
}

// bootsBeside boots the same guest with ampoule run and with systemd-vmspawn,
// for a while beside another of its kind: how much of a program's text is
// private, and what one more guest thus costs, hangs on that.
func (s setup) bootsBeside(peer vmspawn) (ours, theirs watched, err error) {
	st, err := newStub(filepath.Join(s.dir, "stub-that-stays"), "qemu", true)
	if err != nil {
		return ours, theirs, err
	}
	boot := func(cmd, another *exec.Cmd, then func()) (w watched, err error) {
		w.life, err = watchBoot(cmd, func(pid int) (err error) {
			defer then()
			if w.alone, err = memoryOf(pid); err != nil {
				return err
			}
			return st.beside(another, func() (err error) {
				w.beside, err = memoryOf(pid)
				return err
			})
		})
		return w, err
	}
	v, err := s.writeVM("boot-beside", powerOff)
	if err != nil {
		return ours, theirs, err
	}
	another, err := s.writeVM("another", "", "HypervisorPath="+st.program)
	if err != nil {
		return ours, theirs, err
	}
	ours, err = boot(s.command(v.file), s.command(another.file), func() {})
	if err != nil {
		return ours, theirs, fmt.Errorf("ampoule run: %w", err)
	}
	address, hangUp, err := peer.silentBus()
	if err != nil {
		return ours, theirs, err
	}
	defer hangUp()
	flags := append(peer.flags(s), "--system", "--console=read-only", "--console-transport=serial", withoutKeys,
		"--load-credential=KEY:"+v.key, "--set-credential=ENVIRONMENT:production", anyRoot, "panic=-1", powerOff)
	cmd := peer.command("/usr/bin", append(flags, strings.Fields(earlyConsole+guest.TestParameters)...)...)
	cmd.Env = append(cmd.Env, address)
	second, err := peer.another()
	if err != nil {
		return ours, theirs, err
	}
	theirs, err = boot(cmd, second.command(filepath.Dir(st.program), append(second.flags(s), "--user", "--console=headless",
		withoutKeys, "--load-credential=KEY:"+v.key, anyRoot)...), hangUp)
	return ours, theirs, err
}

// beside calls f while a command runs whose stub stays.
func (st stub) beside(cmd *exec.Cmd, f func() error) error {
	if err := st.clear(); err != nil {
		return err
	}
	var words bytes.Buffer
	cmd.Stderr = &words
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(settleTime / 3)
	_, err := st.executed()
	if err == nil {
		err = f()
	}
	// Each ends its hypervisor when it is told to, and has nothing else to do.
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := finish(cmd); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("the other one: %w\n%s", err, words.String())
	}
	return nil
}

// life is what one guest took from the start of its hypervisor, or of who starts
// it, to its end.
type life struct {
	took time.Duration
	// processor is the time of all processors, of the hypervisor and of who
	// started it; of a harness by hand it is the hypervisor's alone.
	processor time.Duration
	// own is that of the process itself, without the hypervisor's.
	own time.Duration
}

// wait waits for the end of a process that was started, and tells its life.
func wait(cmd *exec.Cmd, started time.Time) (life, error) {
	// Its times can be told apart as long as nobody has taken note of its end.
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return life{}, os.NewSyscallError("waitid", err)
		}
	}
	took := time.Since(started)
	own, ownErr := processorTime(cmd.Process.Pid)
	err := cmd.Wait()
	if err == nil {
		err = ownErr
	}
	return life{took: took, processor: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), own: own}, err
}

// processorTime is that of all threads of a process, to the hundredth of a
// second.
func processorTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the times of a process: %w", err)
	}
	// Behind the name, which may have anything in it, come fields 3 and on.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var total time.Duration
	for _, field := range []int{14, 15} { // in user mode, in the kernel
		ticks, err := strconv.Atoi(fields[field-3])
		if err != nil {
			return 0, fmt.Errorf("reading the times of a process: %w", err)
		}
		total += time.Duration(ticks) * 10 * time.Millisecond
	}
	return total, nil
}

// watchBoot runs a command whose guest writes to standard output and powers
// off. It returns how long that took. Meanwhile, when the command has done what
// a start takes, look is called with its process.
func watchBoot(cmd *exec.Cmd, look func(pid int) error) (life, error) {
	console, err := cmd.StdoutPipe()
	if err != nil {
		return life{}, err
	}
	var words bytes.Buffer
	cmd.Stderr = &words
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return life{}, err
	}
	kill := time.AfterFunc(bootTimeout, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	looked := make(chan error, 1)
	var first [1]byte
	var timer *time.Timer
	if _, err := io.ReadFull(console, first[:]); err == nil {
		timer = time.AfterFunc(settleTime, func() { looked <- look(cmd.Process.Pid) })
	}
	_, _ = io.Copy(io.Discard, console) // until the end of the command, which judges
	spent, err := wait(cmd, started)
	switch {
	case err != nil:
	case timer == nil:
		err = errors.New("the guest said nothing")
	case timer.Stop():
		err = errors.New("the guest ended before the memory could be read")
	}
	if err != nil {
		return life{}, fmt.Errorf("%w\n%s", err, words.String())
	}
	return spent, <-looked
}

// boot lets the guest run until it powers off, and QEMU end.
func (r *recipe) boot() (life, error) {
	l, err := r.launch()
	if err != nil {
		return life{}, err
	}
	defer l.console.Close()
	go func() { _, _ = io.Copy(io.Discard, l.console) }()
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	defer cancel()
	if err := untilPowerOff(ctx, l); err != nil {
		_ = l.cmd.Process.Kill()
		_ = l.cmd.Wait()
		return life{}, fmt.Errorf("%w\n%s", err, l.words.String())
	}
	kill := time.AfterFunc(quitTimeout, func() { _ = l.cmd.Process.Kill() })
	defer kill.Stop()
	return wait(l.cmd, l.started)
}

// untilPowerOff starts the guest's processor and ends QEMU, which is told to
// stay, when the guest has powered off.
func untilPowerOff(ctx context.Context, l *launched) error {
	client, err := qmp.New(ctx, l.control)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	for {
		select {
		case e, ok := <-client.Events():
			if !ok {
				return errors.New("the hypervisor went away")
			}
			if e.Event == "SHUTDOWN" {
				return client.Execute(ctx, "quit", nil, nil)
			}
		case <-ctx.Done():
			return fmt.Errorf("waiting for the power-off: %w", ctx.Err())
		}
	}
}
