package run

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/driver/all"
	chfake "github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
	fcfake "github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
	"github.com/ampoule-vm/ampoule/internal/host"
)

// apiCase is a hypervisor that is told of the VM by its API, played by a stand-in.
type apiCase struct {
	name    string
	install func(t testing.TB) string
	// lines are those that every VM of it needs here.
	lines []string
	// reboots: it starts a guest that reboots again by itself. deaf makes the
	// guest not heed its power button.
	reboots       bool
	deaf, channel string
}

func apiCases(t testing.TB) []apiCase {
	t.Helper()
	cases := []apiCase{
		{name: "cloud-hypervisor", install: chfake.Install, reboots: true, deaf: "ignore-power", channel: "smbios"},
		{name: "firecracker", install: func(t testing.TB) string { return fcfake.Install(t) }, lines: []string{"KernelCommandLine=root=/dev/vda"}, deaf: "ignore-cad", channel: "initrd"},
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
		lines = append([]string{`KernelCommandLine="fake.guest=` + strings.ReplaceAll(script, "%", "%%") + `"`}, lines...)
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
	tr.options.Host.Programs = shimHost(tr.t).Programs
	tr.options.Host.CPUInfo, tr.options.Host.KVM = filepath.Join(tr.dir, "cpuinfo"), filepath.Join(tr.dir, "kvm")
}

func forEachAPI(t *testing.T, f func(t *testing.T, c apiCase)) {
	for _, c := range apiCases(t) {
		t.Run(c.name, func(t *testing.T) { f(t, c) })
	}
}

func TestAPIPowerButton(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		tr := c.trial(t, "say:hello").start()
		tr.await("\nhello\n")
		tr.stderr.await(t, "started, guest not observed")
		tr.cancel()
		tr.want(ExitPoweredOff, "the guest powered off")
		tr.wantNothingLeft()
	})
}

// The values arrive, whatever way they take, and again after a reboot.
func TestAPICredentials(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte("s3cr3t\x00value"), 0o600); err != nil {
			t.Fatal(err)
		}
		script, boots := "echo-secret-digest,say:done", 1
		if c.reboots {
			script, boots = "echo-secret-digest,reboot;"+script, 2
		}
		tr := c.trial(t, script, "LoadCredential=KEY:"+file, "SetCredential=PLAIN:words").start()
		tr.await("\ndone\n")
		for _, value := range []string{"s3cr3t\x00value", "words"} {
			if want := fmt.Sprintf("%x", sha256.Sum256([]byte(value))); strings.Count(tr.stdout.String(), want) != boots {
				t.Errorf("%q did not arrive %d times:\n%s", want, boots, tr.stdout)
			}
		}
		tr.cancel()
		tr.want(ExitPoweredOff, "")
		tr.wantNothingLeft()
	})
}

// What a guest can do, and what becomes of it.
func TestAPIEnds(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		reboot := "the guest rebooted, which ends firecracker"
		if c.reboots {
			reboot = "the guest powered off"
		}
		for script, want := range map[string]struct {
			code  int
			words string
		}{
			"poweroff":                        {ExitPoweredOff, "the guest powered off"},
			"reboot;poweroff":                 {ExitPoweredOff, reboot},
			"panic:why":                       {ExitPanic, "the guest's kernel panicked: why"},
			"crash:1":                         {ExitHypervisor, "the hypervisor died (exit code 1"},
			"notify:EXIT_STATUS=7,poweroff":   {7, "the guest powered off with exit status 7"},
			"notify:EXIT_STATUS=121,poweroff": {ExitCollision, "exit status 121"},
		} {
			tr := c.trial(t, script, "VSockCID=auto").start()
			tr.want(want.code, want.words)
			tr.wantNothingLeft()
		}
	})
}

// The guest's own word is readiness, and nothing else is.
func TestAPIReadiness(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		for _, credentials := range []string{"SetCredential=a:b", ""} {
			tr := c.trial(t, "notify:STATUS=Starting...,say:soon,wait:200ms,notify:READY=1,say:now", "VSockCID=auto", "GuestSystemd=257", credentials).start()
			tr.await("\nsoon\n")
			if strings.Contains(tr.stderr.String(), "test: ready") {
				t.Error("it is ready before the guest says so")
			}
			tr.await("\nnow\n")
			tr.stderr.await(t, "test: ready\n")
			tr.cancel()
			tr.want(ExitPoweredOff, "")
			tr.wantNothingLeft()
		}
	})
}

func TestAPIIgnoresPowerButton(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		tr := c.trial(t, c.deaf+",say:deaf", "[Service]", "TimeoutStopSec=300ms").start()
		tr.await("\ndeaf\n")
		tr.cancel()
		tr.want(ExitKilled, "the guest did not power off within 300ms and was killed")
		tr.wantNothingLeft()
	})
}

