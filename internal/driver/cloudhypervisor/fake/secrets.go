package fake

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// credential is one that has arrived in the guest.
type credential struct {
	source, name string
	value        []byte
}

// credentials finds all of them, as systemd in a guest would.
func (g *guest) credentials() []credential {
	var all []credential
	for text := range bytes.SplitSeq(g.machine.smbios, []byte{0}) {
		if rest, ok := bytes.CutPrefix(text, []byte("io.systemd.credential:")); ok {
			all = appendCredential(all, "smbios", string(rest), "=", false)
		} else if rest, ok := bytes.CutPrefix(text, []byte("io.systemd.credential.binary:")); ok {
			all = appendCredential(all, "smbios", string(rest), "=", true)
		}
	}
	for word := range strings.FieldsSeq(g.cmdline) {
		word = strings.Trim(word, `"`)
		if rest, ok := strings.CutPrefix(word, "systemd.set_credential="); ok {
			all = appendCredential(all, "cmdline", rest, ":", false)
		} else if rest, ok := strings.CutPrefix(word, "systemd.set_credential_binary="); ok {
			all = appendCredential(all, "cmdline", rest, ":", true)
		}
	}
	return append(all, archived(g.machine.archive)...)
}

func appendCredential(all []credential, source, text, separator string, encoded bool) []credential {
	name, value, ok := strings.Cut(text, separator)
	if !ok {
		return all
	}
	data := []byte(value)
	if encoded {
		var err error
		if data, err = base64.StdEncoding.DecodeString(value); err != nil {
			return all // as systemd does, but for a warning
		}
	}
	return append(all, credential{source, name, data})
}

// archived reads the archive at the beginning of an initial RAM disk, in the
// format "newc", as far as it is one.
func archived(data []byte) []credential {
	var all []credential
	number := func(i int) int {
		n, err := strconv.ParseUint(string(data[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return 1 << 40
		}
		return int(n)
	}
	for len(data) >= 110 && string(data[:6]) == "070701" {
		mode, size, length := number(1), number(6), number(11)
		body := (110 + length + 3) &^ 3
		if length < 1 || body+size > len(data) {
			return all
		}
		name := string(data[110 : 110+length-1])
		if name == "TRAILER!!!" {
			return all
		}
		for _, dir := range []string{layout.Credentials[1:] + "/", ".extra/system_credentials/"} {
			if base, ok := strings.CutPrefix(name, dir); ok && mode&0o170000 == 0o100000 {
				all = append(all, credential{"initrd", strings.TrimSuffix(base, ".cred"), slices.Clone(data[body : body+size])})
			}
		}
		data = data[min(len(data), (body+size+3)&^3):]
	}
	return all
}

// sayDigests tells what has arrived, without telling it.
func (g *guest) sayDigests() bool {
	for _, c := range g.credentials() {
		if !g.say(fmt.Sprintf("credential %s %s %d %x", c.source, c.name, len(c.value), sha256.Sum256(c.value))) {
			return false
		}
	}
	return g.say("credentials end")
}

// notify tells the service manager of the host something: one connection for each
// message, and no further step before the other side has closed it.
func (g *guest) notify(text string) bool {
	port, words := g.notifyPort()
	if words != "" {
		return g.say("notify: " + words)
	}
	conn, err := net.DialTimeout("unix", g.machine.set.Vsock.Socket+"_"+port, 5*time.Second)
	if err != nil {
		return g.say("notify: connection reset by peer")
	}
	defer conn.Close()
	go func() {
		select {
		case <-g.ended:
			conn.Close()
		case <-g.over:
		}
	}()
	if _, err := conn.Write([]byte(text)); err != nil {
		return g.say("notify: the message was not taken")
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return g.say("notify: the message was not taken")
	}
	_, _ = io.Copy(io.Discard, conn)
	return g.pass()
}

// notifyPort is where the service manager of the host listens. A value for
// datagrams is of no use here: a guest would try streams in the end.
func (g *guest) notifyPort() (port, words string) {
	if g.machine.set.Vsock == nil {
		return "", "there is no vsock device"
	}
	for _, c := range g.credentials() {
		if c.name != "vmm.notify_socket" {
			continue
		}
		parts := strings.Split(string(c.value), ":")
		if len(parts) != 3 || !oneOf(parts[0], "vsock-stream", "vsock") || parts[1] != "2" {
			return "", "not an address of the host: " + string(c.value)
		}
		return parts[2], ""
	}
	return "", "there is no credential vmm.notify_socket"
}
