package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// hypervisor returns the command of a real one, which a variable names.
func hypervisor(t *testing.T, variable string, args ...string) *exec.Cmd {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Skip(variable + " names no hypervisor")
	}
	cmd := exec.CommandContext(testContext(t), path, args...)
	cmd.Dir = t.TempDir()
	// Where Cloud Hypervisor is linked with glibc, giving back the memory of a
	// large body opens a file of /proc, which the seccomp filter of its HTTP
	// thread forbids: it dies or hangs. One arena alone gives back without.
	cmd.Env = append(os.Environ(), "MALLOC_ARENA_MAX=1")
	return cmd
}

// start starts a hypervisor, with a descriptor 3 or none.
func start(t *testing.T, cmd *exec.Cmd, inherited ...*os.File) {
	t.Helper()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.ExtraFiles = inherited
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range inherited {
		f.Close()
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s\n%s", cmd, output.String())
		}
	})
}

func cloudHypervisor(t *testing.T, connections int) ([]*Client, *exec.Cmd) {
	t.Helper()
	cmd := hypervisor(t, "AMPOULE_TEST_CLOUD_HYPERVISOR", "--api-socket", "fd=3")
	ours, theirs := listen(t, connections)
	start(t, cmd, theirs)
	var clients []*Client
	for _, conn := range ours {
		c := New(conn)
		t.Cleanup(func() { c.Close() })
		clients = append(clients, c)
	}
	return clients, cmd
}

func TestCloudHypervisor(t *testing.T) {
	clients, cmd := cloudHypervisor(t, 2)
	for i, c := range clients {
		r, err := c.Do(testContext(t), "GET", "/api/v1/vmm.ping", nil)
		var ping struct{ Pid int }
		if err == nil {
			err = json.Unmarshal(r.Body, &ping)
		}
		if err != nil || r.Status != 200 || ping.Pid != cmd.Process.Pid {
			t.Fatalf("connection %d: %v, %q, %v", i, r, r.Body, err)
		}
	}
	c := clients[0]
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/api/v1/vm.info", "", 404},
		{"PUT", "/api/v1/vm.boot", "", 404},
		{"PUT", "/api/v1/vm.boot", "{}", 400},
		{"PUT", "/api/v1/vm.create", "", 400},
		{"PUT", "/api/v1/vm.create", `{"payload":{"kernel":5}}`, 400},
		{"PUT", "/api/v1/vm.create", `{"payload":{"kernel":"/nonexistent","cmdline":"` + strings.Repeat("x", 51_000) + `"},"console":{"mode":"Off"}}`, 204},
		{"GET", "/api/v1/vm.info", "", 200},
		{"PUT", "/api/v1/vm.delete", "", 204},
		{"GET", "/nonsense", "", 404},
		{"PUT", "/api/v1/vmm.shutdown", "", 200},
	} {
		var body Body
		if tt.body != "" {
			body = strings.NewReader(tt.body)
		}
		r, err := c.Do(testContext(t), tt.method, tt.path, body)
		if err != nil || r.Status != tt.status {
			t.Errorf("%s %s: %v, %.300s, %v", tt.method, tt.path, r, r.Body, err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	for _, c := range clients {
		if _, err := c.Do(testContext(t), "GET", "/api/v1/vmm.ping", nil); !errors.Is(err, ErrPeerGone) {
			t.Error(err)
		}
	}
}

// What the server cannot read costs the connection, not the next request its
// own reply.
func TestCloudHypervisorLosesItsPlace(t *testing.T) {
	clients, _ := cloudHypervisor(t, 2)
	c := clients[0]
	c.MaxRequest *= 2
	r, err := c.Do(testContext(t), "PUT", "/api/v1/vm.create", strings.NewReader(strings.Repeat("x", DefaultMaxRequest+1)))
	if err != nil || r.Status != 400 {
		t.Fatalf("%v, %v", r, err)
	}
	if _, err := c.Do(testContext(t), "GET", "/api/v1/vmm.ping", nil); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
	if r, err := clients[1].Do(testContext(t), "GET", "/api/v1/vmm.ping", nil); err != nil || r.Status != 200 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestFirecracker(t *testing.T) {
	socket := filepath.Join(private(t), "api.sock")
	cmd := hypervisor(t, "AMPOULE_TEST_FIRECRACKER", "--api-sock", socket)
	start(t, cmd)
	conn, err := DialPath(testContext(t), socket, cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	c := New(conn)
	defer c.Close()
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("others can connect: %v", err)
	}
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/", "", 200},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`, 204},
		{"PUT", "/machine-config", `{"vcpu_count":"` + marker + `"}`, 400},
		{"PUT", "/actions", "", 400},
		{"GET", "/nonsense", "", 400},
		{"GET", "/version", "", 200},
	} {
		var body Body
		if tt.body != "" {
			body = strings.NewReader(tt.body)
		}
		r, err := c.Do(testContext(t), tt.method, tt.path, body)
		if err != nil || r.Status != tt.status {
			t.Errorf("%s %s: %v, %.300s, %v", tt.method, tt.path, r, r.Body, err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(testContext(t), "GET", "/", nil); !errors.Is(err, ErrPeerGone) {
		t.Error("killed process " + strconv.Itoa(cmd.Process.Pid) + ": " + err.Error())
	}
}
