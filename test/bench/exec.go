package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	manyCredentials = 32
	credentialSize  = 1024
)

// channels are those that are measured, by the names that CredentialChannel=
// has for them.
var channels = []string{"smbios", "fw_cfg"}

// contender is one of those that are timed in turn.
type contender struct {
	command func() *exec.Cmd
	times   []time.Duration
}

// measureExecs compares the time from the start of ampoule run to the
// hypervisor's exec with systemd-vmspawn's: everything that has to be done with
// files and credentials, and nothing of the hypervisor, in whose place is the
// same stub for both.
func measureExecs(s setup) ([]measurement, error) {
	peer, err := findVmspawn(s)
	if err != nil {
		return nil, err
	}
	// The first of the names that systemd-vmspawn looks for.
	st, err := newStub(filepath.Join(s.dir, "stub"), "qemu")
	if err != nil {
		return nil, err
	}
	creds, err := s.writeCredentials()
	if err != nil {
		return nil, err
	}
	var all []*contender
	for _, channel := range channels {
		file, err := s.writeStubVM(st, channel, creds)
		if err != nil {
			return nil, err
		}
		all = append(all, &contender{command: func() *exec.Cmd { return s.command(file) }})
	}
	flags := append(peer.flags(s), "--user", "--console=headless")
	for _, c := range creds {
		flags = append(flags, "--load-credential="+c)
	}
	same := &contender{command: func() *exec.Cmd {
		return peer.command(filepath.Dir(st.program), append(flags, withoutKeys, anyRoot)...)
	}}
	keys := &contender{command: func() *exec.Cmd {
		return peer.command(filepath.Dir(st.program), append(flags, anyRoot)...)
	}}
	for n := range s.runs + 1 {
		for _, c := range append([]*contender{same, keys}, all...) {
			took, err := st.timeTo(c.command())
			if err != nil {
				return nil, err
			}
			if n > 0 { // the first fills the page cache
				c.times = append(c.times, took)
			}
		}
	}
	return execTable(all, same, keys, "systemd-vmspawn "+peer.version), nil
}

func execTable(all []*contender, same, keys *contender, peer string) []measurement {
	var out []measurement
	for i, channel := range channels {
		what := fmt.Sprintf("start: exec to hypervisor's exec, %d × 1 KiB by %s", manyCredentials, channel)
		line := func(name string, theirs *contender, q float64, with string) measurement {
			ours, peers := milliseconds(quantile(all[i].times, q)), milliseconds(quantile(theirs.times, q))
			return measurement{
				what: what + ", " + name, ours: ours, peer: peers, peerName: peer + with, show: showMilliseconds,
				aims: []bound{atMost(ours, execAim, showMilliseconds), ratioAtMost(ours, peers, execRatioAim)},
			}
		}
		least := line("least", same, 0, ", same work")
		least.bound = atMost(least.ours, overheadLimit, showMilliseconds)
		out = append(out, line("median", same, 0.5, ", same work"), least, line("median", keys, 0.5, " with its key pair for ssh"))
	}
	return out
}

// writeCredentials makes the files of the credentials and returns them in the
// form NAME:PATH, which Ampoule and systemd-vmspawn share.
func (s setup) writeCredentials() ([]string, error) {
	var out []string
	for n := range manyCredentials {
		path := filepath.Join(s.dir, fmt.Sprintf("credential-%d", n))
		value := make([]byte, credentialSize)
		_, _ = rand.Read(value) // never fails
		if err := os.WriteFile(path, value, 0o600); err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("KEY%d:%s", n, path))
	}
	return out, nil
}

func (s setup) writeStubVM(st stub, channel string, creds []string) (string, error) {
	file := filepath.Join(s.dir, "stub-"+channel+".microvm")
	text := fmt.Sprintf("[MicroVM]\nAccelerator=tcg\nMemory=512M\nHypervisorPath=%s\nKernel=%s\nInitrd=%s\n"+
		"CredentialChannel=%s\nLoadCredential=%s\n",
		st.program, s.guest.Kernel, s.guest.Initrd, channel, strings.Join(creds, "\nLoadCredential="))
	return file, os.WriteFile(file, []byte(text), 0o600)
}

// timeTo runs a command until its end and returns the time from its start to
// the stub's. That the hypervisor ended at once is an error to every command.
func (st stub) timeTo(cmd *exec.Cmd) (time.Duration, error) {
	if err := st.clear(); err != nil {
		return 0, err
	}
	var words bytes.Buffer
	cmd.Stderr = &words
	started, err := monotonic()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if err := finish(cmd); err != nil {
		return 0, err
	}
	executed, err := st.executed()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, words.String())
	}
	return executed - started, nil
}

// command is ampoule run of a file.
func (s setup) command(file string) *exec.Cmd {
	cmd := exec.Command(s.program, "run", file)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "XDG_RUNTIME_DIR=" + s.dir}
	cmd.SysProcAttr = ownSession()
	return cmd
}
