package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/ssh"
	"github.com/ampoule-vm/ampoule/internal/sshagent"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/vsock"
)

// programVariable makes the test binary ampoule itself, which ssh starts again.
const programVariable = "AMPOULE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		os.Exit(Main(os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	os.Exit(m.Run())
}

// sshTrial is a VM that has nothing but a lock, a record and a vsock, at which a
// real sshd answers.
type sshTrial struct {
	t          *testing.T
	name, user string
	bin, dir   string
	runtime    string
	env        []string
	claim      *state.Claim
}

func newSSHTrial(t *testing.T) *sshTrial {
	t.Helper()
	need.All(t, need.SSHD)
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	tr := &sshTrial{t: t, user: u.Username, name: fmt.Sprintf("ampoule-test-ssh-%d", os.Getpid()), dir: t.TempDir(), bin: t.TempDir()}
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	dirs := state.ByHandDirectories(tr.name, os.Getenv)
	tr.runtime = dirs.Runtime
	if tr.claim, err = state.Take(dirs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tr.claim.Release()
		os.RemoveAll(tr.runtime)
	})
	tr.programs()
	tr.sshd()
	return tr
}

// programs makes a $PATH with this ampoule in it, and an ssh that does not read the
// configuration of whoever runs the tests.
func (tr *sshTrial) programs() {
	self, err := os.Executable()
	if err != nil {
		tr.t.Fatal(err)
	}
	client, err := exec.LookPath("ssh")
	if err != nil {
		tr.t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s -F '%s/ssh_config' \"$@\"\n", client, tr.dir)
	err = errors.Join(
		os.WriteFile(filepath.Join(tr.dir, "ssh_config"), nil, 0o600),
		os.WriteFile(filepath.Join(tr.bin, "ssh"), []byte(script), 0o700),
		os.Symlink(self, filepath.Join(tr.bin, "ampoule")))
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.env = []string{"PATH=" + tr.bin + ":/usr/bin:/bin", "HOME=" + tr.dir, "SHELL=/nonexistent", "XDG_RUNTIME_DIR=" + os.Getenv("XDG_RUNTIME_DIR"), programVariable + "=1"}
}

// sshd makes keys, and the multiplexer behind which the server is: at port 22; at
// 24 nobody ever answers, and all others are closed.
func (tr *sshTrial) sshd() {
	t := tr.t
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(tr.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if os.Geteuid() == 0 {
		// Where it locks itself in, which its service would have made.
		if err := os.Mkdir("/run/sshd", 0o755); err == nil {
			t.Cleanup(func() { os.Remove("/run/sshd") })
		} else if !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	config := filepath.Join(tr.dir, "sshd_config")
	text := fmt.Sprintf("HostKey %[1]s/host\nAuthorizedKeysFile %[1]s/user.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n", tr.dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(tr.runtime, state.VSockName), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go serveSSH(c, config)
		}
	}()
}

func serveSSH(c *net.UnixConn, config string) {
	defer c.Close()
	// The client says nothing more before it has an answer.
	switch line, _ := bufio.NewReader(c).ReadString('\n'); line {
	case "CONNECT 24\n":
		_, _ = io.Copy(io.Discard, c)
		return
	case "CONNECT 22\n":
	default:
		return
	}
	f, err := c.File()
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = io.WriteString(c, "OK 1073741824\n")
	cmd := exec.Command("/usr/sbin/sshd", "-i", "-e", "-f", config)
	cmd.Stdin, cmd.Stdout = f, f
	_ = cmd.Run()
}

func (tr *sshTrial) record(r state.Record) {
	tr.t.Helper()
	r.Name, r.ByHand = tr.name, true
	if err := tr.claim.Write(r); err != nil {
		tr.t.Fatal(err)
	}
}

// command is one of the programs.
func (tr *sshTrial) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	tr.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(tr.bin, args[0]), args[1:]...)
	cmd.Env = tr.env
	return cmd
}

