// Package host finds facts about this machine that a plan asks for: is KVM
// usable, where is the hypervisor, what kind of file is that. It changes
// nothing and holds no policy.
package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host says where to look. The zero value is not usable; see [Local].
type Host struct {
	CPUInfo, MemInfo, Swaps, KVM, VHostVSock, Group string
	// HugePageDir has a directory for each size of huge pages.
	HugePageDir string
	// Cgroup is the file that names this process's control group, CgroupRoot
	// where that tree is mounted.
	Cgroup, CgroupRoot string
	// Path is $PATH.
	Path string
	// Programs are the directories of Ampoule's own programs.
	Programs []string
}

// Local is the machine that the program runs on.
func Local() Host {
	path := os.Getenv("PATH")
	if path == "" {
		// What systemd gives a service, and execvp without $PATH.
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return Host{
		CPUInfo: "/proc/cpuinfo", MemInfo: "/proc/meminfo", Swaps: "/proc/swaps", KVM: "/dev/kvm", VHostVSock: "/dev/vhost-vsock", Group: "/etc/group",
		HugePageDir: "/sys/kernel/mm/hugepages",
		Cgroup:      "/proc/self/cgroup", CgroupRoot: "/sys/fs/cgroup", Path: path,
		Programs: ownPrograms(),
	}
}

// KVMUsable reports whether KVM can run a guest, and if not, why. The device
// alone does not tell: where the processor's own virtualisation is hidden, as
// in many nested set-ups, it opens and the guest hangs (docs/measured.md).
func (h Host) KVMUsable() (bool, string) {
	f, err := os.OpenFile(h.KVM, os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case os.IsNotExist(err):
		return false, h.KVM + " does not exist"
	case os.IsPermission(err):
		return false, fmt.Sprintf("uid %d may not open %s for reading and writing", os.Geteuid(), h.KVM)
	case err != nil:
		return false, fmt.Sprintf("%s cannot be opened", h.KVM)
	}
	f.Close()
	if runtime.GOARCH != "amd64" {
		return true, ""
	}
	flags, err := h.cpuFlags()
	if err != nil {
		return false, fmt.Sprintf("%s cannot be read, so the processor is unknown", h.CPUInfo)
	}
	if !flags["vmx"] && !flags["svm"] {
		return false, fmt.Sprintf("the processor shows neither vmx nor svm in %s", h.CPUInfo)
	}
	return true, ""
}

func (h Host) cpuFlags() (map[string]bool, error) {
	f, err := os.Open(h.CPUInfo)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	flags := map[string]bool{}
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		if name, value, ok := strings.Cut(scanner.Text(), ":"); ok && strings.TrimSpace(name) == "flags" {
			for flag := range strings.FieldsSeq(value) {
				flags[flag] = true
			}
			break // the same for every processor
		}
	}
	return flags, scanner.Err()
}

// Memory returns the machine's memory in bytes.
func (h Host) Memory() (int64, error) {
	f, err := os.Open(h.MemInfo)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		if rest, ok := strings.CutPrefix(scanner.Text(), "MemTotal:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("reading %s: no line MemTotal", h.MemInfo)
}

// FindBinary returns the absolute path of the first of names in $PATH.
func (h Host) FindBinary(names []string) (string, bool) {
	for _, name := range names {
		for dir := range strings.SplitSeq(h.Path, ":") {
			if !filepath.IsAbs(dir) {
				continue
			}
			p := filepath.Join(dir, name)
			if CheckExecutable(p) == nil {
				return p, true
			}
		}
	}
	return "", false
}

// HasGroup reports whether the host has a group of that name. Only the file is
// looked at: a group that a network knows may not be there when a unit starts.
func (h Host) HasGroup(name string) bool {
	data, err := os.ReadFile(h.Group)
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

// CheckExecutable says why a file cannot be executed, or nil.
func CheckExecutable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return reason(err)
	case info.IsDir():
		return fmt.Errorf("this is a directory")
	case !info.Mode().IsRegular():
		return fmt.Errorf("this is not a regular file")
	case unix.Access(path, unix.X_OK) != nil:
		return fmt.Errorf("not executable for uid %d (mode %04o)", os.Geteuid(), info.Mode().Perm())
	}
	return nil
}

// reason is what went wrong, without the path, which the caller shows.
func reason(err error) error {
	switch {
	case os.IsNotExist(err):
		return fmt.Errorf("no such file")
	case os.IsPermission(err):
		return fmt.Errorf("permission denied for uid %d", os.Geteuid())
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// open opens a file that a VM names, refusing what is no file of data. The
// kind is looked at before opening too, since opening a device (a watchdog, a
// tape) can have effects of its own.
func open(path string, flags int, blockAllowed bool) (*os.File, os.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		if link, linkErr := os.Lstat(path); linkErr == nil && link.Mode()&os.ModeSymlink != 0 && os.IsNotExist(err) {
			return nil, nil, fmt.Errorf("a symbolic link that leads nowhere")
		}
		return nil, nil, reason(err)
	}
	if err := checkKind(info, blockAllowed); err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if os.IsPermission(err) {
		return nil, nil, fmt.Errorf("permission denied for uid %d (mode %04o)", os.Geteuid(), info.Mode().Perm())
	}
	if err != nil {
		return nil, nil, reason(err)
	}
	if info, err = f.Stat(); err == nil {
		err = checkKind(info, blockAllowed)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func checkKind(info os.FileInfo, blockAllowed bool) error {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return fmt.Errorf("this is a directory")
	case mode.IsRegular(), blockAllowed && mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		return nil
	}
	return fmt.Errorf("this is not a regular file")
}

// head reads up to n bytes of the beginning.
func head(f *os.File, n int) ([]byte, error) {
	buf := make([]byte, n)
	got, err := io.ReadFull(f, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return buf[:got], err
}
