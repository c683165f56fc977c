// Package script runs the golden cases: each file in testdata is a script with
// the files of a VM and the whole of what the commands must say to them. No
// case boots a VM. After a wanted change, go test ./test/script -update
// rewrites the expectations, and the diff is there to be read.
//
// Beside testscript's own commands there are
//
//	exits CODE PROGRAM ARG…   run a program that must end with this exit code;
//	                          99 means that ampoule repeated a secret
//	images FILE…              write files that are what their name says, as far as
//	                          anybody looks who starts no VM
//	secrets FILE=SIZE…        write files of so many bytes for their owner alone
//	socket FILE               leave an AF_UNIX stream socket that nobody serves
//	nobody ARG…               ampoule as a user with no rights
//	reseal PLAN PATH=JSON…    change a plan and make its digests fit, to stdout
package script

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ampoule-vm/ampoule/internal/cli"
)

var update = flag.Bool("update", false, "rewrite the expectations")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		// Imitates systemctl --version of Debian 12: what check says of keys
		// must not depend on the machine that runs the cases.
		"systemctl": func() {
			fmt.Println("systemd 252 (252.39-1~deb12u2)")
			os.Exit(0)
		},
		"ampoule": func() { os.Exit(ampoule()) },
		// It is looked for and never started; this test's own program has the
		// mark of ours in it.
		"ampoule-init": func() { os.Exit(1) },
		// It is asked for its version and nothing else.
		"qemu-system-x86_64": func() { fmt.Println("QEMU emulator version 7.2.0") },
		"images":             func() { os.Exit(report(images(os.Args[1:]))) },
		"secrets":            func() { os.Exit(report(secrets(os.Args[1:]))) },
		"socket":             func() { os.Exit(report(socket(os.Args[1]))) },
		"reseal":             func() { os.Exit(report(reseal(os.Args[1], os.Args[2:]))) },
		"nobody": func() {
			if err := dropRights(); err != nil {
				os.Exit(report(err))
			}
			os.Exit(ampoule())
		},
	})
}

// secret stands in the cases for what must not be repeated, whatever the
// mistake around it.
const secret = "hunter"

// digest is what every change of a plan changes.
var digest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// ampoule is the program itself. In what it writes, the directory of the case
// reads $WORK and the user's number $UID, so that it is the same in every run,
// and, unless the case sets $DIGESTS, a digest reads sha256:…, so that a change
// of the plan shows in the cases that are about it. A secret in it is a failure
// of any case, and so is a field of a plan without an origin.
func ampoule() int {
	code, stdout, stderr := run(os.Args[1:])
	help := slices.Contains(os.Args, "--help") || slices.Contains(os.Args, "-h")
	if code == 0 && len(os.Args) > 2 && os.Args[1] == "plan" && !help {
		if err := everyOrigin(os.Args[1:]); err != nil {
			stderr = fmt.Appendln(stderr, err)
			code = noOrigin
		}
	}
	for out, text := range map[*os.File][]byte{os.Stdout: stdout, os.Stderr: stderr} {
		if bytes.Contains(text, []byte(secret)) {
			code = 99
		}
		text = bytes.ReplaceAll(text, []byte(os.Getenv("WORK")), []byte("$WORK"))
		text = bytes.ReplaceAll(text, fmt.Appendf(nil, "for uid %d", os.Geteuid()), []byte("for uid $UID"))
		if os.Getenv("DIGESTS") == "" {
			text = digest.ReplaceAll(text, []byte("sha256:…"))
		}
		_, _ = out.Write(text)
	}
	return code
}

// run is the program within this process.
func run(arguments []string) (code int, stdout, stderr []byte) {
	out, closeOut := collect()
	err, closeErr := collect()
	code = cli.Main(arguments, cli.Streams{In: os.Stdin, Out: out, Err: err})
	return code, closeOut(), closeErr()
}

// collect returns a file, and what was written to it when it is closed.
func collect() (in *os.File, closed func() []byte) {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	done := make(chan []byte)
	go func() {
		text, err := io.ReadAll(r)
		if err != nil {
			panic(err)
		}
		done <- text
	}()
	return w, func() []byte {
		w.Close()
		return <-done
	}
}

func report(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func TestScripts(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the cases show plans for x86-64")
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup:         setup,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Condition: func(condition string) (bool, error) {
			if condition == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", condition)
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// setup makes a case independent of the caller's surroundings: its variables,
// its directories, and whether it has a hypervisor.
func setup(env *testscript.Env) error {
	for _, name := range []string{"CREDENTIALS_DIRECTORY", "INVOCATION_ID", "NOTIFY_SOCKET", "AMPOULE_PLAN", "AMPOULE_CONTROL"} {
		env.Setenv(name, "")
	}
	env.Setenv("STATE_DIRECTORY", filepath.Join(env.WorkDir, "state"))
	env.Setenv("CACHE_DIRECTORY", filepath.Join(env.WorkDir, "cache"))
	env.Setenv("RUNTIME_DIRECTORY", filepath.Join(env.WorkDir, "runtime"))
	program, err := exec.LookPath("ampoule")
	if err != nil {
		return err
	}
	// For cases in which $PATH does not lead to it.
	env.Setenv("AMPOULE", program)
	bin := filepath.Join(env.WorkDir, ".bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	// A link: a program that this process, which starts others at the same time,
	// has just written may still be open in one of them, and cannot be started.
	hypervisor, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return err
	}
	if err := os.Symlink(hypervisor, filepath.Join(bin, "qemu-system-x86_64")); err != nil {
		return err
	}
	env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
	// The user that nobody becomes has to get here.
	return errors.Join(os.Chmod(env.WorkDir, 0o755), os.Chmod(filepath.Dir(env.WorkDir), 0o711))
}

// exits runs a program and compares its exit code; cmp then sees what it wrote.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
