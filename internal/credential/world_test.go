package credential

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// world is a host in a directory: DIR in the texts of a test.
type world struct {
	t   *testing.T
	dir string
	env Env
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.env = Env{
		SystemDirectory:    w.path("system"),
		StoreDirs:          []string{w.path("etc/credstore"), w.path("lib/credstore")},
		EncryptedStoreDirs: []string{w.path("etc/credstore.encrypted")},
		Unit:               "microvm@test.service",
		Timeout:            20 * time.Second,
		Decrypt:            mark,
	}
	return w
}

// mark stands in for decryption: it shows that it took place, and for which
// name. The real one has a test of its own.
func mark(_ context.Context, name string, blob *secret.Value) (*secret.Value, error) {
	b := secret.NewBuilder(0)
	defer b.Wipe()
	b.AppendString("decrypted[" + name + "]")
	b.AppendValue(blob)
	if blob.EqualBytes([]byte("garbage")) {
		return nil, fmt.Errorf("systemd-creds does not decrypt it")
	}
	return b.Value()
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// file writes a file for its owner only, with the directories above.
func (w *world) file(name, content string) *world {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return w
}

func (w *world) mode(name string, mode os.FileMode) {
	w.t.Helper()
	if err := os.Chmod(w.path(name), mode); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) mkdir(name string) *world {
	w.t.Helper()
	if err := os.MkdirAll(w.path(name), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return w
}

func (w *world) fifo(name string) {
	w.t.Helper()
	if err := unix.Mkfifo(w.path(name), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) link(name, target string) {
	w.t.Helper()
	if err := os.Symlink(strings.ReplaceAll(target, "DIR", w.dir), w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

// requests reads assignments as they stand in a file, one a line. For brevity
// this reader knows no escapes.
func (w *world) requests(file string, lines ...string) []Request {
	w.t.Helper()
	kinds := map[string]Kind{
		"LoadCredential": Load, "LoadCredentialEncrypted": LoadEncrypted, "SetCredential": Set,
		"SetCredentialEncrypted": SetEncrypted, "ImportCredential": Import, "Credential": Pass,
	}
	var reqs []Request
	for i, line := range lines {
		key, value, _ := strings.Cut(strings.ReplaceAll(line, "DIR", w.dir), "=")
		first, rest, _ := strings.Cut(value, ":")
		r := Request{Kind: kinds[key], ID: first, Origin: diag.Origin{File: file, Line: i + 1}, Key: key, Shown: value}
		switch r.Kind {
		case Load, LoadEncrypted:
			r.Path = rest
		case Set, SetEncrypted:
			r.Value, r.Shown = []byte(rest), diag.Elide(value, ":")
		case Import:
			r.Guest = rest
		case Pass:
			r.Guest, r.ID = first, rest
			if rest == "" {
				r.Guest, r.ID = "", first
			}
		default:
			w.t.Fatalf("%s: the test knows no such key", line)
		}
		reqs = append(reqs, r)
	}
	return reqs
}

func (w *world) service(lines ...string) *world {
	w.env.Service = w.requests("service", lines...)
	return w
}

// gather returns everything as text: the credentials as NAME=VALUE (SOURCE),
// the problems as their messages.
func (w *world) gather(lines ...string) (creds, problems []string) {
	w.t.Helper()
	got, list := Gather(context.Background(), w.requests("vm", lines...), w.env)
	defer Wipe(got)
	if list.HasErrors() && got != nil {
		w.t.Errorf("credentials are returned beside errors: %v", got)
	}
	for _, c := range got {
		value := ""
		if err := c.Value.Use(func(b []byte) error { value = string(bytes.Clone(b)); return nil }); err != nil {
			w.t.Error(err)
		}
		creds = append(creds, w.plain(fmt.Sprintf("%s=%s (%s)", c.Guest, value, c.Source)))
	}
	for _, p := range list {
		problems = append(problems, w.plain(p.Error()))
	}
	return creds, problems
}

func (w *world) plain(s string) string { return strings.ReplaceAll(s, w.dir, "DIR") }

// expect compares what is gathered for some lines with what is wanted.
func (w *world) expect(lines, creds, problems []string) {
	w.t.Helper()
	gotCreds, gotProblems := w.gather(lines...)
	if !slices.Equal(gotCreds, creds) {
		w.t.Errorf("%s\ncredentials\n  %s\nwant\n  %s", strings.Join(lines, "\n"), strings.Join(gotCreds, "\n  "), strings.Join(creds, "\n  "))
	}
	if !slices.Equal(gotProblems, problems) {
		w.t.Errorf("%s\nproblems\n  %s\nwant\n  %s", strings.Join(lines, "\n"), strings.Join(gotProblems, "\n  "), strings.Join(problems, "\n  "))
	}
}
