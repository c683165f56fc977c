package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// declaredVMs and runningVMs are those of the host on which verify is measured,
// verifyLimit and verifyMemory what it may take.
const (
	declaredVMs, runningVMs = 1000, 50
	verifyLimit             = 1.0 // seconds
	verifyMemory            = 100 // MiB
)

// verifyArgument makes this program measure on the host on which it is started.
const verifyArgument = "measure-verify"

// verifiedOnHost is what was measured there: seconds, and MiB.
type verifiedOnHost struct {
	Ours, Peer     []float64
	Memory         float64
	Systemd, Error string
}

// measureVerify boots a host with a real systemd, on which VMs are declared, some of
// them running, with stand-ins for their hypervisors. The peer
// is systemctl show of the same units, which compares nothing.
func measureVerify(s setup) ([]measurement, error) {
	root, err := buildRoot("trixie", "--quiet", "--variant=minbase", "--include=systemd,systemd-sysv,dbus")
	if err != nil {
		return nil, fmt.Errorf("building a root with systemd: %w", err)
	}
	dir := filepath.Join(s.dir, "verify")
	if err := s.writeHost(dir); err != nil {
		return nil, err
	}
	bin := filepath.Dir(s.program)
	cmd := exec.Command("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--volatile=overlay", "--console=pipe",
		"--resolv-conf=off", "--timezone=off", "--directory="+root, "--bind="+dir+":/bench",
		"--bind-ro="+dir+"/vms:/etc/ampoule", "--bind-ro="+dir+"/bench.service:/etc/systemd/system/bench.service",
		"--bind-ro="+s.guest.Kernel+":/boot/vmlinuz", "--bind-ro="+filepath.Join(bin, "ampoule")+":/usr/bin/ampoule",
		"--bind-ro="+filepath.Join(bin, "ampoule-generator")+":/usr/lib/systemd/system-generators/ampoule-generator",
		"--boot", "systemd.unit=bench.service")
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	said, err := cmd.CombinedOutput()
	var got verifiedOnHost
	text, readErr := os.ReadFile(filepath.Join(dir, "result"))
	if readErr == nil {
		readErr = json.Unmarshal(text, &got)
	}
	if err := errors.Join(err, readErr); err != nil || got.Error != "" {
		return nil, fmt.Errorf("%s: %w\n%.4000s", got.Error, err, said)
	}
	ours, peer := median(got.Ours), median(got.Peer)
	what := fmt.Sprintf("verify: %d VMs declared, %d running, ", declaredVMs, runningVMs)
	return []measurement{
		{what: what + "median", ours: ours, peer: peer, peerName: "systemctl show of their units, " + got.Systemd, show: showSeconds, bound: atMost(ours, verifyLimit, showSeconds)},
		{what: what + "peak memory", ours: got.Memory, show: showMiB, bound: atMost(got.Memory, verifyMemory, showMiB)},
	}, nil
}

// writeHost writes what the host finds below /bench.
func (s setup) writeHost(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "vms"), 0o755); err != nil {
		return err
	}
	for i := range declaredVMs {
		name := fmt.Sprintf("vm%d", i)
		text := "[MicroVM]\nKernel=/boot/vmlinuz\nHypervisorPath=/bin/true\nAccelerator=tcg\nRunner=/bench/runner\nReadiness=started\n" +
			"LoadCredential=KEY:/bench/key\nSetCredential=MODE:production\n[Install]\nWantedBy=multi-user.target\n"
		if err := os.WriteFile(filepath.Join(dir, "vms", name+".microvm"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"runner":        "#!/bin/sh\nexec sleep infinity\n",
		"bench.service": "[Service]\nType=oneshot\nStandardOutput=inherit\nExecStart=/bench/bench " + verifyArgument + fmt.Sprintf(" %d\n", s.runs) + "ExecStopPost=systemctl --no-block poweroff\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("not a secret"), 0o600); err != nil {
		return err
	}
	return copyProgram(filepath.Join(dir, "bench"))
}

// verifyHere measures on this host, and leaves the result in /bench.
func verifyHere(runs int) int {
	var got verifiedOnHost
	if err := got.measure(runs); err != nil {
		got.Error = err.Error()
	}
	text, err := json.Marshal(got)
	if err == nil {
		err = os.WriteFile("/bench/result", text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// units are the names of all.
func units() []string {
	out := make([]string, declaredVMs)
	for i := range out {
		out[i] = fmt.Sprintf("microvm@vm%d.service", i)
	}
	return out
}

func (v *verifiedOnHost) measure(runs int) error {
	start := exec.Command("systemctl", append([]string{"start"}, units()[:runningVMs]...)...)
	if out, err := start.CombinedOutput(); err != nil {
		return fmt.Errorf("starting the VMs: %w\n%s", err, out)
	}
	number, err := version("systemctl")
	if err != nil {
		return err
	}
	v.Systemd = "systemd " + number
	for range runs {
		cmd := exec.Command("ampoule", "verify", "--json")
		began := time.Now()
		out, err := cmd.Output()
		v.Ours = append(v.Ours, time.Since(began).Seconds())
		// The stand-ins never call ampoule boot, and that is what is to be found.
		exit := &exec.ExitError{}
		if !errors.As(err, &exit) || exit.ExitCode() != 13 || strings.Count(string(out), `"delivery-not-recorded"`) != runningVMs || strings.Count(string(out), `"name": "vm`) != declaredVMs {
			return fmt.Errorf("verify: %w\n%.2000s", err, out)
		}
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			v.Memory = max(v.Memory, float64(usage.Maxrss)/1024)
		}
		began = time.Now()
		if out, err := exec.Command("systemctl", append([]string{"show"}, units()...)...).Output(); err != nil || strings.Count(string(out), "\nId=microvm@") != declaredVMs {
			return fmt.Errorf("systemctl show tells of %d units: %w", strings.Count(string(out), "\nId="), err)
		}
		v.Peer = append(v.Peer, time.Since(began).Seconds())
	}
	return nil
}
