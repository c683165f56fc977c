package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/share"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
)

const (
	// shareMiB is what a guest reads and writes in one round, half a second of
	// emulation.
	shareMiB = 64
	// shareRounds of each guest, in turn.
	shareRounds = 61
)

// shareVM is the name of our VM, and shareTag that of its share.
const shareVM, shareTag = "shares", "data"

// measureShares compares what a guest reads and writes in a virtiofs share, under
// ampoule run and with QEMU and virtiofsd by hand, with the same options, for the same
// directory. The virtiofsd of both is that of Debian 13, the first that can be told
// not to write.
func measureShares(s setup) ([]measurement, error) {
	root, err := buildRoot("trixie", "--quiet", "--variant=extract", "--include=virtiofsd")
	if err != nil {
		return nil, fmt.Errorf("building a root with virtiofsd: %w", err)
	}
	program, err := s.fromRoot(root, filepath.Join("usr/libexec", share.Program))
	if err != nil {
		return nil, err
	}
	number, err := version(program)
	if err != nil {
		return nil, err
	}
	// One that mounts by itself.
	if s.guest, err = guest.Build("trixie"); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, "shared")
	return inNetwork(func() ([]measurement, error) {
		if err := fillShare(dir); err != nil {
			return nil, err
		}
		p, err := s.startPair(rivals{
			name: shareVM, path: filepath.Dir(program) + ":" + os.Getenv("PATH"),
			lines: []string{"GuestSystemd=257", "Share=" + dir + ":" + shareTag + ":/mnt"},
			peer: func(pid int, r *recipe) (func(), error) {
				return serveByHand(pid, r, program, dir, filepath.Join(s.dir, "share-peer"))
			},
		})
		if err != nil {
			return nil, err
		}
		defer p.end()
		qemu, err := version(p.recipe.argv[0])
		if err != nil {
			return nil, err
		}
		var out []measurement
		for _, t := range []struct{ what, before, line string }{
			// What is read must not be in the guest's memory any more.
			{"read by a guest", "echo 3 >/proc/sys/vm/drop_caches", "dd if=/mnt/file of=/dev/null bs=1M status=none"},
			{"written by a guest", "rm -f /mnt/WHO", fmt.Sprintf("dd if=/dev/zero of=/mnt/WHO bs=1M count=%d status=none", shareMiB)},
		} {
			mine, theirs, err := inTurn(shareRounds, func(who string) (float64, error) {
				return p.moved(who, strings.ReplaceAll(t.before, "WHO", who), strings.ReplaceAll(t.line, "WHO", who))
			})
			if err != nil {
				return nil, err
			}
			out = append(out, rateTable("throughput of a virtiofs share, "+t.what, mine, theirs,
				"QEMU "+qemu+" and virtiofsd "+number+" by hand for the same directory")...)
		}
		return out, nil
	})
}

// moved has a guest move shareMiB, after it has prepared for that, and returns the
// rate in MB/s.
func (p *pair) moved(who, before, line string) (float64, error) {
	if _, err := p.carriesOut(who, before); err != nil {
		return 0, err
	}
	took, err := p.carriesOut(who, line)
	return float64(shareMiB<<20) / 1e6 / took.Seconds(), err
}

// fillShare makes the directory, in memory, where no disk has a part in it, and the
// file that is read.
func fillShare(dir string) error {
	content := make([]byte, shareMiB<<20)
	_, _ = rand.Read(content) // never fails
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.WriteFile(filepath.Join(dir, "file"), content, 0o644)
}

// fromRoot makes a program of another root one that runs here, with the libraries of
// that root, and returns its path.
func (s setup) fromRoot(root, program string) (string, error) {
	loaders, _ := filepath.Glob(filepath.Join(root, "usr/lib*/ld-linux-*.so.*"))
	libraries, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	if len(loaders) == 0 || len(libraries) != 1 {
		return "", fmt.Errorf("%s has the loaders %q, and its libraries in %q", root, loaders, libraries)
	}
	path := filepath.Join(s.dir, "programs", filepath.Base(program))
	text := fmt.Sprintf("#!/bin/sh\nexec %s --library-path %s %s \"$@\"\n", loaders[0], libraries[0], filepath.Join(root, program))
	return path, errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755))
}

// serveByHand starts a second virtiofsd with the options of the one that ampoule run
// has started, and has the recipe find it.
func serveByHand(pid int, r *recipe, program, dir, socket string) (end func(), err error) {
	ours, err := childOf(pid, "ld-linux")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", ours))
	if err != nil {
		return nil, err
	}
	_, options, ok := bytes.Cut(text, []byte("/"+share.Program+"\x00"))
	if !ok {
		return nil, fmt.Errorf("process %d is no virtiofsd: %q", ours, text)
	}
	var args []string
	for word := range strings.SplitSeq(strings.TrimSuffix(string(options), "\x00"), "\x00") {
		if strings.HasPrefix(word, "--shared-dir=") {
			word = "--shared-dir=" + dir
		}
		args = append(args, word)
	}
	found := false
	for i, word := range r.argv {
		if from := plan.ShareSocket(shareVM, shareTag); strings.Contains(word, from) {
			r.argv[i], found = strings.ReplaceAll(word, from, socket), true
		}
	}
	if !found {
		return nil, fmt.Errorf("no word of %q names the socket of the share", r.argv)
	}
	listener, err := share.Listen(socket)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	cmd := exec.Command(program, args...)
	// As the first of its descriptors, which --fd= says.
	cmd.Env, cmd.ExtraFiles, cmd.SysProcAttr = []string{}, []*os.File{listener}, ownSession()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = finish(cmd)
	}, nil
}
