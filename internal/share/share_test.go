package share

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

func planOf(shares ...plan.Share) *plan.Plan {
	p := &plan.Plan{VM: plan.VM{Name: "web"}, Origins: map[string]diag.Origin{"Share[0]": {File: "web.microvm", Line: 3}, "Share[1]": {File: "web.microvm", Line: 4}}}
	for i := range shares {
		shares[i].From = []string{"Share[0]", "Share[1]"}[i]
		if shares[i].Protocol == "" {
			shares[i].Protocol = spec.VirtioFS
		}
	}
	p.VM.Shares = shares
	return p
}

// TestJudge: a directory is judged by where it leads now.
func TestJudge(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"one/in", "two"} {
		if err := os.MkdirAll(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("one/key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"proc": "/proc", "all": "/", "same": at("one"), "inner": at("one/in"), "key": at("one/key")} {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	share := func(name string, readOnly bool) plan.Share {
		return plan.Share{Source: at(name), Tag: strings.ReplaceAll(name, "/", "-"), ReadOnly: readOnly}
	}
	for want, shares := range map[string][]plan.Share{
		"":                             {share("one", false), share("two", false)},
		"there is no directory":        {share("absent", false)},
		"is not a directory":           {share("one/key", false)},
		"nothing in /proc is":          {share("proc", true)},
		"it is all of the host":        {share("all", true)},
		"to the same or one in the":    {share("one", true), share("same", false)},
		"it leads to " + at("one/in"):  {share("inner", false), share("one", true)},
		"web.microvm:4 to the same or": {share("one", false), share("inner", true)},
	} {
		p := planOf(shares...)
		problems := Judge(p, p.VM.Shares)
		if text := problems.Error(); problems.HasErrors() != (want != "") || !strings.Contains(text, want) || want != "" && !strings.HasPrefix(text, "web.microvm:") {
			t.Errorf("want %q: %s", want, text)
		}
	}
	both := planOf(share("one", true), share("inner", true))
	if problems := Judge(both, both.VM.Shares); len(problems) > 0 {
		t.Error(problems)
	}
	// A link to the source of a credential is as good as the source.
	p := planOf(share("one", true))
	p.VM.Credentials = []plan.Credential{{ID: "key", Path: at("key"), From: "LoadCredential"}}
	if problems := Judge(p, p.VM.Shares); !strings.Contains(problems.Error(), "the guest would see the source of a credential, "+at("one/key")) {
		t.Error(problems)
	}
}

// TestListen: nobody but the owner may connect, whatever the umask and whatever was
// there.
func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 2 {
		f, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%v %v", info.Mode(), err)
		}
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := Listen("/nowhere/s"); err == nil {
		t.Error("a socket in no directory")
	}
}

func TestFind(t *testing.T) {
	p := planOf(plan.Share{Source: "/srv", Tag: "a"}, plan.Share{Source: "/opt", Tag: "b"})
	for says, want := range map[string]string{
		"virtiofsd 1.13.2": "", "virtiofsd 1.13.0": "", "virtiofsd 2.0.0": "",
		"virtiofsd 1.12.9": "has version 1.12, which is too old", "virtiofsd 0.99.1": "too old",
		"virtiofsd version 7.2.22": "it is not virtiofsd of gitlab.com", "": "it is not virtiofsd",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, Program), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		path, problems := Find(t.Context(), p, host.Host{Path: dir})
		if problems.HasErrors() != (want != "") || !strings.Contains(problems.Error(), want) || (path == "") != (want != "") || len(problems) > 1 {
			t.Errorf("%q: %q %s", says, path, problems)
		}
	}
	if path, problems := Find(t.Context(), planOf(plan.Share{Protocol: spec.NineP}), host.Host{Path: "/nowhere"}); path != "" || len(problems) > 0 {
		t.Errorf("%q %s", path, problems)
	}
}

func TestArguments(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		args := Arguments(plan.Share{Cache: "always", ReadOnly: readOnly}, 7, "/d", true)
		for _, want := range []string{"--fd=7", "--shared-dir=/d", "--cache=always", "--sandbox=chroot", "--rlimit-nofile=0"} {
			if !slices.Contains(args, want) {
				t.Errorf("no %s in %q", want, args)
			}
		}
		if slices.Contains(args, "--readonly") != readOnly {
			t.Errorf("read-only %v: %q", readOnly, args)
		}
	}
}
