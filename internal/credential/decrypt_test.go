package credential

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// sealer encrypts with the real tool and a host key of its own.
type sealer struct {
	t       *testing.T
	program string
	environ []string
}

func newSealer(t *testing.T) sealer {
	t.Helper()
	need.All(t, need.Systemd)
	program, err := exec.LookPath("systemd-creds")
	if err != nil {
		t.Fatal(err)
	}
	return sealer{t, program, []string{"SYSTEMD_CREDENTIAL_SECRET=" + filepath.Join(t.TempDir(), "host.secret")}}
}

func (s sealer) seal(name, value string) string {
	s.t.Helper()
	cmd := exec.Command(s.program, "encrypt", "--with-key=host", "--name="+name, "-", "-")
	cmd.Env = s.environ
	cmd.Stdin = strings.NewReader(value)
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("encrypting: %v", err)
	}
	return string(out)
}

// Everything that can be encrypted is decrypted by the real systemd-creds.
func TestSystemdCreds(t *testing.T) {
	s := newSealer(t)
	w := newWorld(t)
	w.env.Decrypt = SystemdCreds{Environ: s.environ}.Decrypt
	binary := "a\x00b\n\xff" + strings.Repeat("long ", 20_000)
	w.file("api", s.seal("api", binary)).file("d/sub/x", s.seal("dir_sub_x", "in a directory")).
		file("etc/credstore.encrypted/net.a", s.seal("net.a", "in a store")).file("etc/credstore.encrypted/old.b", s.seal("new.b", "renamed")).
		file("etc/credstore.encrypted/else", s.seal("another name", "not ours")).
		file("garbage", "garbage").file("empty", "").file("cut", s.seal("api", binary)[:200])
	w.one("LoadCredentialEncrypted=api:DIR/api", "api="+binary+" (file DIR/api)")
	w.one("LoadCredentialEncrypted=dir:DIR/d", "dir_sub_x=in a directory (file DIR/d/sub/x)")
	w.one("LoadCredentialEncrypted=net.a", "net.a=in a store (credstore DIR/etc/credstore.encrypted/net.a)")
	w.one("ImportCredential=net.*", "net.a=in a store (credstore DIR/etc/credstore.encrypted/net.a)")
	w.one("ImportCredential=old.*:new.", "new.b=renamed (credstore DIR/etc/credstore.encrypted/old.b)")
	creds, problems := w.gather("SetCredentialEncrypted=literal:" + s.seal("literal", "value"))
	if len(creds) != 1 || creds[0] != "literal=value (plan)" || problems != nil {
		t.Errorf("%q, %q", creds, problems)
	}
	if creds, problems = w.gather("SetCredentialEncrypted=none:" + s.seal("none", "")); len(creds) != 1 || creds[0] != "none= (plan)" {
		t.Errorf("%q, %q", creds, problems)
	}
	for line, words := range map[string]string{
		"LoadCredentialEncrypted=other:DIR/api": "does not match", "LoadCredentialEncrypted=a:DIR/garbage": "Failed to",
		"LoadCredentialEncrypted=a:DIR/empty": "too short", "LoadCredentialEncrypted=api:DIR/cut": "", "ImportCredential=else": "does not match",
	} {
		creds, problems := w.gather(line)
		if creds != nil || len(problems) != 1 || !strings.Contains(problems[0], "systemd-creds does not decrypt it as") || !strings.Contains(problems[0], words) ||
			!strings.Contains(problems[0], "; encrypt it on this host, with systemd-creds encrypt --name=") || strings.ContainsAny(problems[0], "\n\x00") {
			t.Errorf("%s: %q, %q", line, creds, problems)
		}
	}
}

// The variables of systemd's tools reach it, and nothing else of ours does.
func TestSystemdCredsEnvironment(t *testing.T) {
	t.Setenv("SYSTEMD_CREDENTIAL_SECRET", "/x")
	t.Setenv("TOKEN", "hidden")
	got := strings.Join(SystemdCreds{}.environ(), "\n")
	if !strings.Contains(got, "SYSTEMD_CREDENTIAL_SECRET=/x") || strings.Contains(got, "TOKEN") {
		t.Errorf("the environment is %s", got)
	}
}

