// Package hostfiles holds facts about a host that stand in its files: the
// version of its systemd, its groups, who provides a unit. It asks nobody and
// starts nothing, so that a generator may use it while the machine boots, and
// it looks below any root. What takes more than files is in package host.
package hostfiles

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Root is the directory below which the host's files lie; "" is the host itself.
type Root string

func (r Root) path(p string) string {
	if r == "" {
		return p
	}
	return filepath.Join(string(r), p)
}

// HasGroup reports whether the host has a group of that name. Only the file is
// looked at: a group that a network knows may not be there when a unit starts.
func (r Root) HasGroup(name string) bool {
	data, err := os.ReadFile(r.path("/etc/group"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, name+":") {
			return true
		}
	}
	return false
}

// libraries are the directories of systemd's private library, whose name has the
// version: Debian's, Fedora's, everybody else's, NixOS's.
func (r Root) libraries() []string {
	dirs := []string{"/usr/lib/systemd", "/usr/lib64/systemd", "/lib/systemd", "/run/current-system/systemd/lib/systemd"}
	if multiarch, err := filepath.Glob(r.path("/usr/lib/*-linux-gnu*/systemd")); err == nil {
		for _, dir := range multiarch {
			dirs = append(dirs, strings.TrimPrefix(dir, string(r)))
		}
	}
	return dirs
}

