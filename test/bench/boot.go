package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/control/qmp"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
)

const (
	// bootTimeout bounds one boot up to the hypervisor's end.
	bootTimeout = 3 * time.Minute
	// settleTime is how long after a guest's first byte the memory of who
	// watches it is read: it has done what a start takes, and the guest boots.
	settleTime = 3 * time.Second
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
	for _, channel := range channels {
		found, watcher, err := s.bootsBy(channel)
		if err != nil {
			return nil, fmt.Errorf("with %s: %w", channel, err)
		}
		out = append(out, found...)
		// The channel that needs most counts.
		if watcher.private > ours.private {
			ours = watcher
		}
	}
	number := "systemd-vmspawn " + peer.version
	took, watcher, err := s.bootByVmspawn(peer)
	if err != nil {
		return nil, fmt.Errorf("systemd-vmspawn: %w", err)
	}
	out = append(out, measurement{
		what: "boot to power-off, one", ours: took[0], peer: took[1], show: showSeconds,
		peerName: number + ", with QEMU's flags of its choice",
	})
	return append(out, memoryTable(ours, watcher, number+" watching the same guest")...), nil
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
	for range s.boots {
		mine, found, err := watchBoot(s.command(v.file), nil)
		if err != nil {
			return nil, memory{}, fmt.Errorf("ampoule run: %w", err)
		}
		if found.private > watcher.private {
			watcher = found
		}
		theirs, err := v.recipe.boot()
		if err != nil {
			return nil, memory{}, fmt.Errorf("QEMU by hand: %w", err)
		}
		ours, bare = append(ours, mine), append(bare, theirs)
	}
	number, err := version(v.recipe.argv[0])
	if err != nil {
		return nil, memory{}, err
	}
	line := func(what string, of func(life) time.Duration) measurement {
		mine, peers := median(pick(ours, of)).Seconds(), median(pick(bare, of)).Seconds()
		return measurement{
			what: fmt.Sprintf("%s by %s, median of %d", what, channel, s.boots), ours: mine, peer: peers,
			peerName: "QEMU " + number + " by hand", show: showSeconds,
			bound: ratioAtMost(mine, peers, bootRatioLimit), aims: []bound{ratioAtMost(mine, peers, bootRatioAim)},
		}
	}
	return []measurement{
		line("boot to power-off", func(l life) time.Duration { return l.took }),
		// What else the machine does hardly changes this one.
		line("boot to power-off: processor time", func(l life) time.Duration { return l.processor }),
	}, watcher, nil
}

// bootByVmspawn boots the same guest with ampoule run and with systemd-vmspawn,
// and returns the seconds of both.
func (s setup) bootByVmspawn(peer vmspawn) ([2]float64, memory, error) {
	v, err := s.writeVM("boot-beside", powerOff)
	if err != nil {
		return [2]float64{}, memory{}, err
	}
	ours, _, err := watchBoot(s.command(v.file), nil)
	if err != nil {
		return [2]float64{}, memory{}, err
	}
	address, hangUp, err := peer.silentBus()
	if err != nil {
		return [2]float64{}, memory{}, err
	}
	defer hangUp()
	flags := append(peer.flags(s), "--system", "--console=read-only", "--console-transport=serial", withoutKeys,
		"--load-credential=KEY:"+v.key, "--set-credential=ENVIRONMENT:production", anyRoot, "panic=-1", powerOff)
	cmd := peer.command("/usr/bin", append(flags, strings.Fields(earlyConsole+guest.TestParameters)...)...)
	cmd.Env = append(cmd.Env, address)
	theirs, watcher, err := watchBoot(cmd, hangUp)
	return [2]float64{ours.took.Seconds(), theirs.took.Seconds()}, watcher, err
}

// life is what one guest took from the start of its hypervisor, or of who starts
// it, to its end.
type life struct {
	took time.Duration
	// processor is the time of all processors, of the hypervisor and of who
	// started it; of a harness by hand it is the hypervisor's alone.
	processor time.Duration
}

func lifeOf(cmd *exec.Cmd, started time.Time) life {
	return life{time.Since(started), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
}

// watchBoot runs a command whose guest writes to standard output and powers
// off. It returns how long that took, and the command's memory meanwhile, after
// the reading of which, where there is one, then is called.
func watchBoot(cmd *exec.Cmd, then func()) (life, memory, error) {
	console, err := cmd.StdoutPipe()
	if err != nil {
		return life{}, memory{}, err
	}
	var words bytes.Buffer
	cmd.Stderr = &words
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return life{}, memory{}, err
	}
	kill := time.AfterFunc(bootTimeout, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	type result struct {
		memory
		err error
	}
	sampled := make(chan result, 1)
	var first [1]byte
	var sampler *time.Timer
	if _, err := io.ReadFull(console, first[:]); err == nil {
		sampler = time.AfterFunc(settleTime, func() {
			m, err := memoryOf(cmd.Process.Pid)
			if then != nil {
				then()
			}
			sampled <- result{m, err}
		})
	}
	_, _ = io.Copy(io.Discard, console) // until the end of the command, which judges
	err = cmd.Wait()
	spent := lifeOf(cmd, started)
	switch {
	case err != nil:
	case sampler == nil:
		err = errors.New("the guest said nothing")
	case sampler.Stop():
		err = errors.New("the guest ended before the memory could be read")
	}
	if err != nil {
		return life{}, memory{}, fmt.Errorf("%w\n%s", err, words.String())
	}
	got := <-sampled
	return spent, got.memory, got.err
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
	if err := finish(l.cmd); err != nil {
		return life{}, err
	}
	return lifeOf(l.cmd, l.started), nil
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
