package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// dropIns is the number of drop-ins of the measured VM, and of the peers' unit.
const dropIns = 50

// measurePlans compares `ampoule plan` of a file with many drop-ins with what
// systemd-analyze makes of a unit with as many: verify reads, merges and judges
// it and the units it needs; cat-config finds, sorts and prints the files and
// parses nothing.
func measurePlans(s setup) ([]measurement, error) {
	file := filepath.Join(s.dir, "many.microvm")
	unit := filepath.Join(s.dir, "unit", "many.service")
	config := filepath.Join(s.dir, "config", "etc", "bench", "many.conf")
	main := fmt.Sprintf("[MicroVM]\nKernel=%s\nInitrd=%s\n", s.guest.Kernel, s.guest.Initrd)
	service := "[Unit]\nDescription=many\n[Service]\nExecStart=/bin/true\n"
	for _, err := range []error{
		writeWithDropIns(file, main, "[MicroVM]\nMemory=%[1]dM\nSetCredential=KEY%[1]d:value\n"),
		writeWithDropIns(unit, service, "[Service]\nTimeoutStopSec=%[1]d\nEnvironment=KEY%[1]d=value\n"),
		writeWithDropIns(config, service, "[Service]\nTimeoutStopSec=%[1]d\nEnvironment=KEY%[1]d=value\n"),
	} {
		if err != nil {
			return nil, err
		}
	}
	commands := [][]string{
		{s.program, "plan", file},
		{"systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit},
		{"systemd-analyze", "--root=" + filepath.Join(s.dir, "config"), "cat-config", "bench/many.conf"},
	}
	times := make([][]time.Duration, len(commands))
	for n := range s.runs + 1 {
		for i, c := range commands {
			took, err := timeOf(c)
			if err != nil {
				return nil, err
			}
			if n > 0 { // the first fills the page cache
				times[i] = append(times[i], took)
			}
		}
	}
	number, err := version("systemd-analyze")
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("plan: %d drop-ins, median", dropIns)
	ours, verify := milliseconds(median(times[0])), milliseconds(median(times[1]))
	return []measurement{
		{
			what: what, ours: ours, peer: verify, show: showMilliseconds,
			peerName: "systemd-analyze " + number + " verify, which loads other units too",
			bound:    ratioAtMost(ours, verify, 1),
		},
		{
			what: what, ours: ours, peer: milliseconds(median(times[2])), show: showMilliseconds,
			peerName: "systemd-analyze " + number + " cat-config, which parses nothing",
		},
	}, nil
}

// writeWithDropIns writes a file and its drop-ins; the number of each stands
// where the text says so, from 128 on, which is also memory enough for a VM.
func writeWithDropIns(path, main, dropIn string) error {
	if err := os.MkdirAll(path+".d", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(main), 0o644); err != nil {
		return err
	}
	for n := 128; n < 128+dropIns; n++ {
		name := filepath.Join(path+".d", fmt.Sprintf("%d.conf", n))
		if err := os.WriteFile(name, fmt.Appendf(nil, dropIn, n), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// timeOf runs a command, which must succeed and print nothing on its standard
// error.
func timeOf(command []string) (time.Duration, error) {
	cmd := exec.Command(command[0], command[1:]...)
	var words limited
	cmd.Stderr = &words
	started := time.Now()
	err := cmd.Run()
	took := time.Since(started)
	if err == nil && len(words) != 0 {
		err = errors.New("it complains")
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", cmd, err, words)
	}
	return took, nil
}

// limited keeps the beginning of what is written to it.
type limited []byte

func (l *limited) Write(p []byte) (int, error) {
	const enough = 4096
	*l = append(*l, p[:min(len(p), enough-len(*l))]...)
	return len(p), nil
}
