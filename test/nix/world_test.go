// Package nix evaluates the Nix modules with a real Nix, builds what they make, and holds
// both against what is promised. Where AMPOULE_TEST_NIXPKGS_LIB and AMPOULE_TEST_MICROVM_NIX
// name directories of nixpkgs' lib and of microvm.nix, the same cases are evaluated with
// these, and otherwise with stand-ins alone.
package nix

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixeval"
)

func TestMain(m *testing.M) {
	code := m.Run()
	nixeval.Remove()
	os.Exit(code)
}

// worlds are the stand-ins, and what is real where the environment has it.
func worlds() map[string]nixeval.World {
	all := map[string]nixeval.World{"stand-in": {}}
	if real, ok := nixeval.Real(); ok {
		all["microvm.nix"] = real
	}
	return all
}

// configuration is a host with microvm.nix's module and Ampoule's, and with lines of a test,
// the first of which is line 5.
func configuration(imports, lines string) string {
	return `{ config, lib, pkgs, microvmHost, ampouleModules, examples, ... }:
{
  imports = [ microvmHost ampouleModules.nixosModules.host ` + imports + ` ];

` + lines + "\n}\n"
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
