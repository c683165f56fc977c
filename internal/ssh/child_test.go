package ssh

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// childVariable makes the test binary a program that runs the client as its child.
const childVariable = "AMPOULE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		code, err := Client{Name: "web", User: "root", Port: 22}.Run(os.Environ())
		if err != nil {
			fmt.Println(err)
			code = 1
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// parent is a process whose client is a script.
func parent(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", childVariable + "=1"}
	return cmd
}

// TestRun: the client's exit code is ours, its streams are ours, and so are its words.
func TestRun(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "exit 255": 255, "kill -KILL $$": 137} {
		if err := parent(t, script).Run(); exitCode(err) != want {
			t.Errorf("%s: %v, want %d", script, err, want)
		}
	}
	cmd := parent(t, `read line; echo "$line and $SHELL"; printf '%s ' "$@" >&2`)
	cmd.Stdin = strings.NewReader("said\n")
	var out, words strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil || out.String() != "said and /bin/sh\n" || !strings.HasSuffix(words.String(), "-l root -p 22 -- web.ampoule ") {
		t.Errorf("%v, %q, %q", err, &out, &words)
	}
}

func exitCode(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// TestRunSignals: who ends us ends the client, who interrupts both is understood by
// the client alone, and where the client stops itself, we stop, and go on with it.
func TestRunSignals(t *testing.T) {
	for signal, want := range map[syscall.Signal]int{syscall.SIGTERM: 3, syscall.SIGHUP: 4} {
		cmd := parent(t, "trap 'kill $!; exit 3' TERM; trap 'kill $!; exit 4' HUP; sleep 60 & echo ready; wait")
		started(t, cmd)
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); exitCode(err) != want {
			t.Errorf("%v: %v, want %d", signal, err, want)
		}
	}
	cmd := parent(t, "trap 'kill $!; exit 5' INT; sleep 60 & echo ready; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	started(t, cmd)
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); exitCode(err) != 5 {
		t.Errorf("interrupted: %v", err)
	}

	cmd = parent(t, "kill -STOP $$; exit 6")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Errorf("the client has stopped, and we: %#x, %v", status, err)
	}
	// As a shell's fg does.
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); exitCode(err) != 6 {
		t.Errorf("continued: %v", err)
	}
}

// started waits until the client is ready.
func started(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 6)); n != 6 || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
}

// TestRunWithoutClient is [TestNoClient] of Run.
func TestRunWithoutClient(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := (Client{}).Run(nil); err != ErrNoClient {
		t.Errorf("got %v", err)
	}
}
