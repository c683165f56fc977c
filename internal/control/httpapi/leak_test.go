package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
)

// helperEnv makes the test program a client in a process of its own, whose
// memory a test looks at from outside.
const helperEnv = "HTTPAPI_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		if err := help(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// help sends a secret from descriptor 3 on the connection that is descriptor 4,
// wipes it, says so and waits. Descriptor 5 has a control value for its heap.
func help() error {
	value, err := secret.ReadFrom(os.NewFile(3, "secret"), 1<<20)
	if err != nil {
		return err
	}
	control, err := io.ReadAll(os.NewFile(5, "control"))
	if err != nil {
		return err
	}
	conn, err := connOf(4)
	if err != nil {
		return err
	}
	c := New(conn)
	defer c.Close()
	reply, err := c.Do(context.Background(), "PUT", "/api/v1/vm.create", value)
	if err != nil {
		return err
	}
	clear(reply.Body) // it quotes the secret
	value.Wipe()
	fmt.Println(reply.Status, len(reply.Body))
	_, _ = os.Stdin.Read(make([]byte, 1))
	fmt.Println(len(control))
	return nil
}

// pipeOf returns the reading end of a pipe with data in it.
func pipeOf(t *testing.T, data []byte) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// A secret that was sent, and quoted in the reply, is nowhere in the memory of
// the process that has sent it.
func TestBodyLeavesNothingInMemory(t *testing.T) {
	value, control := leak.Random(24), leak.Random(24)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	server, err := connOf(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	theirs := os.NewFile(uintptr(fds[1]), "client")
	out, stdin := startHelper(t, pipeOf(t, value), theirs, pipeOf(t, control))
	theirs.Close()

	r, err := http.ReadRequest(bufio.NewReader(server))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || string(body) != string(value) {
		t.Fatalf("the secret has not arrived: %v", err)
	}
	if _, err := fmt.Fprintf(server, "HTTP/1.1 400 \r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		t.Fatal(err)
	}
	line, err := out.ReadString('\n')
	if err != nil || line != fmt.Sprintf("400 %d\n", len(body)) {
		t.Fatalf("the helper says %q, %v", line, err)
	}
	s, err := leak.New(t, map[string][]byte{"control": control, "secret": value})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ScanMemory(stdin.pid); err != nil {
		t.Skipf("may not read the helper's memory: %v", err)
	}
	found := map[string]bool{}
	for _, row := range s.Report().Rows {
		found[row.Secret] = true
	}
	if !found["control"] {
		t.Error("the search is blind")
	}
	if found["secret"] {
		t.Error("the secret is in the memory of the process")
	}
	stdin.Close()
	if line, err := out.ReadString('\n'); err != nil || strings.TrimSpace(line) != strconv.Itoa(len(control)) {
		t.Errorf("the helper says %q, %v", line, err)
	}
}

// helperInput ends the helper when it is closed.
type helperInput struct {
	io.Closer
	pid int
}

func startHelper(t *testing.T, files ...*os.File) (*bufio.Reader, helperInput) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{helperEnv + "=1"}
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return bufio.NewReader(out), helperInput{in, cmd.Process.Pid}
}