// want runs a program to its end.
func (tr *sshTrial) want(code int, stdout, stderr string, args ...string) {
	tr.t.Helper()
	var out, words bytes.Buffer
	cmd := tr.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &words
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code || out.String() != stdout || !strings.Contains(words.String(), stderr) || stderr == "" && words.Len() > 0 {
		tr.t.Errorf("%q: %d, %q, %q; want %d, %q, %q", args, got, out.String(), words.String(), code, stdout, stderr)
	}
}

func TestSSH(t *testing.T) {
	tr := newSSHTrial(t)
	in := func(more ...string) []string {
		return append([]string{"ampoule", "ssh", "-l", tr.user, "-i", filepath.Join(tr.dir, "user")}, more...)
	}
	tr.want(2, "", tr.name+": it has not started its guest yet", in(tr.name)...)
	tr.record(state.Record{Phase: state.Booting})
	tr.want(2, "", tr.name+" has no vsock, over which ssh would reach it; add VSockCID=auto to [MicroVM] and start it again\n", in(tr.name)...)
	tr.record(state.Record{Phase: state.Booting, VSock: filepath.Join(tr.runtime, state.VSockName)})

	tr.want(7, "in\n", "", in(tr.name, "echo in; exit 7")...)
	tr.want(0, "$HOME\n", "", in(tr.name, "--", "echo", "'$HOME'")...)
	tr.want(255, "", tr.name+" (booting): nothing in the guest listens at port 23 of its vsock\n", in("-p", "23", tr.name, "true")...)
	tr.want(2, "", "accepted: 1 to 65535", in("-p", "0", tr.name, "true")...)
	tr.want(2, "", "standard output is no socket", "ampoule", "ssh", "--proxy", tr.name)

	// The user's options go first.
	known := filepath.Join(tr.dir, "known_hosts")
	checked := in("-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile="+known, tr.name, "true")
	tr.want(0, "", "", checked...)
	if text, err := os.ReadFile(known); err != nil || !strings.HasPrefix(string(text), tr.name+".ampoule ") {
		t.Errorf("%q, %v", text, err)
	}
	if err := os.WriteFile(known, []byte(tr.name+".ampoule ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr.want(255, "", "REMOTE HOST IDENTIFICATION HAS CHANGED", checked...)

	entries, err := os.ReadDir(tr.runtime)
	if err != nil || len(entries) != 3 {
		t.Errorf("in its directory, beside lock, record and vsock: %v, %v", entries, err)
	}
}

// agent makes the key of a start, and its agent.
func (tr *sshTrial) agent() *sshagent.Key {
	tr.t.Helper()
	key, err := sshagent.NewKey("of the trial")
	if err != nil {
		tr.t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(tr.runtime, state.AgentName))
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.t.Cleanup(func() {
		l.Close()
		key.Wipe()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = key.Serve(c)
				c.Close()
			}()
		}
	}()
	return key
}

// TestSSHKeyRefused: behind ssh's own words stands what it means that the guest does
// not take the key of its start, and only then.
func TestSSHKeyRefused(t *testing.T) {
	tr := newSSHTrial(t)
	key := tr.agent()
	tr.record(state.Record{Phase: state.Ready, VSock: "vsock", SSHAgent: state.AgentName})
	in := func(more ...string) []string { return append([]string{"ampoule", "ssh", "-l", tr.user}, more...) }
	const what = "the guest has not taken the key of this start (SSH=ephemeral) for its user "
	tr.want(255, "", "Permission denied (publickey).\r\nampoule: "+tr.name+": "+what+tr.user+": ", in(tr.name, "true")...)
	// A key of the user's own is another matter, and so is a guest that does not answer.
	for _, more := range [][]string{{"-i", filepath.Join(tr.dir, "host")}, {"-p", "23"}} {
		cmd := tr.command(in(append(more, tr.name, "true")...)...)
		if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 255 || len(out) == 0 || strings.Contains(string(out), what) {
			t.Errorf("%q: %v, %s", more, err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(tr.dir, "user.pub"), []byte(key.Authorized()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr.want(7, "in\n", "", in(tr.name, "echo in; exit 7")...)
	tr.want(255, "", "", in(tr.name, "exit 255")...)
}

// While it is open, nothing stands between ssh, which ampoule became, and the guest.
func TestSSHRelaysNothing(t *testing.T) {
	tr := newSSHTrial(t)
	tr.record(state.Record{Phase: state.Ready, VSock: "vsock"})
	cmd := tr.command("ampoule", "ssh", "-l", tr.user, "-i", filepath.Join(tr.dir, "user"), tr.name, "cat")
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("all that there is to say\n", 1<<14)
	go func() { _, _ = io.WriteString(stdin, "first\n") }()
	r := bufio.NewReader(stdout)
	if line, err := r.ReadString('\n'); err != nil || line != "first\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid)); err != nil || string(name) != "ssh\n" {
		t.Errorf("the process is %q, %v", name, err)
	}
	if children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", cmd.Process.Pid)); err != nil || len(children) > 0 {
		t.Errorf("it has the children %q, %v", children, err)
	}
	go func() {
		_, _ = io.WriteString(stdin, large)
		stdin.Close()
	}()
	text, err := io.ReadAll(r)
	if err != nil || string(text) != large {
		t.Errorf("%d bytes came back of %d, %v", len(text), len(large), err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// What the help says that ssh_config can say is so.
func TestSSHConfiguration(t *testing.T) {
	tr := newSSHTrial(t)
	tr.record(state.Record{Phase: state.Ready, VSock: "vsock"})
	_, words, ok := strings.Cut(sshCommand(Streams{}).Long, "let ssh_config say\n\n")
	if !ok {
		t.Fatal("the help says nothing of ssh_config")
	}
	words, _, _ = strings.Cut(words, "\n\n")
	words += fmt.Sprintf("\n    User %s\n    IdentityFile %s/user\n    StrictHostKeyChecking no\n    UserKnownHostsFile /dev/null\n    LogLevel ERROR\n", tr.user, tr.dir)
	if err := os.WriteFile(filepath.Join(tr.dir, "ssh_config"), []byte(words), 0o600); err != nil {
		t.Fatal(err)
	}
	tr.env[2] = "SHELL=/bin/sh"
	tr.want(3, "in\n", "", "ssh", tr.name+".ampoule", "echo in; exit 3")
	tr.want(255, "", "ampoule: nobody is not running", "ssh", "nobody.ampoule")
}

func TestUnreachable(t *testing.T) {
	ready := state.Instance{Name: "web", Record: &state.Record{Phase: state.Ready}}
	booting := state.Instance{Name: "web", Record: &state.Record{Phase: state.Booting}}
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for _, c := range []struct {
		i    state.Instance
		port uint16
		err  error
		want string
	}{
		{ready, 22, fmt.Errorf("dialing: %w", vsock.ErrRefused), "web: nothing in the guest listens at port 22 of its vsock: it needs sshd and systemd 256 or later, or a socket unit with ListenStream=vsock::22"},
		{ready, 80, vsock.ErrRefused, "web: nothing in the guest listens at port 80 of its vsock"},
		{booting, 22, late.Err(), "web (booting): the guest does not answer over its vsock: it has not come to its driver, or lacks that (vmw_vsock_virtio_transport)"},
		{ready, 22, os.NewSyscallError("connect", os.ErrDeadlineExceeded), "web: the guest does not answer"},
		{ready, 22, run.ErrNoVSock, "web has no vsock"},
		{state.Instance{Name: "web", Service: true}, 22, run.ErrNoVSock, "and run ampoule apply"},
		{ready, 22, &os.PathError{Op: "open", Path: "/x", Err: fs.ErrNotExist}, "web: the hypervisor's end of the vsock is gone: open /x"},
		{ready, 22, ssh.ErrNoTaker, "web: standard output"},
	} {
		if got := unreachable(c.i, c.port, c.err).Error(); !strings.Contains(got, c.want) {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
