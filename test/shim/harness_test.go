// Package shim boots real kernels with the shim as their first program and a
// probe as the guest's init, and looks at what the probe finds. The initial RAM
// disks are tiny, so that a boot takes seconds without KVM.
package shim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/shim/layout"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/test/shim/report"
)

// programs are built by TestMain: the shim, and the probe for most guests.
var programs struct{ shim, probe []byte }

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "ampoule-shim-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for _, p := range []struct {
		file string
		into *[]byte
		args []string
	}{
		// How it is linked is up to the Makefile alone. The probe is a first
		// program too, and starts as the shim does where there is no console.
		{"ampoule-init", &programs.shim, []string{"make", "--silent", "build", "BIN=" + dir}},
		{"probe", &programs.probe, []string{"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-E=ampoule_init_entry", "-o", dir + "/", "./test/shim/probe"}},
	} {
		cmd := exec.Command(p.args[0], p.args[1:]...)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=")
		if words, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%s: %w\n%s", cmd, err, words)
		}
		if *p.into, err = os.ReadFile(filepath.Join(dir, p.file)); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

// file is an entry of an archive.
type file struct {
	name string
	mode uint32
	body []byte
	// major and minor are those of a device.
	major, minor uint32
	// same is the number of a file that entries with two names share.
	same uint32
}

func dir(name string) file { return file{name: name, mode: cpio.TypeDir | 0o755} }

// archive makes a newc archive.
func archive(files ...file) []byte {
	var out []byte
	for i, f := range files {
		h := cpio.Header{Ino: uint32(1000 + i), Mode: f.mode, NLink: 1, Size: uint32(len(f.body)), Name: f.name, RDevMajor: f.major, RDevMinor: f.minor}
		if f.same != 0 {
			h.Ino, h.NLink = f.same, 2
		}
		out = append(cpio.AppendHeader(out, h), f.body...)
		out = append(out, make([]byte, cpio.Padding(len(f.body)))...)
	}
	return cpio.AppendTrailer(out)
}

// credential is one that goes into a guest.
type credential struct {
	name  string
	value []byte
}

// overlay is what the host puts before an initial RAM disk.
func overlay(creds []credential, next string) []byte {
	files := []file{{name: layout.Dir[1:], mode: cpio.TypeDir | 0o700}, {name: layout.Credentials[1:], mode: cpio.TypeDir | 0o700}}
	for _, c := range creds {
		files = append(files, file{name: layout.Credentials[1:] + "/" + c.name, mode: cpio.TypeRegular | 0o400, body: c.value})
	}
	if next != "" {
		files = append(files, file{name: layout.Next[1:], mode: cpio.TypeRegular | 0o400, body: []byte(next)})
	}
	files = append(files, file{name: layout.Init[1:], mode: cpio.TypeRegular | 0o755, body: programs.shim})
	out := archive(files...)
	return append(out, make([]byte, cpio.Pad(len(out), 4096))...)
}

// base is a minimal initial RAM disk with the probe as its init.
func base(more ...file) []byte {
	return archive(append([]file{dir("dev"), dir("proc"), probe("init")}, more...)...)
}

func probe(name string) file {
	return file{name: name, mode: cpio.TypeRegular | 0o755, body: programs.probe}
}

// machine is a guest to boot.
type machine struct {
	suite   string // "" is bookworm
	initrd  []byte
	words   string // of the kernel's command line
	options []string
}

// outcome is what a guest did.
type outcome struct {
	report  *report.Report // nil: none
	console string
	took    time.Duration
}

// limit is how long a guest may take on a machine that has other work.
const limit = 4 * time.Minute

// kernel has what is always on the command line.
const kernel = "panic=-1 cryptomgr.notests initcall_blacklist=crypto_kdf108_init,init_encrypted,jent_mod_init "

// command makes the command of a machine. What it says on its two ports goes
// into files of a directory.
func (m machine) command(ctx context.Context, t testing.TB, dir string) *exec.Cmd {
	t.Helper()
	suite := m.suite
	if suite == "" {
		suite = "bookworm"
	}
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, m.initrd, 0o600); err != nil {
		t.Fatal(err)
	}
	words := kernel + layout.KernelParameter + " " + m.words
	if !strings.Contains(words, "console=") {
		words = "console=ttyS0 " + words
	}
	args := append([]string{
		"-M", "q35", "-accel", "tcg", "-m", "512M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:" + filepath.Join(dir, "console"), "-serial", "file:" + filepath.Join(dir, "report"),
		"-kernel", guest.Get(t, suite).Kernel, "-initrd", initrd, "-append", words,
	}, m.options...)
	return exec.CommandContext(ctx, "qemu-system-x86_64", args...)
}