func TestSystemdCredsAbsent(t *testing.T) {
	w := newWorld(t).file("api", "x")
	t.Setenv("PATH", t.TempDir())
	w.env.Decrypt = nil
	w.one("LoadCredentialEncrypted=api:DIR/api",
		"vm:1: LoadCredentialEncrypted=api:DIR/api: file DIR/api: systemd-creds, which decrypts it, is not installed; install systemd 250 or later")
}

// tool writes a program that stands for systemd-creds where the real one cannot
// be made to misbehave.
func tool(t *testing.T, script string) SystemdCreds {
	t.Helper()
	path := filepath.Join(t.TempDir(), "systemd-creds")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return SystemdCreds{Path: path}
}

func blob(t *testing.T, content string) *secret.Value {
	t.Helper()
	v, err := secret.FromBytes([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Wipe)
	return v
}

func TestToolMisbehaves(t *testing.T) {
	ctx := context.Background()
	large := strings.Repeat("x", 1<<20)
	for name, c := range map[string]struct{ script, want string }{
		"echo":         {`[ "$*" = "decrypt --name=api - -" ] && cat`, ""},
		"reads little": {`head -c 10 >/dev/null; exec echo -n short`, ""},
		"fails":        {`cat >/dev/null; echo "half of the value"; echo "No such key" >&2; exit 3`, `systemd-creds does not decrypt it as "api": No such key`},
		"fails mutely": {`exit 7`, `systemd-creds does not decrypt it as "api": exit status 7`},
		"is killed":    {`kill -9 $$`, `systemd-creds does not decrypt it as "api": signal: killed`},
		"talks":        {`i=0; while [ $i -lt 3000 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 1`, "line 2999"},
		"prints much":  {`exec cat /dev/zero`, "running systemd-creds: larger than the limit of 1048576 bytes"},
	} {
		v, err := tool(t, c.script).Decrypt(ctx, "api", blob(t, large))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want == "":
			if want := map[string]string{"echo": large, "reads little": "short"}[name]; !v.EqualBytes([]byte(want)) {
				t.Errorf("%s: the value is another", name)
			}
		case err == nil || v != nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1200 || strings.Contains(err.Error(), "half"):
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := tool(t, "exec sleep 60").Decrypt(ctx, "api", blob(t, "x"))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 20*time.Second {
		t.Errorf("a tool that hangs: %v after %s", err, time.Since(began))
	}
	if _, err := (SystemdCreds{}).Decrypt(ctx, "", blob(t, "x")); err == nil {
		t.Error("an empty name, which turns the check of names off, was taken")
	}
}

// A value that is not text does not come out of the tool's words as it is.
func TestWordsAreFitForATerminal(t *testing.T) {
	var b tail
	b.max = 20
	_, _ = b.Write([]byte(strings.Repeat("x", 100)))
	_, _ = b.Write([]byte("a\x1b[31m\nb\xff"))
	if got := b.words(&exec.ExitError{}); got != "xxxxxxxxxxxa?[31m b?" {
		t.Errorf("%q", got)
	}
}

// A large credential goes through. systemd 252 itself takes 1152 KiB of Base64,
// later versions as many bytes before it.
func TestEncryptedSizes(t *testing.T) {
	s := newSealer(t)
	w := newWorld(t)
	w.env.Decrypt = SystemdCreds{Environ: s.environ}.Decrypt
	value := strings.Repeat("\x00\xff", 800<<10/2)
	w.file("api", s.seal("api", value))
	if creds, problems := w.gather("LoadCredentialEncrypted=api:DIR/api"); len(creds) != 1 || !strings.Contains(creds[0], value) {
		t.Errorf("%d credentials, %q", len(creds), problems)
	}
	w.file("large", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), rule.MaxEncrypted)))
	w.one("LoadCredentialEncrypted=api:DIR/large", "vm:1: LoadCredentialEncrypted=api:DIR/large: file DIR/large is too large; at most 1048576 bytes are possible")
}
