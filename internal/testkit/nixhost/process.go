package nixhost

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// process is one that runs.
type process struct {
	vm    *VM // whose, or nil
	pid   int
	argv  []string
	exe   string
	group string // its control group
	since time.Time
}

// starts adds the processes of a VM: the hypervisor, and those around it.
func (h *Host) starts(vm *VM, argv []string) {
	group := func(unit string) string {
		return "/system.slice/system-" + strings.ReplaceAll(unit, "-", `\x2d`) + ".slice/" + unit + "@" + vm.Name + ".service"
	}
	if vm.notifies() && vm.Runner == "" {
		h.Process(vm, h.socat(), group("microvm"), "socat", "-t0", "-T0.2", "UNIX-LISTEN:notify.vsock_8888,fork", "UNIX-SENDTO:/run/systemd/notify")
	}
	if !vm.StoreOnDisk {
		h.Process(vm, h.Package("virtiofsd-1.13.2", "bin/virtiofsd")+"/bin/virtiofsd", group("microvm-virtiofsd"), "virtiofsd", "--socket-path="+vm.HostName+"-virtiofs-ro-store.sock", "--shared-dir=/nix/store")
	}
	if vm.evaluated != "" {
		runner, _ := h.runner(vm)
		program, _ := h.started(vm, runner)
		h.Process(vm, program, group("microvm"), argv...)
		return
	}
	exe := vm.Hypervisor
	if line, _ := h.command(vm, h.toplevel(vm)); vm.Runner == "" {
		exe, _, _ = strings.Cut(line, " ")
	}
	h.Process(vm, exe, group("microvm"), argv...)
}

// Process has a process run since now; a VM's ends with it.
func (h *Host) Process(vm *VM, exe, group string, argv ...string) {
	h.next += 3
	h.running = append(h.running, process{vm: vm, pid: h.next, exe: exe, group: group, argv: argv, since: h.now})
}

// stops ends the processes of a VM.
func (h *Host) stops(vm *VM) {
	kept := h.running[:0]
	for _, p := range h.running {
		if p.vm != vm {
			kept = append(kept, p)
		}
	}
	h.running = kept
}

// Rerun has the hypervisor of a VM run with other words than those it was started with.
func (h *Host) Rerun(vm *VM, change func(argv []string) []string) {
	h.t.Helper()
	for i, p := range h.running {
		if p.vm == vm && strings.HasSuffix(p.group, "/microvm@"+vm.Name+".service") && !strings.HasPrefix(p.argv[0], "socat") {
			h.running[i].argv = change(append([]string{}, p.argv...))
			return
		}
	}
	h.t.Fatalf("%s does not run", vm.Name)
}

// writeProc writes what runs, as Linux shows it.
func (h *Host) writeProc() {
	h.t.Helper()
	h.File("/proc/stat", fmt.Sprintf("cpu  10132153 290696 3084719 46828483 16683 0 25195 0 175628 0\nctxt 1990473\nbtime %d\nprocesses %d\n", h.boot.Unix(), h.next), 0o444)
	h.File("/proc/uptime", fmt.Sprintf("%.2f %.2f\n", h.now.Sub(h.boot).Seconds(), h.now.Sub(h.boot).Seconds()), 0o444)
	all := append([]process{
		{pid: 1, argv: []string{"/run/current-system/systemd/lib/systemd/systemd"}, exe: h.systemd() + "/lib/systemd/systemd", group: "/init.scope", since: h.boot},
		{pid: 2, exe: "", group: "/", since: h.boot},
	}, h.running...)
	for _, p := range all {
		dir := fmt.Sprintf("/proc/%d/", p.pid)
		text := strings.Join(p.argv, "\x00")
		if len(p.argv) > 0 {
			text += "\x00"
		}
		name := p.exe[strings.LastIndex(p.exe, "/")+1:]
		h.File(dir+"cmdline", text, 0o444)
		h.File(dir+"comm", name[:min(15, len(name))]+"\n", 0o444)
		h.File(dir+"cgroup", "0::"+p.group+"\n", 0o444)
		h.File(dir+"stat", fmt.Sprintf("%d (%.15s) S 1 %d %d 0 -1 4194560 100 0 0 0 10 5 0 0 20 0 4 0 %d 100000 500\n", p.pid, name, p.pid, p.pid, int64(p.since.Sub(h.boot).Seconds()*100)), 0o444)
		h.File(dir+"status", fmt.Sprintf("Name:\t%.15s\nPid:\t%d\nUid:\t%d\t%d\t%d\t%d\n", name, p.pid, MicroVM, MicroVM, MicroVM, MicroVM), 0o444)
		if p.exe != "" {
			h.Link(dir+"exe", p.exe)
		}
	}
}

// writeNet writes the interfaces of the VMs that run.
func (h *Host) writeNet() {
	h.t.Helper()
	for i, name := range append([]string{"lo"}, h.upTaps()...) {
		dir := "/sys/devices/virtual/net/" + name
		h.File(dir+"/ifindex", fmt.Sprintf("%d\n", i+1), 0o444)
		if name != "lo" {
			h.File(dir+"/tun_flags", "0x5102\n", 0o444)
			h.File(dir+"/owner", fmt.Sprintf("%d\n", MicroVM), 0o444)
		}
		h.Link("/sys/class/net/"+name, "../../devices/virtual/net/"+name)
	}
}

func (h *Host) upTaps() []string {
	var out []string
	for _, vm := range h.vms {
		if vm.runs {
			out = append(out, vm.Taps...)
		}
	}
	return out
}

// Git runs git in a directory of the tree.
func (h *Host) Git(dir string, args ...string) {
	h.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = h.At(dir)
	cmd.Env = append(os.Environ(), "HOME="+h.At("/root"), "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_DATE=2025-09-01T00:00:00Z", "GIT_COMMITTER_DATE=2025-09-01T00:00:00Z")
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}