// boot boots a machine until it ends.
func (m machine) boot(t testing.TB) outcome {
	t.Helper()
	need.All(t, need.Guest, need.QEMU)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	dir := t.TempDir()
	cmd := m.command(ctx, t, dir)
	began := time.Now()
	words, err := cmd.CombinedOutput()
	out := outcome{took: time.Since(began)}
	out.console = text(t, filepath.Join(dir, "console"))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("after %s: %s\n%s\n%s", out.took.Round(time.Millisecond), cmd, words, tail(out.console, 60))
		}
	})
	if err != nil {
		t.Fatalf("qemu: %v (%v)", err, ctx.Err())
	}
	said := text(t, filepath.Join(dir, "report"))
	if _, after, ok := strings.Cut(said, report.Begin); ok {
		body, _, ok := strings.Cut(after, report.End)
		if !ok {
			t.Fatalf("half a report: %q", said)
		}
		out.report = new(report.Report)
		if err := json.Unmarshal([]byte(body), out.report); err != nil {
			t.Fatalf("the report: %v\n%s", err, body)
		}
	}
	return out
}

func text(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func tail(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// reported boots a machine that has to report.
func (m machine) reported(t testing.TB) (*report.Report, outcome) {
	t.Helper()
	out := m.boot(t)
	if out.report == nil {
		t.Fatal("the guest did not report")
	}
	return out.report, out
}

// wantDelivered fails unless exactly these credentials are in the store, with
// all that is promised about it.
func wantDelivered(t testing.TB, o outcome, creds []credential) {
	t.Helper()
	r := o.report
	if len(r.Store) != len(creds) {
		t.Errorf("%d files in the store, want %d: %.300v", len(r.Store), len(creds), r.Store)
	}
	got := map[string]report.File{}
	for _, f := range r.Store {
		got[f.Path] = f
	}
	for _, c := range creds {
		sum := sha256.Sum256(c.value)
		want := report.File{Path: layout.Store + "/" + c.name, Mode: 0o100400, Size: int64(len(c.value)), SHA256: hex.EncodeToString(sum[:])}
		if f := got[want.Path]; f != want {
			t.Errorf("got  %+v\nwant %+v", f, want)
		}
	}
	variable := layout.Variable + "=" + layout.Store
	if !strings.Contains("\x00"+r.Environ, "\x00"+variable+"\x00") {
		t.Errorf("the environment is %q", r.Environ)
	}
	wantMount(t, r, "tmpfs /run tmpfs rw,nosuid,nodev,size=", "mode=755")
	wantMount(t, r, "ramfs "+layout.Store+" ramfs ro,nosuid,nodev,noexec,", "nosymfollow", "mode=700")
	if r.Writable {
		t.Error("the store can be written")
	}
	if want := fmt.Sprintf("ampoule-init: %d credentials", len(creds)); !strings.Contains(o.console, want) {
		t.Errorf("the console lacks %q", want)
	}
	wantClean(t, o)
}

// wantClean fails if anything of the overlay is left, or any value elsewhere.
func wantClean(t testing.TB, o outcome) {
	t.Helper()
	for _, f := range append(o.report.Root, o.report.Run...) {
		if f.Path == layout.Dir || strings.HasPrefix(f.Path, layout.Dir+"/") || f.Path == "/initrd.image" {
			t.Errorf("left behind: %+v", f)
		}
	}
	if len(o.report.Leaks) > 0 || o.report.Scanned < 1<<20 {
		t.Errorf("values are in %v (%d bytes were looked at)", o.report.Leaks, o.report.Scanned)
	}
	if len(o.report.Problems) > 0 {
		t.Errorf("the probe: %v", o.report.Problems)
	}
}

// wantNothing fails if there are credentials, or half of them, or something
// mounted for them.
func wantNothing(t testing.TB, o outcome, reason string) {
	t.Helper()
	r := o.report
	if strings.Contains(r.Environ, layout.Variable) || len(r.Store) > 0 {
		t.Errorf("environment %q, store %v", r.Environ, r.Store)
	}
	for _, m := range r.Mounts {
		if strings.Contains(m, " "+layout.Run) {
			t.Errorf("mounted: %s", m)
		}
	}
	if !strings.Contains(o.console, "ampoule-init: error: no credentials: "+reason) {
		t.Errorf("the console lacks %q", reason)
	}
	wantClean(t, o)
}

func wantMount(t testing.TB, r *report.Report, begin string, words ...string) {
	t.Helper()
	found := 0
	for _, m := range r.Mounts {
		if strings.HasPrefix(m, begin) {
			found++
			for _, w := range words {
				if !strings.Contains(m, w) {
					t.Errorf("%q lacks %q", m, w)
				}
			}
		}
	}
	if found != 1 {
		t.Errorf("%d mounts begin with %q: %q", found, begin, r.Mounts)
	}
}

// installed skips a test that lacks a program, or fails it where all needs are
// promised.
func installed(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if slices.Contains(strings.Fields(os.Getenv("AMPOULE_REQUIRE")), "all") {
			t.Fatal(name + " is not installed")
		}
		t.Skip(name + " is not installed")
	}
}

// value makes n bytes that repeat nowhere, the same in every run.
func value(seed string, n int) []byte {
	var out bytes.Buffer
	for i := 0; out.Len() < n; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", seed, i))
		out.Write(sum[:])
	}
	return out.Bytes()[:n]
}

type reportFile = report.File

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
