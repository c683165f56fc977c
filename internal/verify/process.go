package verify

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/state"
)

// proc is a file of a process.
func proc(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// lookAt looks at the process that runs a VM, and at its hypervisor; nil where
// it cannot be seen.
func lookAt(pid int, rec *state.Record) *Process {
	line, err := os.ReadFile(proc(pid, "cmdline"))
	if err != nil || len(line) == 0 {
		return nil
	}
	p := &Process{Pid: pid, Argv: strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")}
	_, p.Replaced = program(pid)
	if rec == nil || rec.HypervisorPid == 0 || !together(pid, rec.HypervisorPid) {
		return p
	}
	p.HypervisorPid = rec.HypervisorPid
	p.Hypervisor, p.HypervisorReplaced = program(rec.HypervisorPid)
	return p
}

// program returns the path of the program that a process executes, and whether
// another file has that path now. The path is empty for whoever may not see it.
func program(pid int) (path string, replaced bool) {
	link := proc(pid, "exe")
	path, err := os.Readlink(link)
	if err != nil {
		return "", false
	}
	runs, err := os.Stat(link)
	if err != nil {
		return "", false
	}
	path, deleted := strings.CutSuffix(path, " (deleted)")
	there, err := os.Stat(path)
	return path, deleted || err == nil && !os.SameFile(runs, there)
}

// together: both processes are of one cgroup, so that the number which a record
// tells is not that of somebody else's process.
func together(a, b int) bool {
	one, err := os.ReadFile(proc(a, "cgroup"))
	if err != nil {
		return false
	}
	other, err := os.ReadFile(proc(b, "cgroup"))
	return err == nil && string(one) == string(other)
}

// replacedSince returns the files that are not what they were at a start.
func replacedSince(rec *state.Record) []state.File {
	if rec == nil {
		return nil
	}
	var out []state.File
	for _, f := range rec.Files {
		if now, err := state.Identify(f.Role, f.Path); err != nil || now != f {
			out = append(out, f)
		}
	}
	return out
}
