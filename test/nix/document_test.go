package nix

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixeval"
)

// docs/nixos.md shows what the evaluation says and makes.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(nixeval.Root(), "docs", "nixos.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := func(what, want string) {
		t.Helper()
		if !strings.Contains(string(text), "\n```\n"+want+"\n```\n") {
			t.Errorf("docs/nixos.md does not show %s:\n%s", what, want)
		}
	}
	failing, err := nixeval.World{}.Host(t, configuration("(examples + /seed.nix)", `microvm.vms.test-vm.ampoule.credentials.API_KEY.source = "/run/secrets/vars/test-vm-secrets/api-key";`), "")
	if err != nil {
		t.Fatal(err)
	}
	shown("what the seed's host fails with", "error:\nFailed assertions:\n- "+strings.Join(failing.Failed, "\n- "))

	h, err := nixeval.World{}.Host(t, configuration("(examples + /credentials.nix)", `sops.secrets."test-vm/api-key".path = "/run/secrets/test-vm/api-key";`), "")
	if err != nil {
		t.Fatal(err)
	}
	unit, _, _ := strings.Cut(h.Units["microvm@test-vm"], "\nX-RestartIfChanged=")
	shown("the unit", strings.ReplaceAll(unit, "STORE-", "/nix/store/…-"))
}
