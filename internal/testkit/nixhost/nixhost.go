// Package nixhost writes the file tree of a NixOS host with microvm.nix, as it lies on
// the disk and in /proc: store and its database, systems and their generations, units,
// the state directory of microVMs, secrets, what runs. A host is brought into a state by
// what an administrator does to get there (Switch, Build, Test, Rollback, Reboot, Update,
// Stop …), so that links, owners and times are those that the real commands leave.
//
// What stands in scripts and units imitates microvm.nix at commit 71beea0
// (lib/runner.nix, lib/runners, nixos-modules/host) and NixOS's lib/systemd-lib.nix;
// a test of this package holds it against what a real Nix evaluates from them.
// It is for tests alone and needs root, since a tree has owners.
package nixhost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// The ids of a host's /etc/passwd and /etc/group.
const (
	MicroVM = 988 // user microvm
	KVM     = 302 // group kvm
	Keys    = 96  // group keys
	Britton = 1000
)

// Host is a tree below Root, at a moment of its own clock.
type Host struct {
	Root string
	// Name is the host's name, Version that of its NixOS, Kernel that of its Linux.
	Name, Version, Kernel string
	// Initrd makes another initial RAM disk of the host's.
	Initrd string
	// Inactive is a host whose microvms.target is not active: nothing is installed.
	Inactive bool
	// NoRestart is one whose administrator keeps switches from restarting VMs.
	NoRestart bool
	// StateDir is microvm.stateDir.
	StateDir string
	// Source is the store path of the configuration that systems are built from, or empty.
	Source string
	// Live says whether the tree has /proc and /sys.
	Live bool
	// Database is the state in which Finish leaves the Nix database.
	Database Database

	t     testing.TB
	now   time.Time
	store *store
	vms   []*VM // declared or created, in order
	units map[string]Unit
	// generations are those of the system profile, by number.
	generations map[int]string
	last        int // the highest number that was ever given
	next        int // the pid of the next process
	running     []process
	boot        time.Time
	serial      int // makes a system differ from that before
}

// New makes a host that has a store, users, a first system that runs since a while, and
// no VM.
func New(t testing.TB) *Host {
	t.Helper()
	need.All(t, need.Root, need.SQLite)
	dir := t.TempDir()
	// An unprivileged user has to get here too.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	h := &Host{
		Root: filepath.Join(dir, "root"), Name: "build-host", Version: "25.11.20250921.a1f79a1", Kernel: "6.12.48",
		StateDir: "/var/lib/microvms", Live: true, t: t, now: time.Date(2025, 9, 20, 8, 0, 0, 0, time.UTC),
		units: map[string]Unit{}, generations: map[int]string{}, last: 40, next: 1200,
	}
	h.boot = h.now
	h.store = newStore(h)
	h.Dir("/", 0o755, 0, 0)
	for _, d := range []string{"/etc", "/run", "/home", "/var", "/var/lib", "/nix", "/nix/var", "/nix/var/nix", "/nix/var/nix/profiles",
		"/nix/var/nix/gcroots", "/nix/var/nix/gcroots/auto", "/nix/var/nix/db", "/run/systemd", "/run/systemd/system"} {
		h.Dir(d, 0o755, 0, 0)
	}
	h.Dir("/nix/store", 0o1775, 0, 30000)
	h.Dir("/tmp", 0o1777, 0, 0)
	h.Link("/nix/var/nix/gcroots/profiles", "/nix/var/nix/profiles")
	h.Link("/nix/var/nix/gcroots/current-system", "/run/current-system")
	h.Link("/nix/var/nix/gcroots/booted-system", "/run/booted-system")
	h.File("/etc/passwd", "root:x:0:0:System administrator:/root:/run/current-system/sw/bin/bash\nmicrovm:x:988:302::/var/empty:/run/current-system/sw/bin/nologin\n"+
		"britton:x:1000:100::/home/britton:/run/current-system/sw/bin/bash\nnobody:x:65534:65534:Unprivileged account:/var/empty:/run/current-system/sw/bin/nologin\n", 0o644)
	h.File("/etc/group", "root:x:0:\nkeys:x:96:\nusers:x:100:\nkvm:x:302:microvm\nnixbld:x:30000:\nnogroup:x:65534:\n", 0o644)
	return h
}

