package console

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// startQEMU starts a machine whose firmware is the given 16-bit code, and
// returns its serial console.
func startQEMU(t *testing.T, code []byte) (net.Conn, *exec.Cmd) {
	t.Helper()
	need.All(t, need.QEMU)
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	image := make([]byte, 64<<10)
	copy(image, code)
	copy(image[len(image)-16:], []byte{0xe9, 0x0d, 0x00}) // first instruction: jmp to the image's start
	bios := filepath.Join(t.TempDir(), "bios")
	if err := os.WriteFile(bios, image, 0o600); err != nil {
		t.Fatal(err)
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, theirs := os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console")
	conn, err := net.FileConn(near)
	if err != nil {
		t.Fatal(err)
	}
	near.Close()
	t.Cleanup(func() { conn.Close() })

	cmd := exec.Command(path, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", "tcg", "-m", "16", "-bios", bios,
		"-chardev", "socket,id=c,fd=3", "-serial", "chardev:c")
	cmd.ExtraFiles = []*os.File{theirs}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	killer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		killer.Stop()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s\n%s", cmd, stderr.String())
		}
	})
	return conn, cmd
}

// TestQEMUEchoes sends every byte from a terminal to a guest and back.
func TestQEMUEchoes(t *testing.T) {
	conn, cmd := startQEMU(t, []byte{
		0xba, 0xfd, 0x03, // wait: mov dx, line status
		0xec, 0xa8, 0x01, 0x74, 0xfb, // in al, dx; test al, 1; jz back
		0xba, 0xf8, 0x03, 0xec, 0xee, // mov dx, data; in al, dx; out dx, al
		0xeb, 0xf1, // jmp wait
	})
	p := openPTY(t)
	a := attach(t, conn, Options{In: p.slave, Out: p.slave, OnEscape: func() {}})
	p.awaitRaw(t)
	var every []byte
	for b := range 256 {
		every = append(every, byte(b))
	}
	say(t, p.master, string(every))
	got := make([]byte, len(every))
	if _, err := io.ReadFull(p.master, got); err != nil || !bytes.Equal(got, every) {
		t.Errorf("got %q, %v", got, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := a.wait(); err != nil {
		t.Error(err)
	}
}

// counter counts what passes.
type counter struct {
	io.ReadWriter
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.ReadWriter.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// TestQEMURunsOnBehindABlockedOperator: a guest that prints without end goes on
// printing, far beyond what the socket takes.
func TestQEMURunsOnBehindABlockedOperator(t *testing.T) {
	conn, cmd := startQEMU(t, []byte{
		0xba, 0xf8, 0x03, 0xb0, '.', // mov dx, data; mov al, '.'
		0xee, 0xeb, 0xfd, // out dx, al; jmp back
	})
	out := log{block: make(chan struct{})}
	defer close(out.block)
	c := &counter{ReadWriter: conn}
	a := attach(t, c, Options{Out: &out})
	// Byte by byte, a socket that nobody reads is full after a few hundred.
	await(t, "256 KiB of output", func() bool { return c.n.Load() > 256<<10 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := a.wait(); err != nil {
		t.Error(err)
	}
}
