package run

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	chfake "github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
	fcfake "github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// TestMain lets the test binary be what a run starts: a hypervisor that
// misbehaves (HypervisorArgs=-fake MODE), or an ampoule boot.
func TestMain(m *testing.M) {
	chfake.RunIfCalled()
	fcfake.RunIfCalled()
	for i, arg := range os.Args {
		if arg == "-fake" && i+1 < len(os.Args) {
			os.Exit(fakeHypervisor(os.Args[i+1]))
		}
	}
	if os.Getenv(ControlVariable) != "" && os.Getenv(PlanVariable) != "" {
		os.Exit(testBoot())
	}
	os.Exit(m.Run())
}

// testBoot is ampoule boot.
func testBoot() int {
	data, err := os.ReadFile(os.Getenv(PlanVariable))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p, err := plan.Parse(data)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return Run(context.Background(), Options{
		Plan: p, Driver: driver.Find(all.Drivers(), p.VM.Hypervisor), Host: host.Local(), Getenv: os.Getenv,
		Stdin: os.Stdin, Stdout: os.Stdout, Messages: console.NewMessages(os.Stderr), Control: os.Getenv(ControlVariable),
	}).Code
}

// self is the test binary.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// makePlan makes a plan of the lines of [MicroVM], and of [Service] after a
// line "[Service]". Its kernel does nothing, unless Kernel= names another.
func makePlan(t testing.TB, lines ...string) *plan.Plan {
	t.Helper()
	dir := t.TempDir()
	text := "[MicroVM]\n"
	if !strings.Contains(strings.Join(lines, "\n"), "Kernel=/") {
		text += "Kernel=" + writeKernel(t, nil) + "\n"
	}
	file := filepath.Join(dir, "test.microvm")
	if err := os.WriteFile(file, []byte(text+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	res := pipeline.Load(pipeline.Input{Argument: file, Drivers: all.Drivers(), Architecture: "x86-64"})
	if res.Plan == nil {
		t.Fatal(res.Problems.Error())
	}
	return res.Plan
}

// pipeLog collects what is written to a pipe.
type pipeLog struct {
	w    *os.File
	mu   sync.Mutex
	text bytes.Buffer
	done chan struct{}
}

func newPipeLog(t testing.TB) *pipeLog {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l := &pipeLog{w: w, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			l.mu.Lock()
			l.text.Write(buf[:n])
			l.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { w.Close(); <-l.done; r.Close() })
	return l
}

func (l *pipeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// await waits until some text is there.
func (l *pipeLog) await(t testing.TB, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(l.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q was not said:\n%s", text, l)
		}
	}
}

// trial is a run in this process.
type trial struct {
	t              testing.TB
	options        Options
	dir            string
	stdout, stderr *pipeLog
	env            map[string]string
	cancel         context.CancelFunc
	out            chan Outcome
}

func newTrial(t testing.TB, p *plan.Plan) *trial {
	t.Helper()
	tr := &trial{t: t, dir: t.TempDir(), stdout: newPipeLog(t), stderr: newPipeLog(t), out: make(chan Outcome, 1)}
	tr.env = map[string]string{
		"STATE_DIRECTORY": filepath.Join(tr.dir, "state"), "RUNTIME_DIRECTORY": filepath.Join(tr.dir, "run"),
	}
	tr.options = Options{
		Plan: p, Driver: driver.Find(all.Drivers(), p.VM.Hypervisor), Host: host.Local(), Getenv: func(name string) string { return tr.env[name] },
		Stdout: tr.stdout.w, Messages: console.NewMessages(tr.stderr.w),
	}
	return tr
}

func (tr *trial) start() *trial {
	ctx, cancel := context.WithCancel(context.Background())
	tr.cancel = cancel
	tr.t.Cleanup(cancel)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tr.out <- Run(ctx, tr.options)
	}()
	tr.t.Cleanup(func() {
		// One that goes on would be in the way of the next test.
		select {
		case <-ended:
		case <-time.After(time.Second):
			tr.t.Error("the run did not end with its test")
		}
	})
	return tr
}

// want waits for the end and compares exit code and words.
func (tr *trial) want(code int, words string) Outcome {
	tr.t.Helper()
	select {
	case out := <-tr.out:
		all := out.Text
		for _, p := range out.Problems {
			all += "\n" + p.Error()
		}
		if out.Code != code || !strings.Contains(all, words) {
			tr.t.Errorf("exit code %d, %q; want %d and %q\n%s", out.Code, all, code, words, tr.stderr)
		}
		return out
	case <-time.After(90 * time.Second):
		tr.t.Fatalf("it did not end\n%s", tr.stderr)
		panic("unreachable")
	}
}

// wantNothingLeft looks for files that a run left in its directories.
func (tr *trial) wantNothingLeft() {
	tr.t.Helper()
	for _, name := range []string{"state", "run"} {
		entries, _ := os.ReadDir(filepath.Join(tr.dir, name))
		for _, e := range entries {
			tr.t.Errorf("%s/%s is left", name, e.Name())
		}
	}
}

// record waits for run.json and returns it.
func (tr *trial) record() string {
	tr.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if data, err := os.ReadFile(filepath.Join(tr.env["RUNTIME_DIRECTORY"], "run.json")); err == nil {
			return string(data)
		}
	}
	tr.t.Fatal("no record")
	return ""
}
