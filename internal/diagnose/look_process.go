package diagnose

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// ticks is how many of the kernel's clock ticks a second has for user space: the
// same on every architecture that microVMs run on.
const ticks = 100

// processes returns those of each VM's service, the oldest first.
func (l *looker) processes() map[string][]Process {
	names, ok := l.names("/proc", "which VMs run")
	if !ok {
		l.partial("/proc", errorOf("it is not there: this is no running host"), "which VMs run")
		return nil
	}
	out := map[string][]Process{}
	found := false
	boot := l.bootTime()
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil || pid <= 0 {
			continue
		}
		found = true
		dir := path.Join("/proc", n)
		// Processes come and go, and a process may not be looked into: neither is said.
		group, err := l.tree.ReadFile(path.Join(dir, "cgroup"), 64<<10)
		if err != nil {
			continue
		}
		vm := vmOf(string(group))
		if vm == "" {
			continue
		}
		p := Process{PID: pid}
		line, ok := l.read(path.Join(dir, "cmdline"), "the command line of the VM "+vm)
		if !ok || len(line) == 0 {
			continue
		}
		p.Args = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		if stat, err := l.tree.ReadFile(path.Join(dir, "stat"), 64<<10); err == nil && !boot.IsZero() {
			p.Since = started(string(stat), boot)
		}
		out[vm] = append(out[vm], p)
	}
	if !found {
		l.partial("/proc", errorOf("it has no processes: this is no running host"), "which VMs run")
		return nil
	}
	l.host.ProcessesKnown = true
	for _, all := range out {
		slices.SortFunc(all, func(a, b Process) int { return a.PID - b.PID })
	}
	return out
}

// bootTime is when the kernel started, zero where that cannot be read.
func (l *looker) bootTime() time.Time {
	text, err := l.tree.ReadFile("/proc/stat", 4<<20)
	if err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			if n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64); err == nil && n > 0 {
				return time.Unix(n, 0)
			}
		}
	}
	return time.Time{}
}

// started reads when a process did; the fields are counted behind the name, which
// may hold anything.
func started(stat string, boot time.Time) time.Time {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return time.Time{}
	}
	const start = 22 - 3 // the third field is the first behind the name
	f := strings.Fields(stat[i+1:])
	if len(f) <= start {
		return time.Time{}
	}
	n, err := strconv.ParseInt(f[start], 10, 64)
	if err != nil || n < 0 {
		return time.Time{}
	}
	return boot.Add(time.Duration(n) * time.Second / ticks)
}

// vmOf is the VM in whose service a process is, by its control group.
func vmOf(group string) string {
	for element := range strings.FieldsFuncSeq(group, func(r rune) bool { return r == '/' || r == '\n' }) {
		if rest, ok := strings.CutPrefix(element, "microvm@"); ok {
			if name, ok := strings.CutSuffix(rest, ".service"); ok {
				return name
			}
		}
	}
	return ""
}

// mainProcess is the one that is the hypervisor: it has the words of the runner, or
// its name, or is the oldest that is no shell on its way to it.
func (l *looker) mainProcess(vm *VM, all []Process) *Process {
	var best *Process
	for i := range all {
		p := &all[i]
		if isRunScript(p.Args) {
			continue
		}
		if vm.Started != nil && sameWords(vm.Started.Runner.Script, p.Args) == same || strings.HasPrefix(p.Args[0], "microvm@") {
			return p
		}
		if best == nil {
			best = p
		}
	}
	return best
}

// isRunScript reports whether a process is a shell that executes a run script: the
// hypervisor has not taken its place yet.
func isRunScript(args []string) bool {
	return len(args) > 1 && strings.HasSuffix(args[1], "microvm-run")
}

// match is how a command line compares with a script.
type match int

const (
	unsure match = iota
	same
	other
)

// sameWords compares the words of a process with those of a script. It is unsure
// where the script makes its words when it runs.
func sameWords(s *microvmnix.Script, args []string) match {
	if s == nil || s.Exec == nil || s.Exec.Program.Open || len(args) == 0 || s.Make == microvmnix.Foreign {
		return unsure
	}
	switch path.Base(s.Exec.Program.Text) {
	case "bash", "sh", "unbuffer":
		return unsure // it starts another program
	}
	want := s.Exec.Args
	if len(args)-1 < len(want) || len(args)-1 > len(want) && s.RuntimeArgs == nil {
		return other
	}
	for i, w := range want {
		if w.Open {
			return unsure
		}
		if args[i+1] != w.Text {
			return other
		}
	}
	return same
}
