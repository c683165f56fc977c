// Package nixeval evaluates hosts with the Nix modules of this tree, with a real Nix, and
// builds what they are made of. By default NixOS, nixpkgs' lib and microvm.nix are the
// stand-ins of its own folder. It is for tests alone.
package nixeval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// World is what the modules are evaluated with. The zero value is the stand-ins.
type World struct {
	// Lib and Microvm are Nix expressions, Packages and GuestModules expressions in which
	// lib is known. Empty: the stand-ins.
	Lib, Packages, Microvm, GuestModules string
	// Ampoule is a directory in which Ampoule is installed. Empty: nothing is.
	Ampoule string
}

// Real is nixpkgs' lib and microvm.nix itself, whose directories the environment names
// (AMPOULE_TEST_NIXPKGS_LIB, AMPOULE_TEST_MICROVM_NIX). The rest of NixOS, and packages,
// are stand-ins all the same.
func Real() (World, bool) {
	lib, microvm := os.Getenv("AMPOULE_TEST_NIXPKGS_LIB"), os.Getenv("AMPOULE_TEST_MICROVM_NIX")
	if lib == "" || microvm == "" {
		return World{}, false
	}
	generator := filepath.Join(Root(), "internal", "microvmnix", "testdata", "gen")
	return World{
		Lib:          "import " + lib,
		Packages:     "import " + generator + "/pkgs.nix { inherit lib; }",
		Microvm:      microvm + "/nixos-modules/host",
		GuestModules: "[ " + generator + "/nixos.nix ]",
	}, true
}

// Root is the directory of this tree.
func Root() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		panic("the tests are built without the paths of their files")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(file))))
}

// Host is what a configuration comes to.
type Host struct {
	// Failed are the messages of assertions.
	Failed, Warnings []string
	// Units are the texts of the units by name, without .service. There are none where
	// something failed.
	Units map[string]string
	// Extra is what was asked for besides.
	Extra json.RawMessage
}

// storePath begins the path of something in the store. It depends on everything that it is
// made of, and says nothing to a reader.
var storePath = regexp.MustCompile(`/nix/store/[0-9a-df-np-sv-z]{32}-`)

// Host evaluates a configuration.nix that has text, in which microvmHost is microvm.nix's
// module, ampouleModules what the flake has, and examples the directory of ours. Extra is a
// Nix expression in which e.host is all of the evaluation; may be empty. In what is returned
// paths are short: configuration.nix, nix/examples/…, STORE-NAME.
func (w World) Host(t testing.TB, text, extra string) (Host, error) {
	t.Helper()
	if extra == "" {
		extra = "null"
	}
	module, expression := w.expression(t, text)
	out, err := Instantiate(t, expression+"in { inherit (e) failed warnings units; extra = "+extra+"; }")
	out = storePath.ReplaceAll(out, []byte("STORE-"))
	names := strings.NewReplacer(module, "configuration.nix", Root()+"/nix/", "nix/", Root()+"/", "", filepath.Dir(module)+"/", "")
	if err != nil {
		return Host{}, fmt.Errorf("%s", names.Replace(err.Error()))
	}
	var h Host
	if err := json.Unmarshal([]byte(names.Replace(string(out))), &h); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return h, nil
}

// expression writes a configuration and begins an expression in which e is the host.
func (w World) expression(t testing.TB, text string) (module, begin string) {
	t.Helper()
	// Not TempDir, whose name has that of the test in it, which need not be a path of Nix's.
	dir, err := os.MkdirTemp("", "nix-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	module = filepath.Join(dir, "configuration.nix")
	if err := os.WriteFile(module, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	arguments := "module = " + module + "; "
	if w.Ampoule != "" {
		arguments += "installed = " + w.Ampoule + "; "
	}
	if w.Lib != "" {
		begin = "lib = " + w.Lib + "; "
		arguments += "inherit lib; packages = " + w.Packages + "; microvm = " + w.Microvm + "; guestModules = " + w.GuestModules + "; "
	}
	return module, "let " + begin + "e = import " + Root() + "/internal/testkit/nixeval/eval.nix { " + arguments + "}; "
}

// Instantiate evaluates an expression, without a store, and returns it as JSON.
func Instantiate(t testing.TB, expression string) ([]byte, error) {
	t.Helper()
	return run(t, "nix-instantiate", "--eval", "--strict", "--json", "--store", "dummy://", "--option", "build-users-group", "", "--expr", expression)
}

// run runs one of Nix's programs, which finds nothing of this machine's Nix.
func run(t testing.TB, words ...string) ([]byte, error) {
	t.Helper()
	need.All(t, need.Nix)
	home := t.TempDir()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+home, "NIX_STATE_DIR="+home+"/state", "NIX_CONF_DIR="+home+"/conf", "NIX_PATH=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}
