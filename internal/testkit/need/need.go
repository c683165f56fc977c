// Package need names what a test needs and this machine may lack. A test that
// lacks something is skipped with the reason; where the environment promises
// it (AMPOULE_REQUIRE=all, or a list of names), the skip is a failure. It is
// for tests alone.
package need

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Need is something that a machine has or lacks.
type Need string

// The needs.
const (
	Root    Need = "root"    // uid 0 with the capabilities of the first user namespace
	QEMU    Need = "qemu"    // qemu-system-x86_64
	Guest   Need = "guest"   // mmdebstrap and root, to build a guest
	Nspawn  Need = "nspawn"  // systemd-nspawn and root
	Systemd Need = "systemd" // systemd-creds and systemd's binary
	Cpio    Need = "cpio"    // GNU cpio
	Packers Need = "packers" // cpio, gzip, bzip2, xz, lz4 and zstd
	SSHD    Need = "sshd"    // OpenSSH's client and server
	Tun     Need = "tun"     // /dev/net/tun, root and unshare
	SQLite  Need = "sqlite"  // sqlite3 and git, to write the tree of a NixOS host
	Nix     Need = "nix"     // nix-instantiate
	VM      Need = "vm"      // AMPOULE_VM=canary or all
	VMAll   Need = "vm-all"  // AMPOULE_VM=all
)

// lack says why a need is not met, or "".
func lack(n Need) string {
	program := func(name string) string {
		if _, err := exec.LookPath(name); err != nil {
			return name + " is not installed"
		}
		return ""
	}
	root := ""
	if os.Geteuid() != 0 {
		root = "it needs root"
	}
	level := os.Getenv("AMPOULE_VM")
	switch n {
	case Root:
		return root
	case QEMU:
		return program("qemu-system-x86_64")
	case Guest:
		return first(root, program("mmdebstrap"))
	case Nspawn:
		return first(root, program("systemd-nspawn"), program("mmdebstrap"))
	case Systemd:
		return first(program("systemd-creds"), program("systemctl"))
	case Nix:
		return program("nix-instantiate")
	case Cpio:
		return program("cpio")
	case Packers:
		return first(program("cpio"), program("gzip"), program("bzip2"), program("xz"), program("lz4"), program("zstd"))
	case Tun:
		if _, err := os.Stat("/dev/net/tun"); err != nil {
			return first(root, err.Error())
		}
		return first(root, program("unshare"))
	case SQLite:
		return first(program("sqlite3"), program("git"))
	case SSHD:
		return first(program("ssh"), program("ssh-keygen"), program("/usr/sbin/sshd"))
	case VM:
		if level == "canary" || level == "all" {
			return ""
		}
		return "it boots a VM; set AMPOULE_VM=canary or all"
	case VMAll:
		if level == "all" {
			return ""
		}
		return "it is part of the whole matrix; set AMPOULE_VM=all"
	}
	panic("unknown need " + string(n))
}

func first(reasons ...string) string {
	for _, r := range reasons {
		if r != "" {
			return r
		}
	}
	return ""
}

// All skips the test where one of the needs is not met, or fails it where the
// environment promises that need. VM and VMAll are wishes of whoever runs the
// tests and are never promised; SSHD is so only by its name, since who installs
// that opens a port of the machine.
func All(t testing.TB, needs ...Need) {
	t.Helper()
	for _, n := range needs {
		reason := lack(n)
		if reason == "" {
			continue
		}
		if promised(os.Getenv("AMPOULE_REQUIRE"), n) {
			t.Fatalf("this machine was promised to have %q: %s", n, reason)
		}
		t.Skip(reason)
	}
}

func promised(list string, n Need) bool {
	words := strings.Fields(list)
	switch n {
	case VM, VMAll:
		return false
	case SSHD:
		return slices.Contains(words, string(n))
	}
	return slices.Contains(words, "all") || slices.Contains(words, string(n))
}
