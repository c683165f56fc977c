package share

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// Program serves a share of virtiofs.
const Program = "virtiofsd"

// directories are where distributions have it beside $PATH.
const directories = "/usr/libexec:/usr/lib"

// oldest is the first version that can be told not to write (--readonly).
var oldest = [2]int{1, 13}

// Find returns the path of virtiofsd. A version that will not do, and none, is an
// error at the first line that needs it.
func Find(ctx context.Context, p *plan.Plan, h host.Host) (string, diag.List) {
	shares := p.VM.Served()
	if len(shares) == 0 {
		return "", nil
	}
	var problems diag.List
	fail := func(accepted, format string, args ...any) (string, diag.List) {
		problems.Add(problem(p, shares[0], accepted, format, args...))
		return "", problems
	}
	h.Path += ":" + directories
	path, ok := h.FindBinary([]string{Program})
	if !ok {
		return fail("install virtiofsd", "the program that serves it, %s, is absent: it is neither in $PATH nor in %s", Program, strings.ReplaceAll(directories, ":", ", "))
	}
	version, err := versionOf(ctx, path)
	if err != nil {
		return fail(fmt.Sprintf("install virtiofsd %d.%d or newer", oldest[0], oldest[1]), "%s cannot serve it: %v", path, err)
	}
	if version[0] < oldest[0] || version[0] == oldest[0] && version[1] < oldest[1] {
		return fail(fmt.Sprintf("install virtiofsd %d.%d or newer", oldest[0], oldest[1]), "%s has version %d.%d, which is too old", path, version[0], version[1])
	}
	return path, nil
}

func versionOf(ctx context.Context, path string) (version [2]int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return version, fmt.Errorf("it does not tell its version: %w", err)
	}
	return parseVersion(string(out))
}

// parseVersion reads "virtiofsd 1.13.2". The one that came with QEMU up to 7.2
// says "virtiofsd version 7.2.22".
func parseVersion(out string) (version [2]int, err error) {
	m := regexp.MustCompile(`^virtiofsd (\d{1,4})\.(\d{1,4})\.`).FindStringSubmatch(out)
	if m == nil {
		return version, fmt.Errorf("it is not virtiofsd of gitlab.com/virtio-fs, which says \"virtiofsd 1.…\" of itself")
	}
	for i := range version {
		version[i], _ = strconv.Atoi(m[i+1]) // digits, and few
	}
	return version, nil
}

// changes are the capabilities that virtiofsd would keep and does not need, and
// what it does need to read a share of which nothing is written: files of any
// owner are read, and nothing is ever made, changed or given away. Without
// CAP_MKNOD a guest makes no device nodes on the host, and attributes, in which
// capabilities of files stand, it cannot set.
var changes = map[bool]string{
	false: "-mknod:-setfcap",
	true:  "-chown:-dac_override:-fowner:-fsetid:-setgid:-setuid:-mknod:-setfcap:+dac_read_search",
}

// Arguments are those of virtiofsd, its name included, that serves the directory
// dir on the listening socket fd. Unlimited: how many files it may have open was
// settled by whoever starts it.
func Arguments(s plan.Share, fd int, dir string, unlimited bool) []string {
	args := []string{
		Program, fmt.Sprintf("--fd=%d", fd), "--shared-dir=" + dir, "--cache=" + s.Cache,
		"--sandbox=chroot", "--modcaps=" + changes[s.ReadOnly], "--log-level=warn",
	}
	if unlimited {
		args = append(args, "--rlimit-nofile=0")
	}
	if s.ReadOnly {
		args = append(args, "--readonly")
	}
	return args
}

// Become makes the socket, tells the service manager that it is there, and
// executes virtiofsd in the place of this program.
func Become(program string, s plan.Share, socket, dir string) error {
	f, err := Listen(socket)
	if err != nil {
		return err
	}
	if _, err := daemon.SdNotify(true, "READY=1"); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	fd := int(f.Fd())
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	err = unix.Exec(program, Arguments(s, fd, dir, true), []string{})
	return &os.PathError{Op: "exec", Path: program, Err: err}
}
