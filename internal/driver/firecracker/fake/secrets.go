package fake

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net"
	"path"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// credential is one that was found in the initial RAM disk.
type credential struct {
	name   string
	size   int64
	digest hash.Hash
	value  []byte // of the one that is no secret
}

// notifySocket is the credential that tells where to send notifications.
const notifySocket = "vmm.notify_socket"

// overlay collects the credentials of an archive.
type overlay struct {
	found   []*credential
	current *credential
}

// Entry is part of cpio.Handler.
func (o *overlay) Entry(h cpio.Header, _ string) error {
	o.current = nil
	if path.Dir("/"+h.Name) == layout.Credentials && h.Mode&cpio.TypeMask == cpio.TypeRegular {
		o.current = &credential{name: path.Base(h.Name), digest: sha256.New()}
		o.found = append(o.found, o.current)
	}
	return nil
}

// Body is part of cpio.Handler.
func (o *overlay) Body(p []byte) error {
	if c := o.current; c != nil {
		c.size += int64(len(p))
		_, _ = c.digest.Write(p)
		if c.name == notifySocket {
			c.value = append(c.value, p...)
		}
	}
	return nil
}

// Done is part of cpio.Handler.
func (o *overlay) Done() error { o.current = nil; return nil }

// Trailer is part of cpio.Handler.
func (o *overlay) Trailer() error { return nil }

// credentials are those that stand in the front of the initial RAM disk, as far
// as it is a plain archive.
func (g *guest) credentials() []*credential {
	o := &overlay{}
	// What follows may be compressed, and is not looked at.
	_, _ = cpio.NewReader(o).Feed(g.initrd)
	return o.found
}

// Digest is the line that the word echo-secret-digest writes for a credential.
func Digest(name string, value []byte) string {
	sum := sha256.Sum256(value)
	return digestLine(name, sum[:], int64(len(value)))
}

func digestLine(name string, sum []byte, size int64) string {
	return fmt.Sprintf("credential %s sha256=%s length=%d", name, hex.EncodeToString(sum), size)
}

func (g *guest) digests() {
	found := g.credentials()
	for _, c := range found {
		g.say("%s", digestLine(c.name, c.digest.Sum(nil), c.size))
	}
	g.say("credentials: %d", len(found))
}

// notifyPort finds the port for notifications, in the initial RAM disk or on
// the command line.
func (g *guest) notifyPort() (uint32, error) {
	address := ""
	for _, w := range g.line.parameters() {
		if s, ok := strings.CutPrefix(w, "systemd.set_credential="+notifySocket+":"); ok {
			address = s
		}
	}
	for _, c := range g.credentials() {
		if c.name == notifySocket {
			address = string(c.value)
		}
	}
	rest, ok := strings.CutPrefix(address, "vsock-stream:2:")
	port, err := strconv.ParseUint(rest, 10, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("%s names no stream to a port of the host", notifySocket)
	}
	return uint32(port), nil
}

// notify sends a message as systemd does: one connection, the text, the end of
// sending, and then a wait until the other side closes. Firecracker passes the
// text on but not the end of sending: the host sees it only when the guest has
// closed altogether (vsock/csm/connection.rs).
func (g *guest) notify(text string) bool {
	return g.during(func(stop <-chan struct{}) {
		if err := g.send(text, stop); err != nil {
			g.say("systemd[1]: Failed to notify: %v", err)
		}
	})
}

func (g *guest) send(text string, stop <-chan struct{}) error {
	port, err := g.notifyPort()
	if err != nil {
		return err
	}
	if g.vsock == "" {
		return fmt.Errorf("there is no vsock")
	}
	conn, err := net.Dial("unix", fmt.Sprintf("%s_%d", g.vsock, port))
	if err != nil {
		return fmt.Errorf("connection reset by peer") // all that a guest sees of it
	}
	defer conn.Close()
	go func() {
		<-stop
		_ = conn.Close()
	}()
	// A new line on the kernel's command line would be a lot to ask for.
	if _, err := io.WriteString(conn, strings.ReplaceAll(text, `\n`, "\n")); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, conn)
	return nil
}

// refuse takes connections to ports of the guest, where nobody listens.
func refuse(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var line [32]byte
			for n := 0; n < len(line); n++ {
				if _, err := conn.Read(line[n : n+1]); err != nil || line[n] == '\n' {
					return
				}
			}
		}()
	}
}
