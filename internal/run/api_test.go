package run

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/driver/all"
	chfake "github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
	fcfake "github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
)

// apiCase is a hypervisor that is told of the VM by its API, played by a stand-in.
type apiCase struct {
	name    string
	install func(t testing.TB) string
	// lines are those that every VM of it needs here.
	lines []string
}

func apiCases(t testing.TB) []apiCase {
	t.Helper()
	cases := []apiCase{
		{name: "cloud-hypervisor", install: chfake.Install},
		{name: "firecracker", install: func(t testing.TB) string { return fcfake.Install(t) }, lines: []string{"KernelCommandLine=root=/dev/vda"}},
	}
	if len(cases) != len(all.Drivers())-1 {
		t.Error("a driver is missing here")
	}
	return cases
}

// trial makes a VM whose guest plays a script.
func (c apiCase) trial(t testing.TB, script string, lines ...string) *trial {
	t.Helper()
	return c.trialOf(t, c.install(t), script, lines...)
}

func (c apiCase) trialOf(t testing.TB, program, script string, lines ...string) *trial {
	t.Helper()
	if script != "" {
		lines = append(lines, `KernelCommandLine="fake.guest=`+strings.ReplaceAll(script, "%", "%%")+`"`)
	}
	lines = append(append([]string{"Hypervisor=" + c.name, "HypervisorPath=" + program, "Kernel=" + fcfake.Kernel(t), "Memory=64M"}, c.lines...), lines...)
	if c.name == "cloud-hypervisor" {
		lines[2] = "Kernel=" + writeKernel(t, nil)
	}
	tr := newTrial(t, makePlan(t, lines...))
	tr.withKVM()
	return tr
}

// withKVM makes the host one with KVM, which the stand-ins do not need.
func (tr *trial) withKVM() {
	tr.t.Helper()
	for name, text := range map[string]string{"cpuinfo": "flags : svm\n", "kvm": ""} {
		if err := os.WriteFile(filepath.Join(tr.dir, name), []byte(text), 0o600); err != nil {
			tr.t.Fatal(err)
		}
	}
	tr.options.Host.CPUInfo, tr.options.Host.KVM = filepath.Join(tr.dir, "cpuinfo"), filepath.Join(tr.dir, "kvm")
}

func forEachAPI(t *testing.T, f func(t *testing.T, c apiCase)) {
	for _, c := range apiCases(t) {
		t.Run(c.name, func(t *testing.T) { f(t, c) })
	}
}

func TestAPIPowerButton(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		tr := c.trial(t, "say:hello%20there").start()
		tr.await("hello there\n")
		tr.stderr.await(t, "started, guest not observed")
		tr.cancel()
		tr.want(ExitPoweredOff, "the guest powered off")
		tr.wantNothingLeft()
	})
}

// The values arrive, whatever way they take, and stand in no argument.
func TestAPICredentials(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte("s3cr3t\x00value"), 0o600); err != nil {
			t.Fatal(err)
		}
		tr := c.trial(t, "echo-secret-digest,say:done", "LoadCredential=KEY:"+file, "SetCredential=PLAIN:words").start()
		tr.await("done\n")
		for _, want := range []string{fcfake.Digest("KEY", []byte("s3cr3t\x00value")), fcfake.Digest("PLAIN", []byte("words"))} {
			if !strings.Contains(tr.stdout.String(), want) {
				t.Errorf("no %q in\n%s", want, tr.stdout)
			}
		}
		tr.cancel()
		tr.want(ExitPoweredOff, "")
		tr.wantNothingLeft()
	})
}

// await waits for a line on the guest's console, or for an end that comes instead.
func (tr *trial) await(text string) {
	tr.t.Helper()
	limit := time.After(time.Minute)
	for !strings.Contains(tr.stdout.String(), text) {
		select {
		case <-limit:
			tr.t.Fatalf("%q was not said:\n%s\n%s", text, tr.stdout, tr.stderr)
		case out := <-tr.out:
			tr.t.Fatalf("it ended before %q: %+v %v\n%s", text, out, out.Problems.Err(), tr.stdout)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
