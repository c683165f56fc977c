package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// scriptName is the credential that holds the script, as the guest package has it.
const scriptName = "test.script"

// script has the shell carry out what a credential holds, and says on the console
// every line that it prints, and at last its exit status:
//
//	AMPOULE-REPORT said LINE
//	AMPOULE-REPORT script-end STATUS
func script() error {
	f, err := os.Open(filepath.Join(systemDir, scriptName))
	if err != nil {
		return fmt.Errorf("opening the script: %w", err)
	}
	defer f.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	defer out.Close()
	cmd := exec.Command("/bin/sh")
	cmd.Env = append(os.Environ(), "PATH=/usr/lib/ampoule-test:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, in, in
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the shell: %w", err)
	}
	_ = in.Close()
	// What the script leaves running in the background may print on: its end is
	// told when the shell has ended, and what it says is read as long as it does.
	read := make(chan error, 1)
	go func() { read <- repeat(out) }()
	status := 0
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		return fmt.Errorf("waiting for the shell: %w", err)
	}
	if err := say(fmt.Sprintf("script-end %d", status)); err != nil {
		return err
	}
	return <-read
}

// repeat says every line of r.
func repeat(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if err := say("said " + lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}
