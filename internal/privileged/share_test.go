package privileged

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestGiveSocket: a socket changes its owner, and nothing in its place does.
func TestGiveSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives a socket away")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := giveSocket(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 12345 {
		t.Errorf("%v %v", info.Sys(), err)
	}
	// Its owner may open it to others; the next does not get it so.
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := giveSocket(path, 0, 0); err != nil {
		t.Fatal(err)
	}
	if info, err = os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("taken back, it is %v (%v)", info.Mode(), err)
	}
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{file, link} {
		if err := giveSocket(other, 1, 1); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("%s: %v", other, err)
		}
	}
}

// TestPrepareShares: what nobody serves is named at its line, with where to look.
func TestPrepareShares(t *testing.T) {
	dir := t.TempDir()
	p := planOf(t, "Kernel=/one", "Share="+dir+":data", "Share=/nowhere/absent:more:ro")
	_, problems := Prepare(t.Context(), Request{Plan: p, Owner: "first", Dir: filepath.Join(t.TempDir(), "run", "privileged")})
	text := problems.Error()
	for _, want := range []string{"web.microvm:3: Share=" + dir + ":data: nobody serves it", "journalctl -u microvm-share@web:data.service", "web.microvm:4: Share=", "there is no directory"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
}

// TestRemoveShare: the directory of a share goes with what belongs there. Where
// somebody has put something else, that stays.
func TestRemoveShare(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "web@data")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "d"), 0o700), os.WriteFile(filepath.Join(dir, "s"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := removeShare(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
	if err := removeShare(dir); err != nil {
		t.Errorf("a second time: %v", err)
	}
	file := filepath.Join(dir, "d", "served")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "d"), 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := removeShare(dir); err == nil {
		t.Error("something is served, and nobody minds")
	}
	if _, err := os.Lstat(file); err != nil {
		t.Error(err)
	}
}