// SystemdVersion returns the version of the host's systemd by the name of its
// private library (libsystemd-shared-257.so, libsystemd-shared-256.4-1.fc41.so),
// or 0 where that is not found.
func (r Root) SystemdVersion() int {
	best := 0
	for _, dir := range r.libraries() {
		entries, err := os.ReadDir(r.path(dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			rest, ok := strings.CutPrefix(e.Name(), "libsystemd-shared-")
			if !ok {
				continue
			}
			digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
			if n, err := strconv.Atoi(digits); err == nil {
				best = max(best, n)
			}
		}
		if best > 0 {
			return best
		}
	}
	return 0
}

// UnitDirectories are those of an administrator and of packages, the strongest
// first. Between them and stronger than a package's stand the generators'.
func UnitDirectories() []string {
	return []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
}

// generatorDirectories are those whose units the service manager has made anew at each
// daemon-reload.
func generatorDirectories() []string {
	return []string{"/run/systemd/generator.early", "/run/systemd/generator", "/run/systemd/generator.late"}
}

// HasUnit reports whether there is a file for a unit of that name, or a mask.
func (r Root) HasUnit(name string) bool {
	for _, dir := range append(UnitDirectories(), generatorDirectories()...) {
		if _, err := os.Lstat(r.path(filepath.Join(dir, name))); err == nil {
			return true
		}
	}
	return false
}

// Providers are the files that provide services microvm@NAME.service and are not
// Ampoule's.
type Providers struct {
	// units are by the name of the unit; template is that of microvm@.service,
	// and settled are the instances for which somebody made it what it is.
	units    map[string]string
	template string
	settled  map[string]bool
}

const (
	prefix = "microvm@"
	suffix = ".service"
)

// Providers looks for them. A directory that cannot be read provides nothing.
func (r Root) Providers() Providers {
	p := Providers{units: map[string]string{}, settled: map[string]bool{}}
	for _, dir := range UnitDirectories() {
		entries, err := os.ReadDir(r.path(dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			name := e.Name()
			if !strings.HasPrefix(name, prefix) || strings.HasPrefix(name, prefix+suffix+".") {
				continue
			}
			file := filepath.Join(dir, name)
			switch unit, drop := strings.CutSuffix(name, suffix+".d"); {
			case drop:
				// microvm.nix writes this one for each of its VMs
				// (nixos-modules/host/default.nix); systemctl edit does not.
				if _, err := os.Lstat(r.path(filepath.Join(file, "overrides.conf"))); err == nil {
					p.settled[unit+suffix] = true
				}
			case !strings.HasSuffix(name, suffix) || r.masked(file) || r.held(file):
			case name == prefix+suffix:
				p.template = first(p.template, file)
			default:
				p.units[name] = first(p.units[name], file)
			}
		}
	}
	return p
}

func first(old, found string) string {
	if old != "" {
		return old
	}
	return found
}

// HeldMark is the first line of a unit that Ampoule left to a running VM when it
// was removed.
const HeldMark = "# Held by Ampoule, which was removed while this VM was running.\n"

// held reports whether a unit is one of those.
func (r Root) held(file string) bool {
	text, err := os.ReadFile(r.path(file))
	return err == nil && strings.HasPrefix(string(text), HeldMark)
}

// masked reports whether a unit is a link to /dev/null: that is a wish of the
// administrator's and provides nothing.
func (r Root) masked(file string) bool {
	target, err := os.Readlink(r.path(file))
	return err == nil && filepath.Clean(target) == "/dev/null"
}

// Of returns the file that provides a unit, or "".
func (p Providers) Of(unit string) string {
	if file := p.units[unit]; file != "" {
		return file
	}
	if p.settled[unit] {
		return p.template
	}
	return ""
}

// DropIns lists the drop-ins of the services microvm@NAME.service, by the name of
// the unit; those that all of them share are under "microvm@.service". A file
// that a stronger directory has under the same name, or masks, is left out.
func (r Root) DropIns() map[string][]string {
	out := map[string][]string{}
	seen := map[string]bool{}
	for _, dir := range dropInDirectories() {
		entries, err := os.ReadDir(r.path(dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			unit, ok := strings.CutSuffix(e.Name(), ".d")
			if unit == "service" {
				unit = prefix + suffix
			}
			if !ok || !strings.HasPrefix(unit, prefix) || !strings.HasSuffix(unit, suffix) {
				continue
			}
			files, err := os.ReadDir(r.path(filepath.Join(dir, e.Name())))
			if err != nil {
				continue
			}
			for _, f := range files {
				at := filepath.Join(e.Name(), f.Name())
				if !strings.HasSuffix(f.Name(), ".conf") || seen[at] {
					continue
				}
				seen[at] = true
				if file := filepath.Join(dir, at); !r.masked(file) {
					out[unit] = append(out[unit], file)
				}
			}
		}
	}
	return out
}

// dropInDirectories are those where an administrator, systemctl set-property and
// packages put drop-ins, the strongest first.
func dropInDirectories() []string {
	return append([]string{"/etc/systemd/system.control", "/run/systemd/system.control"}, UnitDirectories()...)
}

// Template is the file that provides microvm@.service, of which every name is an
// instance, or "".
func (p Providers) Template() string { return p.template }

// Clearing lists, as FILE:LINE, the assignments in drop-ins of a service that
// clear a list of [Service] which any of keys belongs to: a unit that lacks what
// it was made with says where that went.
func (r Root) Clearing(unit string, keys ...string) []string {
	template := unit
	if before, _, ok := strings.Cut(unit, "@"); ok {
		template = before + "@" + suffix
	}
	var out []string
	for _, dir := range dropInDirectories() {
		for _, of := range []string{unit, template, "service"} {
			files, err := filepath.Glob(r.path(filepath.Join(dir, of+".d", "*.conf")))
			if err != nil {
				continue // a name with signs of a pattern
			}
			for _, file := range files {
				data, err := os.ReadFile(file)
				if err != nil {
					continue
				}
				for i, line := range strings.Split(string(data), "\n") {
					key, value, ok := strings.Cut(line, "=")
					if ok && strings.TrimSpace(value) == "" && slices.Contains(keys, strings.TrimSpace(key)) {
						out = append(out, fmt.Sprintf("%s:%d", strings.TrimPrefix(file, string(r)), i+1))
					}
				}
			}
		}
	}
	return slices.Compact(out)
}

// Prepared is where root remembers what it did for VMs that have not ended, in a
// directory for each by its name.
const Prepared = "/run/ampoule/privileged"

// Prepared lists those VMs, sorted. Only root can look.
func (r Root) Prepared() []string {
	entries, err := os.ReadDir(r.path(Prepared))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
