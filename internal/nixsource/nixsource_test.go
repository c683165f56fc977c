package nixsource

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestParse: each case is a source and what is found in it, as PATH FROM-TO VALUE.
func TestParse(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"plain", "{ a.b = 1; c = \"x\"; }", "a.b 1-1 1|c 1-1 \"x\""},
		{"nested", "{\n  microvm = {\n    vcpu = 2;\n    mem = 512;\n  };\n}", "microvm.vcpu 3-3 2|microvm.mem 4-4 512|microvm 2-5 {…"},
		{"functions and lists", "{ pkgs, lib ? 1, ... }@args: {\n  x = { y, ... }: [ ({ z = 1; }) ];\n}", "x.z 2-2 1|x 2-2 {…"},
		{"let", "let a = 1; in { b = let c = 2; in { d = c; }; }", "a 1-1 1|b.c 1-1 2|b.d 1-1 c|b 1-1 let…"},
		{"with and assert", "{ a = with pkgs; [ x ]; b = assert true; 1; c = 2; }", "a 1-1 with…|b 1-1 assert…|c 1-1 2"},
		{"inherit", "{ inherit (x) a b; inherit c; d = 1; }", "d 1-1 1"},
		{"strings", "{ a = \"};{${b \"}\"}\\\"\"; c = ''\n  x = 1; ''' ''${ ''\\n ${ { y = ''z}''; } }\n''; d = 3; }", "a 1-1 \"…|c 1-3 ''…|d 3-3 3"},
		{"comments", "{ # a = 1;\n /* b = 2;\n */ c /* x */ = 3; }", "c 3-3 3"},
		{"quoted names", "{ systemd.services.\"microvm@a.b\".x = 1; \"${n}\".y = 2; ${n}.z = 3; }", "systemd.services.microvm@a.b.x 1-1 1|${…}.y 1-1 2|${…}.z 1-1 3"},
		{"operators", "{ a = b == c || d >= 1 && e != f -> g // { h = 1; } ++ [ ]; }", "a.h 1-1 1|a 1-1 b…"},
		{"broken", "{ a = ; = 1; b c = 2; } ) ] } { d = 1; ", "a 1-1 |c 1-1 2|d 1-1 1"},
		{"no Nix", "\x00\xff\"", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, a := range Parse([]byte(c.text)).Attributes {
				value, rest, more := strings.Cut(a.Value, " ")
				if i := strings.IndexAny(value, "{\n"); i >= 0 {
					value, more = value[:i+1], true
				}
				if strings.HasPrefix(value, "\"") && value != "\"x\"" || strings.HasPrefix(value, "''") {
					value, more = value[:1+strings.Count(value[:2], "'")/2], true
				}
				if more || rest != "" {
					value = strings.TrimSpace(value) + "…"
				}
				got = append(got, fmt.Sprintf("%s %d-%d %s", strings.Join(a.Path, "."), a.From, a.To, value))
			}
			if s := strings.Join(got, "|"); s != c.want {
				t.Errorf("found\n%s, not\n%s", strings.Join(got, "\n"), strings.ReplaceAll(c.want, "|", "\n"))
			}
		})
	}
}

// TestOverride: what the seed of all this looks like.
func TestOverride(t *testing.T) {
	text := "{ inputs, ... }: {\n  microvm.vms = {\n    test-vm = {\n      config = { pkgs, lib, config, ... }: {\n        microvm = {\n          hypervisor = \"cloud-hypervisor\";\n" +
		"          binScripts.microvm-run = lib.mkForce (\n            let microvmCfg = config.microvm; in\n            ''\n              exec ${microvmCfg.x}; y = {\n            ''\n          );\n        };\n      };\n    };\n  };\n}\n"
	var found []string
	for _, a := range Parse([]byte(text)).Attributes {
		if a.Below("vms", "test-vm") && a.Ends("microvm", "binScripts", "microvm-run") {
			found = append(found, fmt.Sprintf("%d-%d", a.From, a.To))
		}
		if a.Ends("microvm", "hypervisor") {
			if v, ok := a.Literal(); v != "cloud-hypervisor" || !ok {
				t.Errorf("%q, %v", v, ok)
			}
		}
	}
	if !slices.Equal(found, []string{"7-12"}) {
		t.Error(found)
	}
}

