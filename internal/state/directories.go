// Package state is what a running VM leaves for others to find: its
// directories, the lock that says that it runs, and the record that says how.
// Whoever runs a VM writes it (Claim); everybody else reads it (Look, List),
// and is not harmed by what a VM's own user may have put there.
//
// It links the standard library alone, since the generator reads it too. What
// does not belong here: plans, hypervisors, the service manager.
package state

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
)

// Directories are where a VM keeps what it needs beside its plan. All are
// absolute.
type Directories struct {
	// State holds relative disks; it is made when one is needed. Empty: there
	// is no place for them.
	State string
	// Runtime holds the lock and the record of the run, on a tmpfs. Empty:
	// there is no place for it, and neither is kept.
	Runtime string
	// Cache holds what was seen in files, and nothing that cannot be found
	// again. Empty: there is no place for it.
	Cache string
	// Given: Runtime is a service manager's, who also removes it.
	Given bool
	// Other is the runtime directory that the same VM has if it is started in
	// the other way: as a service, or by root's hand. Empty: there is none. They
	// differ, since a service manager takes its directory from whoever has it.
	Other string
}

// FindDirectories follows systemd's variables where a service manager set them,
// and its paths otherwise: those of the system for root, those of the user
// (XDG base directories, of which relative ones do not count) for anybody else.
func FindDirectories(name string, getenv func(string) string) Directories {
	below := filepath.Join("ampoule", "vm", name)
	in := func(base string) string {
		if !filepath.IsAbs(base) {
			return ""
		}
		return filepath.Join(base, below)
	}
	d := Directories{State: given(getenv("STATE_DIRECTORY"), below), Runtime: given(getenv("RUNTIME_DIRECTORY"), below), Cache: given(getenv("CACHE_DIRECTORY"), below)}
	d.Given = d.Runtime != ""
	byHand := filepath.Join("/", ByHand, name)
	state, runtime := in("/var/lib"), byHand
	if d.Given {
		d.Other = byHand
	} else if os.Geteuid() == 0 {
		d.Other = filepath.Join("/", Root, name)
	}
	if os.Geteuid() != 0 {
		state, runtime = in(getenv("XDG_STATE_HOME")), in(getenv("XDG_RUNTIME_DIR"))
		if home := getenv("HOME"); state == "" && filepath.IsAbs(home) {
			state = in(filepath.Join(home, ".local", "state"))
		}
	}
	d.State, d.Runtime, d.Cache = cmp.Or(d.State, state), cmp.Or(d.Runtime, runtime), cmp.Or(d.Cache, cacheDirectory(getenv))
	return d
}

// ByHandDirectories are those of a VM that this user starts by hand. Whoever asks
// may be in a service, whose directories are not the VM's.
func ByHandDirectories(name string, getenv func(string) string) Directories {
	return FindDirectories(name, func(variable string) string {
		if strings.HasSuffix(variable, "_DIRECTORY") {
			return ""
		}
		return getenv(variable)
	})
}

// cacheDirectory is for all VMs of a user: what was seen in a file is the same
// for each of them.
func cacheDirectory(getenv func(string) string) string {
	if os.Geteuid() == 0 {
		return "/var/cache/ampoule"
	}
	if dir := getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "ampoule")
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".cache", "ampoule")
	}
	return ""
}

// given picks a VM's directory from those of a service manager's variable: that
// which ends as ours do, since the user may want others too and they are sorted
// by name; else the first. One that somebody set by hand and relative is meant
// from here.
func given(dirs, below string) string {
	dir, _, _ := strings.Cut(dirs, ":")
	for d := range strings.SplitSeq(dirs, ":") {
		if strings.HasSuffix(d, "/"+below) {
			dir = d
		}
	}
	if dir == "" {
		return ""
	}
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}
