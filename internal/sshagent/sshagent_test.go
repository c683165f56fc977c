package sshagent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/secret"
)

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey("web")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

// conversation is a client that has said all at the start.
type conversation struct {
	bytes.Reader
	got bytes.Buffer
}

func (c *conversation) Write(p []byte) (int, error) { return c.got.Write(p) }

// say sends messages and returns the answers, and how it ended.
func say(k *Key, raw []byte) ([]byte, error) {
	var c conversation
	c.Reset(raw)
	err := k.Serve(&c)
	return c.got.Bytes(), err
}

func TestKey(t *testing.T) {
	a, b := newKey(t), newKey(t)
	line := a.Authorized()
	if len(line) != AuthorizedBytes || !strings.HasPrefix(line, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI") || line == b.Authorized() {
		t.Errorf("%q (%d bytes, want %d), and another %q", line, len(line), AuthorizedBytes, b.Authorized())
	}
	want, err := base64.StdEncoding.DecodeString(strings.Fields(line)[1])
	if err != nil || !bytes.Equal(want, a.public) {
		t.Errorf("%x, %v", want, err)
	}
}

func TestSign(t *testing.T) {
	k, other := newKey(t), newKey(t)
	request := func(key []byte, data, flags string) []byte {
		return text(nil, append(text(text([]byte{signRequest}, key), []byte(data)), flags...))
	}
	got, err := say(k, append(text(nil, []byte{requestIdentities}), request(k.public, "data", "\x00\x00\x00\x04")...))
	if err != nil {
		t.Fatal(err)
	}
	list, rest, _ := cutText(got)
	if want := text(text([]byte{identitiesAnswer, 0, 0, 0, 1}, k.public), []byte("web")); !bytes.Equal(list, want) {
		t.Errorf("identities %q", list)
	}
	signed, rest, _ := cutText(rest)
	if len(signed) == 0 || signed[0] != signResponse || len(rest) != 0 {
		t.Fatalf("%q, %q", signed, rest)
	}
	blob, _, _ := cutText(signed[1:])
	name, blob, _ := cutText(blob)
	signature, _, _ := cutText(blob)
	if string(name) != algorithm || !ed25519.Verify(k.public[len(k.public)-ed25519.PublicKeySize:], []byte("data"), signature) {
		t.Errorf("%q, %x", name, signature)
	}
	for name, message := range map[string][]byte{
		"another key":     request(other.public, "data", "\x00\x00\x00\x00"),
		"no flags":        request(k.public, "data", ""),
		"more behind":     request(k.public, "data", "\x00\x00\x00\x00\x00"),
		"no data":         text(nil, text([]byte{signRequest}, k.public)),
		"too long a text": text(nil, append([]byte{signRequest}, "\xff\xff\xff\xffx"...)),
		"nothing in it":   text(nil, []byte{signRequest}),
		"add a key":       text(nil, []byte{17, 1, 2, 3}),
		"remove all":      text(nil, []byte{19}),
		"lock":            text(nil, []byte{22}),
		"extension":       text(nil, text([]byte{27}, []byte("session-bind@openssh.com"))),
	} {
		if got, err := say(k, message); err != nil || !bytes.Equal(got, []byte{0, 0, 0, 1, failure}) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	k.Wipe()
	if got, err := say(k, request(k.public, "data", "\x00\x00\x00\x00")); err != nil || !bytes.Equal(got, []byte{0, 0, 0, 1, failure}) {
		t.Errorf("after its end: %q, %v", got, err)
	}
	if err := k.seed.Use(func([]byte) error { return nil }); !errors.Is(err, secret.ErrWiped) {
		t.Error("the seed is there after Wipe")
	}
}

func TestServeRefuses(t *testing.T) {
	k := newKey(t)
	for name, raw := range map[string][]byte{
		"empty":       {0, 0, 0, 0},
		"large":       binary.BigEndian.AppendUint32(nil, maxMessage+1),
		"cut":         {0, 0, 0, 2, 1},
		"cut in size": {0, 0},
	} {
		if got, err := say(k, raw); err == nil || len(got) > 0 {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// OpenSSH's own programs take it for an agent.
func TestOpenSSH(t *testing.T) {
	if _, err := exec.LookPath("ssh-add"); err != nil {
		t.Skip("there is no ssh-add")
	}
	k := newKey(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _ = k.Serve(c) }()
		}
	}()
	add := func(args ...string) string {
		cmd := exec.Command("ssh-add", args...)
		cmd.Env = []string{"SSH_AUTH_SOCK=" + socket}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if got := add("-L"); got != k.Authorized()+" web\n" {
		t.Errorf("ssh-add -L: %q", got)
	}
	public := filepath.Join(dir, "key.pub")
	if err := os.WriteFile(public, []byte(k.Authorized()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	add("-T", public) // has it sign, and checks the signature
}

func FuzzServe(f *testing.F) {
	k, err := NewKey("web")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text(nil, []byte{requestIdentities}))
	f.Add(text(nil, append(text(text([]byte{signRequest}, k.public), []byte("x")), 0, 0, 0, 0)))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = say(k, raw) })
}

// TestUse: an agent of ours tells how often it was asked, and of another is said that
// it does not.
func TestUse(t *testing.T) {
	k := newKey(t)
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() { _ = k.Serve(theirs) }()
	want := func(use Use) {
		t.Helper()
		if got, err := UseOf(ours); err != nil || got != use {
			t.Errorf("%+v, %v, want %+v", got, err, use)
		}
	}
	want(Use{})
	ask := func(message []byte) {
		t.Helper()
		if _, err := ours.Write(text(nil, message)); err != nil {
			t.Fatal(err)
		}
		if _, err := ours.Read(make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	ask([]byte{requestIdentities})
	want(Use{Listed: 1})
	sign := append(text(text([]byte{signRequest}, k.public), []byte("data")), 0, 0, 0, 0)
	ask(sign)
	ask(append(text(text([]byte{signRequest}, []byte("another")), []byte("data")), 0, 0, 0, 0))
	ask(append(text([]byte{extension}, []byte(useName)), 0))
	ask(text([]byte{extension}, []byte("query")))
	want(Use{Listed: 1, Signed: 1})

	for _, answer := range []string{"\x00\x00\x00\x01\x05", "\x00\x00\x00\x01\x1c", "\x00\x00\x00\x20" + strings.Repeat("x", 32)} {
		other, agent := net.Pipe()
		go func() {
			_, _ = agent.Read(make([]byte, 1<<10))
			_, _ = agent.Write([]byte(answer))
			agent.Close()
		}()
		if use, err := UseOf(other); !errors.Is(err, ErrNoUse) {
			t.Errorf("%q: %+v, %v", answer, use, err)
		}
		other.Close()
	}
}
