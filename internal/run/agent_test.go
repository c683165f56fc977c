package run

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/sshagent"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// publicKey asks an agent for its one key, as a line of authorized_keys.
func publicKey(t *testing.T, path string) string {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{0, 0, 0, 1, 11}); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 4+1+4+4)
	if _, err := io.ReadFull(conn, head); err != nil {
		t.Fatal(err)
	}
	blob := make([]byte, binary.BigEndian.Uint32(head[9:]))
	if _, err := io.ReadFull(conn, blob); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %s", blob[4:15], base64.StdEncoding.EncodeToString(blob))
}

// The guest gets the public half of the key that the agent has, the same after a
// reboot, and the agent ends with the guest.
func TestAPISSHKey(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		script, boots := "echo-secret-digest,say:done", 1
		if c.reboots {
			script, boots = "echo-secret-digest,reboot;"+script, 2
		}
		tr := c.trial(t, script, "VSockCID=auto", "GuestSystemd=257", "SSH=ephemeral", "Readiness=started").start()
		tr.await("\ndone\n")
		path := filepath.Join(tr.env["RUNTIME_DIRECTORY"], state.AgentName)
		line := publicKey(t, path)
		if want := fmt.Sprintf("%x", sha256.Sum256([]byte(line))); strings.Count(tr.stdout.String(), want) != boots {
			t.Errorf("%q did not arrive %d times:\n%s", line, boots, tr.stdout)
		}
		if len(line) != len(keyRoom()) {
			t.Errorf("the room for a key is %d bytes, and one has %d", len(keyRoom()), len(line))
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		if rec := tr.record(); !strings.Contains(rec, `"ssh_agent":"`+path+`"`) && !strings.Contains(rec, `"ssh_agent": "`+path+`"`) {
			t.Errorf("the record does not name the agent: %s", rec)
		}
		tr.cancel()
		tr.want(ExitPoweredOff, "")
		tr.wantNothingLeft()
	})
}

// A client that stays does not keep the agent from its end, after which nobody
// signs any more.
func TestAgentEnds(t *testing.T) {
	dir := t.TempDir()
	key, err := sshagent.NewKey("x")
	if err != nil {
		t.Fatal(err)
	}
	l, err := listenAt(dir, state.AgentName)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{key: key, listener: l, clients: map[net.Conn]bool{}}
	a.done.Go(a.accept)
	path := filepath.Join(dir, state.AgentName)
	publicKey(t, path)
	stays, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := stays.Read(make([]byte, 1)); err == nil {
		t.Error("its connection is open")
	}
}

// Nothing but the agent's own socket is taken for it.
func TestSSHAgent(t *testing.T) {
	dir := t.TempDir()
	i := state.Instance{Dir: dir, Record: &state.Record{}}
	if path, err := SSHAgent(i); path != "" || err != nil {
		t.Errorf("without a key: %q, %v", path, err)
	}
	i.Record.SSHAgent = "/anything"
	if _, err := SSHAgent(i); !errors.Is(err, ErrAgentGone) || strings.Contains(err.Error(), "\n") {
		t.Errorf("without a socket: %v", err)
	}
	l, err := listenAt(dir, "other")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	path := filepath.Join(dir, state.AgentName)
	if err := os.Symlink("other", path); err != nil {
		t.Fatal(err)
	}
	if _, err := SSHAgent(i); err == nil {
		t.Error("a link to another agent is taken")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	own, err := listenAt(dir, state.AgentName)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := SSHAgent(i); got != path || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	own.Close()
	if _, err := SSHAgent(i); !errors.Is(err, ErrAgentGone) {
		t.Errorf("nobody listens: %v", err)
	}
}

// The key does not fit every channel, and then that is said at its line.
func TestSSHKeyDoesNotFit(t *testing.T) {
	p := makePlan(t, "VSockCID=auto", "GuestSystemd=257", "SSH=ephemeral", "CredentialChannel=fw_cfg")
	all, given, err := withGiven(p, nil, room())
	if err != nil {
		t.Fatal(err)
	}
	defer wipeGiven(all, given)
	_, _, problems := choose(p, all, nil)
	if got := problems.Error(); !strings.Contains(got, ":5: SSH=…: the credential "+spec.SSHCredential+", which Ampoule gives the guest for it, does not fit the credential channel: fw_cfg: the name has 33 bytes") {
		t.Error(got)
	}
}

// scarce is a listener that fails once before it has a client.
type scarce struct {
	net.Listener
	client net.Conn
	failed bool
}

func (l *scarce) Accept() (net.Conn, error) {
	if !l.failed {
		l.failed = true
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	if l.client == nil {
		return nil, net.ErrClosed
	}
	client := l.client
	l.client = nil
	return client, nil
}

func (l *scarce) Close() error { return nil }

// TestAgentOutOfDescriptors: a client that could not be taken does not end the agent.
func TestAgentOutOfDescriptors(t *testing.T) {
	key, err := sshagent.NewKey("test")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	a := &agent{key: key, listener: &scarce{client: theirs}, clients: map[net.Conn]bool{}}
	a.done.Go(a.accept)
	defer a.Close()
	_ = ours.SetDeadline(time.Now().Add(time.Minute))
	if _, err := ours.Write([]byte{0, 0, 0, 1, 11}); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(ours, answer); err != nil || answer[4] != 12 {
		t.Errorf("%v %v", answer, err)
	}
}
