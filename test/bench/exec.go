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

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
)

const (
	manyCredentials = 32
	credentialSize  = 1024
)

// channels are those that are measured, by the names that CredentialChannel=
// has for them.
var channels = []string{"smbios", "fw_cfg", "initrd"}

// contender is one of those that are timed in turn.
type contender struct {
	command func() *exec.Cmd
	times   []time.Duration
}

// route is a way of the credentials into the guest.
type route struct {
	contender
	name, channel string
	initrd        string // of the VM
}

// routes are the channels, and that of the initial RAM disk twice: it copies
// the VM's own, which a small one tells apart from all else that it does.
func (s setup) routes() ([]*route, error) {
	small := filepath.Join(s.dir, "small-initrd")
	if err := os.WriteFile(small, smallInitrd(), 0o600); err != nil {
		return nil, err
	}
	var out []*route
	for _, channel := range channels {
		if channel != "initrd" {
			out = append(out, &route{name: channel, channel: channel, initrd: s.guest.Initrd})
			continue
		}
		for _, path := range []string{small, s.guest.Initrd} {
			info, err := os.Stat(path)
			if err != nil {
				return nil, err
			}
			name := fmt.Sprintf("initrd in front of one of %.0f KiB", float64(info.Size())/1024)
			out = append(out, &route{name: name, channel: channel, initrd: path})
		}
	}
	return out, nil
}

// smallInitrd is one that looks like systemd's, for who does not boot it.
func smallInitrd() []byte {
	const program = "usr/lib/systemd/systemd"
	var out []byte
	for i, dir := range []string{"usr", "usr/lib", "usr/lib/systemd"} {
		out = cpio.AppendHeader(out, cpio.Header{Ino: uint32(i), Mode: cpio.TypeDir | 0o755, NLink: 2, Name: dir})
	}
	for i, f := range []struct {
		name, body string
		mode       uint32
	}{{program, "\x7fELF", cpio.TypeRegular | 0o755}, {"init", program, cpio.TypeSymlink | 0o777}} {
		out = cpio.AppendHeader(out, cpio.Header{Ino: uint32(8 + i), Mode: f.mode, NLink: 1, Size: uint32(len(f.body)), Name: f.name})
		out = append(append(out, f.body...), make([]byte, cpio.Padding(len(f.body)))...)
	}
	return cpio.AppendTrailer(out)
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
	st, err := newStub(filepath.Join(s.dir, "stub"), "qemu", false)
	if err != nil {
		return nil, err
	}
	creds, err := s.writeCredentials()
	if err != nil {
		return nil, err
	}
	all, err := s.routes()
	if err != nil {
		return nil, err
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
	contenders := []*contender{same, keys}
	for i, r := range all {
		file, err := s.writeStubVM(fmt.Sprintf("stub-%d", i), r, st, creds)
		if err != nil {
			return nil, err
		}
		r.command = func() *exec.Cmd { return s.command(file) }
		contenders = append(contenders, &r.contender)
	}
	for n := range s.runs + 1 {
		for _, c := range contenders {
			took, err := st.timeTo(c.command())
			if err != nil {
				return nil, err
			}
			if n > 0 { // the first fills the page cache, and ours its own
				c.times = append(c.times, took)
			}
		}
	}
	first, err := s.firstExec(st, all[0])
	if err != nil {
		return nil, err
	}
	return append(execTable(all, same, keys, "systemd-vmspawn "+peer.version), first), nil
}

// firstExec is a start that has to look into kernel and initial RAM disk since
// nobody has before.
func (s setup) firstExec(st stub, r *route) (measurement, error) {
	s.cache = filepath.Join(s.dir, "cache-of-nothing")
	cmd := r.command()
	cmd.Env = s.environment()
	took, err := st.timeTo(cmd)
	return measurement{
		what: "start: exec to hypervisor's exec by " + r.name + ", the first, which looks into kernel and initrd",
		ours: milliseconds(took), show: showMilliseconds,
	}, err
}

func execTable(all []*route, same, keys *contender, peer string) []measurement {
	var out []measurement
	for _, r := range all {
		what := fmt.Sprintf("start: exec to hypervisor's exec, %d × 1 KiB by %s", manyCredentials, r.name)
		line := func(name string, theirs *contender, q float64, with string) measurement {
			ours, peers := milliseconds(quantile(r.times, q)), milliseconds(quantile(theirs.times, q))
			return measurement{
				what: what + ", " + name, ours: ours, peer: peers, peerName: peer + with, show: showMilliseconds,
				aims: []bound{atMost(ours, execAim, showMilliseconds), ratioAtMost(ours, peers, execRatioAim)},
			}
		}
		least := line("least", same, 0, " by smbios")
		least.bound = atMost(least.ours, overheadLimit, showMilliseconds)
		out = append(out, line("median", same, 0.5, " by smbios"), least, line("median", keys, 0.5, " by smbios, with its key pair for ssh"))
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

func (s setup) writeStubVM(name string, r *route, st stub, creds []string) (string, error) {
	file := filepath.Join(s.dir, name+".microvm")
	text := fmt.Sprintf("[MicroVM]\nAccelerator=tcg\nMemory=512M\nHypervisorPath=%s\nKernel=%s\nInitrd=%s\n"+
		"CredentialChannel=%s\nLoadCredential=%s\n",
		st.program, s.guest.Kernel, r.initrd, r.channel, strings.Join(creds, "\nLoadCredential="))
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
	cmd.Env = s.environment()
	cmd.SysProcAttr = ownSession()
	return cmd
}

func (s setup) environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "XDG_RUNTIME_DIR=" + s.dir, "CACHE_DIRECTORY=" + s.cache}
}
