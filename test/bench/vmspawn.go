package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// vmspawn is systemd-vmspawn of Debian's unstable release, which has the newest
// systemd. Its loader runs it on this host, so that it needs neither root
// directory nor mounts of its own and finds this host's QEMU.
type vmspawn struct {
	root    string // what mmdebstrap made
	dir     string // its runtime directory and its image
	version string
}

// vmspawnRecipe is what the root is made of. A mirror may be served by a cache
// that is older than its lists say they may be used; which version came of it
// stands in the table.
var vmspawnRecipe = []string{
	"--quiet", "--variant=minbase", `--aptopt=Acquire::Check-Valid-Until "false"`, "--include=systemd-container",
}

// findVmspawn makes the root where the cache has none: a quarter of a minute,
// and 150 MiB.
func findVmspawn(s setup) (vmspawn, error) {
	root, err := buildRoot("sid", vmspawnRecipe...)
	if err != nil {
		return vmspawn{}, fmt.Errorf("building a root with systemd-vmspawn: %w", err)
	}
	v := vmspawn{root: root, dir: filepath.Join(s.dir, "vmspawn")}
	if err := v.prepare(); err != nil {
		return vmspawn{}, err
	}
	out, err := v.command("/usr/bin", "--version").Output()
	if err != nil {
		return vmspawn{}, fmt.Errorf("asking systemd-vmspawn for its version: %w", err)
	}
	// "systemd 262 (262.1-1)"
	_, rest, found := strings.Cut(string(out), "(")
	v.version, _, _ = strings.Cut(rest, ")")
	if !found || v.version == "" {
		return vmspawn{}, errors.New("systemd-vmspawn --version names no version")
	}
	return v, nil
}

// prepare makes the directory and the image. One there must be; the guest does
// not look at it.
func (v vmspawn) prepare() error {
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(v.image(), make([]byte, 1<<20), 0o600)
}

// another is one that can run at the same time.
func (v vmspawn) another() (vmspawn, error) {
	v.dir += "-another"
	return v, v.prepare()
}

func (v vmspawn) image() string { return filepath.Join(v.dir, "image") }

// command is systemd-vmspawn with the hypervisor that is found in a directory.
func (v vmspawn) command(hypervisor string, args ...string) *exec.Cmd {
	usr := filepath.Join(v.root, "usr")
	libraries := filepath.Join(usr, "lib", "x86_64-linux-gnu")
	words := append([]string{
		"--library-path", libraries + ":" + filepath.Join(libraries, "systemd"), filepath.Join(usr, "bin", "systemd-vmspawn"),
	}, args...)
	cmd := exec.Command(filepath.Join(v.root, "lib64", "ld-linux-x86-64.so.2"), words...)
	cmd.Env = []string{"PATH=" + hypervisor + ":" + os.Getenv("PATH"), "HOME=" + v.dir, "XDG_RUNTIME_DIR=" + v.dir}
	cmd.SysProcAttr = ownSession()
	return cmd
}

// flags make systemd-vmspawn do what ampoule run does for a VM without
// network, shares and devices, and nothing else: no TPM, no vsock and so no
// notification, no registration, no scope, no key pair for ssh, no firmware of
// its own choice. The image is one thing more, since it cannot do without.
func (v vmspawn) flags(s setup) []string {
	return []string{
		"--quiet", "--register=no", "--keep-unit", "--kvm=no", "--vsock=no", "--tpm=no", "--firmware=none",
		"--machine=ampoule-bench", "--ram=512M", "--image=" + v.image(), "--linux=" + s.guest.Kernel, "--initrd=" + s.guest.Initrd,
	}
}

// anyRoot keeps it from looking for the root file system in the image. The
// guest, whose root is its initramfs, does not care.
const anyRoot = "root=tmpfs"

// withoutKeys leaves out the key pair for ssh, which is made by default.
const withoutKeys = "--pass-ssh-key=no"

// silentBus is a system bus that says nothing. systemd-vmspawn connects with it
// where it watches a guest for the system, and asks it for nothing as long as
// it neither registers nor makes a scope. In the user's scope, which needs no
// bus, it would watch only what runs in a unit of a user manager. hangUp must
// be called while the guest runs, or the bus's silence is waited out at the
// end.
func (v vmspawn) silentBus() (address string, hangUp func(), err error) {
	path := filepath.Join(v.dir, "bus")
	bus, err := net.Listen("unix", path)
	if err != nil {
		return "", nil, err
	}
	connected := make(chan net.Conn, 1)
	go func() {
		defer close(connected)
		if conn, err := bus.Accept(); err == nil {
			connected <- conn
		}
	}()
	return "DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + path, func() {
		_ = bus.Close()
		for conn := range connected {
			conn.Close()
		}
	}, nil
}
