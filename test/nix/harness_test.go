// Package nix evaluates the Nix modules with a real Nix. By default NixOS, nixpkgs' lib and
// microvm.nix are stand-ins of testdata/standin; where AMPOULE_TEST_NIXPKGS_LIB and
// AMPOULE_TEST_MICROVM_NIX name directories of the real ones, the same cases are evaluated
// with them.
package nix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// world is what the modules are evaluated with.
type world struct {
	// lib and microvm are Nix expressions, packages an expression in which lib is known.
	// Empty: the stand-ins.
	lib, packages, microvm, guestModules string
	// ampoule is a directory in which Ampoule is installed. Empty: nothing is.
	ampoule string
}

// worlds are the stand-ins, and what is real where the environment has it.
func worlds(t *testing.T) map[string]world {
	all := map[string]world{"stand-in": {}}
	lib, microvm := os.Getenv("AMPOULE_TEST_NIXPKGS_LIB"), os.Getenv("AMPOULE_TEST_MICROVM_NIX")
	if lib == "" || microvm == "" {
		return all
	}
	generator, err := filepath.Abs("../../internal/microvmnix/testdata/gen")
	if err != nil {
		t.Fatal(err)
	}
	all["microvm.nix"] = world{
		lib:          "import " + lib,
		packages:     "import " + generator + "/pkgs.nix { inherit lib; }",
		microvm:      microvm + "/nixos-modules/host",
		guestModules: "[ " + generator + "/nixos.nix ]",
	}
	return all
}

var storePath = regexp.MustCompile(`/nix/store/[0-9a-df-np-sv-z]{32}-`)

// result is what a host comes to.
type result struct {
	Failed   []string
	Warnings []string
	// Units are the texts of the units by name, without .service.
	Units map[string]string
	// Extra is what the test asked for besides.
	Extra json.RawMessage
}

// host evaluates a configuration.nix that has text. In messages its path is
// "configuration.nix", that of the examples "nix/examples". extra is an expression in which
// e is what testdata/eval.nix returns.
func (w world) host(t *testing.T, text, extra string) (result, error) {
	t.Helper()
	// Not TempDir, whose name has that of the test in it, which need not be a path of Nix's.
	dir, err := os.MkdirTemp("", "nix-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	module := filepath.Join(dir, "configuration.nix")
	if err := os.WriteFile(module, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if extra == "" {
		extra = "null"
	}
	out, err := instantiate(t, w.expression(module)+"; in { inherit (e) failed warnings units; extra = "+extra+"; }", "--eval", "--strict", "--json")
	// The path of what a text is copied to depends on the text alone, and says nothing.
	out = storePath.ReplaceAll(out, []byte("STORE-"))
	names := strings.NewReplacer(module, "configuration.nix", root+"/nix/", "nix/", root+"/test/nix/", "", dir+"/", "")
	if err != nil {
		return result{}, fmt.Errorf("%s", names.Replace(err.Error()))
	}
	var r result
	if err := json.Unmarshal([]byte(names.Replace(string(out))), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return r, nil
}

// expression begins an expression in which e is a host with the module.
func (w world) expression(module string) string {
	eval, err := filepath.Abs("testdata/eval.nix")
	if err != nil {
		panic(err)
	}
	arguments := "module = " + module + "; "
	if w.ampoule != "" {
		arguments += "installed = " + w.ampoule + "; "
	}
	if w.lib != "" {
		arguments += "inherit lib; packages = " + w.packages + "; microvm = " + w.microvm + "; guestModules = " + w.guestModules + "; "
		return "let lib = " + w.lib + "; e = import " + eval + " { " + arguments + "}"
	}
	return "let e = import " + eval + " { " + arguments + "}"
}

// instantiate runs nix-instantiate on an expression, without a store of the host's.
func instantiate(t *testing.T, expression string, options ...string) ([]byte, error) {
	t.Helper()
	need.All(t, need.Nix)
	home := t.TempDir()
	cmd := exec.Command("nix-instantiate", append(options, "--store", "dummy://", "--option", "build-users-group", "", "--expr", expression)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "NIX_STATE_DIR="+home+"/state", "NIX_CONF_DIR="+home+"/conf", "NIX_PATH=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}
