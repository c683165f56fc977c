package run

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestServeByHand: whatever serves a share of a VM that is run by hand finds beside
// its socket the directory as it was looked at, with all that is mounted in it, and
// ends with the VM; then nothing of it is left, and nothing of it was ever mounted for
// others to see.
func TestServeByHand(t *testing.T) {
	need.All(t, need.Root)
	dir := t.TempDir()
	source, mounted := filepath.Join(dir, "source"), filepath.Join(dir, "source", "mounted")
	if err := os.MkdirAll(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, ""); err != nil {
		t.Skipf("nothing can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(mounted, "deep"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// It tells what it was given, and then stays.
	said := filepath.Join(dir, "said")
	if err := unix.Mkfifo(said, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "virtiofsd")
	script := "#!/bin/sh\nfor word; do case $word in --shared-dir=*) at=${word#*=};; esac; done\n" +
		"{ ls $at/mounted; readlink /proc/self/fd/3 | cut -d: -f1; } >" + said + " 2>&1\nexec sleep 1000\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	s := plan.Share{Source: source, Tag: "data", Protocol: spec.VirtioFS, Cache: "auto", From: "Share[0]"}
	p := &plan.Plan{VM: plan.VM{Name: fmt.Sprintf("ampoule-test-share-%d", os.Getpid()), Shares: []plan.Share{s}}, Origins: map[string]diag.Origin{}}
	r := &runner{Options: Options{Plan: p}, voice: newVoice(os.Stderr)}
	defer r.voice.close()
	stop, problems := r.serve(program, s)
	defer stop()
	if problems.HasErrors() {
		t.Fatal(problems.Error())
	}
	f, err := os.Open(said)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || string(text) != "deep\nsocket\n" {
		t.Errorf("it finds %q, %v", text, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), p.VM.Name) {
		t.Errorf("others see it mounted (%v)", err)
	}
	stop()
	if _, err := os.Lstat(plan.ShareDirectory(p.VM.Name, s.Tag)); !os.IsNotExist(err) {
		t.Errorf("its directory is left: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(mounted, "deep")); err != nil {
		t.Error(err)
	}
}