// The hypervisor misbehaves: each time there is a reason, and nothing is left.
func TestAPITroubles(t *testing.T) {
	ch := func(faults string) func(testing.TB) string {
		return func(t testing.TB) string { return chfake.InstallWith(t, chfake.Options{Faults: faults}) }
	}
	fc := func(options ...fcfake.Option) func(testing.TB) string {
		return func(t testing.TB) string { return fcfake.Install(t, options...) }
	}
	const late, gone, garbage, quote = "powered off", "closed the connection", "malformed reply", "not shown, since they repeat a credential"
	for name, tt := range map[string]struct {
		install func(testing.TB) string
		code    int
		want    string
	}{
		"cloud-hypervisor late":          {ch("vmm.ping:late:300ms+vm.boot:late:200ms"), ExitPoweredOff, late},
		"cloud-hypervisor garbage":       {ch("vmm.ping:garbage"), ExitHypervisor, garbage},
		"cloud-hypervisor later garbage": {ch("vm.boot:garbage"), ExitHypervisor, garbage},
		"cloud-hypervisor cut":           {ch("vm.create:cut"), ExitHypervisor, gone},
		"cloud-hypervisor close":         {ch("vm.create:close"), ExitHypervisor, gone},
		"cloud-hypervisor dies":          {ch("vm.boot:die:1"), ExitHypervisor, "did not start (exit code 1)"},
		"cloud-hypervisor quotes":        {ch("vm.create:quote"), ExitHypervisor, quote},
		"cloud-hypervisor old": {func(t testing.TB) string { return chfake.InstallWith(t, chfake.Options{Version: "v48.0.0"}) }, ExitHypervisor,
			"has version 48.0.0, which is older than the oldest that Ampoule can use, 51.0"},
		"firecracker late":        {fc(fcfake.LateSocket(300*time.Millisecond), fcfake.Late("PUT /actions", 200*time.Millisecond)), ExitPoweredOff, "which ends firecracker"},
		"firecracker no socket":   {fc(fcfake.NoSocket(1)), ExitHypervisor, "did not start (exit code 1"},
		"firecracker garbage":     {fc(fcfake.Garbage("GET /")), ExitHypervisor, garbage},
		"firecracker close":       {fc(fcfake.Close("PUT /boot-source")), ExitHypervisor, gone},
		"firecracker dies":        {fc(fcfake.Die("PUT /actions", 148)), ExitHypervisor, "it made a system call that its own filter forbids"},
		"firecracker without KVM": {fc(fcfake.NoKVM()), ExitHypervisor, "the hypervisor refuses the request /actions"},
	} {
		t.Run(name, func(t *testing.T) {
			hypervisor, _, _ := strings.Cut(name, " ")
			for _, c := range apiCases(t) {
				if c.name != hypervisor {
					continue
				}
				script := "poweroff"
				if !c.reboots {
					script = "reboot"
				}
				tr := c.trialOf(t, tt.install(t), script, "SetCredential=a:hush-hush-hush").start()
				out := tr.want(tt.code, tt.want)
				if strings.Contains(out.Text+tr.stderr.String(), "hush") || strings.Contains(out.Text+tr.stderr.String(), "aHVzaC1odXNoLWh1c2") {
					t.Errorf("the message repeats the credential: %s", out.Text)
				}
				tr.wantNothingLeft()
			}
		})
	}
}

// What is in the way of a start is named, and at its line where there is one.
func TestAPIBadInput(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		tr := c.trial(t, "", "LoadCredential=big:"+bigFile(t, 60<<10), "CredentialChannel="+c.channel)
		if c.name == "cloud-hypervisor" {
			tr.start().want(ExitBadInput, "at most 4096 are possible")
		}
		tr = c.trial(t, "", "Disk=/nonexistent/disk")
		tr.start().want(ExitBadInput, "no such file")
		tr = c.trial(t, "")
		tr.env["RUNTIME_DIRECTORY"] = filepath.Join(tr.dir, strings.Repeat("x", 120))
		tr.options.Plan.VM.VSock = nil
		if c.name == "firecracker" { // the other inherits its socket
			tr.start().want(ExitHypervisor, "the kernel takes at most 107")
		}
		link := filepath.Join(t.TempDir(), "vmm")
		if err := os.WriteFile(link, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		c.trialOf(t, link, "").start().want(ExitBadInput, "not executable")
		if c.name == "firecracker" {
			tr = newTrial(t, makePlan(t, "Hypervisor=firecracker", "HypervisorPath="+c.install(t), "Memory=64M", "KernelCommandLine=root=/dev/vda"))
			tr.withKVM()
			tr.start().want(ExitBadInput, "this is a bzImage, and this hypervisor boots an ELF file (vmlinux)")
		}
		c.trialOf(t, "/nonexistent/vmm", "").start().want(ExitBadInput, "no such file")
		c.trialOf(t, "/bin/true", "").start().want(ExitHypervisor, "did not start (exit code 0")
	})
}

// TestAPIDiskInUse: a disk that somebody writes is refused at its line before the
// hypervisor starts, and one of a VM is in use as long as it runs.
func TestAPIDiskInUse(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		path := bigFile(t, 1<<20)
		f, err := host.LockDisk(host.Disk{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		for _, option := range []string{"", ":ro"} {
			c.trial(t, "", "Disk="+path+option).start().want(ExitBadInput, "Disk="+path+": the disk is in use by ")
		}
		f.Close()
		tr := c.trial(t, "say:up", "Disk="+path)
		tr.start()
		tr.await("\nup\n")
		if err := host.DiskFree(host.Disk{Path: path, ReadOnly: true}); !errors.Is(err, host.ErrInUse) {
			t.Errorf("while the VM runs: %v", err)
		}
		tr.cancel()
		tr.want(ExitPoweredOff, "the guest powered off")
		if err := host.DiskFree(host.Disk{Path: path}); err != nil {
			t.Errorf("after the VM: %v", err)
		}
	})
}

func bigFile(t testing.TB, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
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
