package nix

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nixeval"
	"github.com/ampoule-vm/ampoule/internal/version"
)

// The package is made of the files that it names, has the version that the program says,
// and the hash of the modules that go.mod asks for.
func TestPackage(t *testing.T) {
	root := nixeval.Root()
	out, err := nixeval.Instantiate(t, `
		let lib = import `+root+`/internal/testkit/nixeval/standin/lib.nix // {
				fileset = { unions = map toString; toSource = s: s.fileset; };
				licenses.asl20 = "asl20"; platforms.linux = [ ]; makeBinPath = toString;
			};
			package = runtimeInputs: import `+root+`/nix/package.nix { inherit lib runtimeInputs; buildGoModule = p: p; makeBinaryWrapper = "wrapper"; };
			plain = package [ ]; wrapped = package [ "/qemu" ];
		in { inherit (plain) version vendorHash src nativeBuildInputs; wrapped = wrapped.postFixup; inputs = wrapped.nativeBuildInputs; }`)
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Version, VendorHash, Wrapped   string
		Src, NativeBuildInputs, Inputs []string
	}
	if err := json.Unmarshal(out, &p); err != nil {
		t.Fatal(err)
	}
	if p.Version != version.Version {
		t.Errorf("version %q, and the program says %q", p.Version, version.Version)
	}
	if len(p.NativeBuildInputs) != 0 || len(p.Inputs) != 1 || !strings.Contains(p.Wrapped, "/qemu") {
		t.Errorf("without runtimeInputs %v, with them %v and %q", p.NativeBuildInputs, p.Inputs, p.Wrapped)
	}

	source := t.TempDir()
	for _, path := range p.Src {
		to := filepath.Join(source, strings.TrimPrefix(path, root))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-r", path, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if got := vendorHash(t, source); got != p.VendorHash {
		t.Errorf("nix/package.nix has vendorHash = %q, and go mod vendor makes %q: write the second", p.VendorHash, got)
	}
}

// vendorHash is the hash of what `go mod vendor` makes, as buildGoModule of nixpkgs has it
// made: that of the directory in the form in which Nix has directories.
func vendorHash(t *testing.T, source string) string {
	t.Helper()
	need.All(t, need.Nix)
	vendor := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.Command("go", "mod", "vendor", "-o", vendor)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v\n%s", err, out)
	}
	cmd = exec.Command("nix-hash", "--type", "sha256", vendor)
	cmd.Env = append(os.Environ(), "NIX_STATE_DIR="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := hex.DecodeString(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return "sha256-" + base64.StdEncoding.EncodeToString(sum)
}

// What users of the flake name is there.
func TestFlake(t *testing.T) {
	out, err := nixeval.Instantiate(t, `
		let flake = import `+nixeval.Root()+`/flake.nix;
			outputs = flake.outputs { nixpkgs = {
				lib.genAttrs = names: f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) names);
				legacyPackages.x86_64-linux.callPackage = file: _: toString file;
				legacyPackages.aarch64-linux.callPackage = file: _: toString file;
			}; };
		in {
			inputs = builtins.attrNames flake.inputs;
			packages = builtins.mapAttrs (_: p: map baseNameOf [ p.default p.ampoule ]) outputs.packages;
			modules = builtins.mapAttrs (_: baseNameOf) outputs.nixosModules;
			overlay = baseNameOf (outputs.overlays.default { callPackage = file: _: toString file; } { }).ampoule;
		}`)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"inputs":["nixpkgs"],"modules":{"ampoule":"service.nix","default":"service.nix","host":"host.nix","microvm":"guest.nix"},"overlay":"package.nix","packages":{"aarch64-linux":["package.nix","package.nix"],"x86_64-linux":["package.nix","package.nix"]}}`
	if got := strings.TrimSpace(string(out)); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
