package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// payloadArgument makes this program the only process of a container.
const payloadArgument = "wait-in-a-container"

// payload waits for the end of its input: it outlives nobody who holds that.
func payload() {
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// measureSupervisor asks what systemd-nspawn needs to watch over one process:
// the nearest thing in systemd to what ampoule run is to QEMU.
func measureSupervisor(s setup) ([]measurement, error) {
	root := filepath.Join(s.dir, "root")
	for _, dir := range []string{"usr", "etc", "proc", "sys", "dev", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := copyProgram(filepath.Join(root, "usr", "payload")); err != nil {
		return nil, err
	}
	cmd := exec.Command("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no",
		"--resolv-conf=off", "--timezone=off", "--console=pipe", "--directory="+root, "/usr/payload", payloadArgument)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	var words bytes.Buffer
	cmd.Stderr = &words
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_, err = bufio.NewReader(out).ReadString('\n')
	var nspawn float64
	if err == nil {
		nspawn, err = peak(cmd.Process.Pid)
	}
	in.Close()
	if err := errors.Join(err, finish(cmd)); err != nil {
		return nil, fmt.Errorf("systemd-nspawn: %w\n%s", err, words.String())
	}
	number, err := version("systemd-nspawn")
	if err != nil {
		return nil, err
	}
	mine, err := s.supervisorPeak()
	if err != nil {
		return nil, err
	}
	return []measurement{{
		what: "memory: peak of the supervisor", ours: mine, peer: nspawn,
		peerName: "systemd-nspawn " + number + " with one process in it", show: showMiB,
	}}, nil
}

// supervisorPeak is one more start, for a number taken beside the peer's.
func (s setup) supervisorPeak() (float64, error) {
	v, err := s.writeVM("supervisor", "")
	if err != nil {
		return 0, err
	}
	got, _, err := v.ampoule(false)
	return got.supervisor, err
}

// copyProgram copies this program, which is static.
func copyProgram(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, from); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