// Now is the host's clock.
func (h *Host) Now() time.Time { return h.now }

// Later lets time pass.
func (h *Host) Later(d time.Duration) { h.now = h.now.Add(d) }

// tick lets the little time pass that a step takes, so that no two have the same.
func (h *Host) tick() { h.Later(7 * time.Second) }

// At is where a path of the host lies in the tree.
func (h *Host) At(path string) string { return filepath.Join(h.Root, path) }

func (h *Host) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// Dir makes a directory, with those above it.
func (h *Host) Dir(path string, mode uint32, uid, gid int) {
	h.t.Helper()
	h.ok(os.MkdirAll(h.At(path), 0o755))
	h.Own(path, uid, gid)
	h.Mode(path, mode)
	h.Touch(path, h.now)
}

// File writes a file of root's, with the directories above it.
func (h *Host) File(path, text string, mode uint32) {
	h.t.Helper()
	h.ok(os.MkdirAll(filepath.Dir(h.At(path)), 0o755))
	if err := os.Remove(h.At(path)); err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	h.ok(os.WriteFile(h.At(path), []byte(text), 0o600))
	h.Mode(path, mode)
	h.Touch(path, h.now)
}

// Link makes a link, in the place of what is there, as ln -sTf does.
func (h *Host) Link(path, target string) {
	h.t.Helper()
	h.ok(os.MkdirAll(filepath.Dir(h.At(path)), 0o755))
	h.Remove(path)
	h.ok(os.Symlink(target, h.At(path)))
	h.Touch(path, h.now)
}

// Remove removes a file or a tree, if it is there.
func (h *Host) Remove(path string) {
	h.t.Helper()
	h.ok(os.RemoveAll(h.At(path)))
}

// Touch sets the time of change of a path itself, not of what it leads to.
func (h *Host) Touch(path string, to time.Time) {
	h.t.Helper()
	ts := unix.NsecToTimespec(to.UnixNano())
	h.ok(unix.UtimesNanoAt(unix.AT_FDCWD, h.At(path), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// Own sets the owner of a path itself.
func (h *Host) Own(path string, uid, gid int) {
	h.t.Helper()
	h.ok(os.Lchown(h.At(path), uid, gid))
}

// Mode sets the mode of a file, by its number.
func (h *Host) Mode(path string, mode uint32) {
	h.t.Helper()
	h.ok(unix.Chmod(h.At(path), mode))
}

// Readlink is where a link of the tree leads, or empty.
func (h *Host) Readlink(path string) string {
	target, err := os.Readlink(h.At(path))
	if err != nil {
		return ""
	}
	return target
}

// Secret writes a file that holds a secret, root's and readable for its owner alone.
func (h *Host) Secret(path, value string) {
	h.t.Helper()
	h.File(path, value+"\n", 0o400)
}

// Sops makes a generation of secrets as sops-nix does: a directory of its own, with a
// link to it, so that each of them is new each time.
func (h *Host) Sops(secrets map[string]string) {
	h.t.Helper()
	h.tick()
	h.generation("/run/secrets", "/run/secrets.d", secrets)
}

// Agenix makes a generation of secrets as agenix does.
func (h *Host) Agenix(secrets map[string]string) {
	h.t.Helper()
	h.tick()
	h.generation("/run/agenix", "/run/agenix.d", secrets)
}

func (h *Host) generation(link, dir string, secrets map[string]string) {
	number := "1"
	if old := h.Readlink(link); old != "" {
		h.Remove(old)
		number = strings.Repeat("1", len(filepath.Base(old))+1)
	}
	h.Dir(dir, 0o751, 0, Keys)
	h.Dir(filepath.Join(dir, number), 0o751, 0, Keys)
	for name, value := range secrets {
		h.Secret(filepath.Join(dir, number, name), value)
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			h.Dir(filepath.Join(dir, number, d), 0o751, 0, Keys)
		}
	}
	h.Link(link, filepath.Join(dir, number))
}

// Finish writes what is written once, and gives the root of the tree.
func (h *Host) Finish() string {
	h.t.Helper()
	if h.Live {
		h.writeProc()
		h.writeNet()
	}
	h.writeDatabase()
	return h.Root
}