func TestLiteral(t *testing.T) {
	for value, want := range map[string]string{"true": "true", "lib.mkForce true": "true", "mkForce (\"a b\")": "a b", "512": "512"} {
		a := Attribute{Value: value}
		if got, ok := a.Literal(); got != want || !ok {
			t.Errorf("%s: %q, %v", value, got, ok)
		}
	}
	for _, value := range []string{"", "a b", "\"${x}\"", "{ }", "''x''"} {
		a := Attribute{Value: value}
		if got, ok := a.Literal(); ok {
			t.Errorf("%s: %q", value, got)
		}
	}
}

func TestReferences(t *testing.T) {
	f := Parse([]byte("{ imports = [ ./a.nix ../b /c ];\n x = ./d/e.nix; y = \"./no\"; z = a ./f; }\n# ./g"))
	var got []string
	for _, r := range f.References {
		got = append(got, fmt.Sprintf("%s:%d", r.Text, r.Line))
	}
	if want := []string{"./a.nix:1", "../b:1", "./d/e.nix:2", "./f:2"}; !slices.Equal(got, want) {
		t.Error(got)
	}
}

// TestIndex: git's own index, in each version that it writes.
func TestIndex(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	for _, version := range []string{"2", "3", "4"} {
		dir := t.TempDir()
		git := func(args ...string) {
			t.Helper()
			cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("git %q: %v\n%s", args, err, out)
			}
		}
		git("init", "-q")
		files := []string{"flake.nix", "vms/a.nix", "vms/a/default.nix", "vms/with-a-long-name-that-shares-its-beginning.nix", "x"}
		for _, f := range append(slices.Clone(files), "vms/untracked.nix", "intended.nix") {
			p := filepath.Join(dir, f)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(f), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		git(append([]string{"add"}, files...)...)
		git("add", "--intent-to-add", "intended.nix") // needs the flags of version 3
		git("update-index", "--index-version", version)
		data, err := os.ReadFile(filepath.Join(dir, ".git/index"))
		if err != nil {
			t.Fatal(err)
		}
		index, err := ParseIndex(data)
		if err != nil {
			t.Fatalf("version %s: %v", version, err)
		}
		if got := index.Files(""); !slices.Equal(got, append([]string{"flake.nix", "intended.nix"}, files[1:]...)) {
			t.Errorf("version %s: %q", version, got)
		}
		for p, want := range map[string]bool{"flake.nix": true, "vms": true, "vms/a": true, "./vms/a.nix": true, "vms/untracked.nix": false, "vm": false, ".": true} {
			if index.Tracks(p) != want {
				t.Errorf("version %s: %s", version, p)
			}
		}
		for i := 0; i < len(data); i += 7 {
			_, _ = ParseIndex(data[:i])
		}
	}
	for _, bad := range []string{"", "DIRC", "DIRC\x00\x00\x00\x09" + strings.Repeat("\x00", 40), "DIRC\x00\x00\x00\x02\x00\x00\x00\x09" + strings.Repeat("\x00", 40)} {
		if _, err := ParseIndex([]byte(bad)); err == nil {
			t.Errorf("%q is an index", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("{ a.b = ''${x}''; c = \"${\"y\"}\"; d = [ ./e ]; }"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines := 1 + strings.Count(string(text), "\n")
		for _, a := range Parse(text).Attributes {
			if len(a.Path) == 0 || a.From < 1 || a.To < a.From || a.To > lines {
				t.Errorf("%+v", a)
			}
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte("DIRC\x00\x00\x00\x02\x00\x00\x00\x00" + strings.Repeat("\x00", 20)))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if index, err := ParseIndex(data); err == nil {
			index.Tracks("a")
		}
	})
}
