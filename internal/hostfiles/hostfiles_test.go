package hostfiles

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree writes files below a new root; a text that begins with "-> " makes a link.
func tree(t *testing.T, files map[string]string) Root {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Root(root)
}

func TestSystemdVersion(t *testing.T) {
	for file, want := range map[string]int{
		"usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so":         252, // Debian
		"usr/lib64/systemd/libsystemd-shared-256.4-1.fc41.so":               256, // Fedora
		"usr/lib/systemd/libsystemd-shared-257.6-1.so":                      257, // Arch
		"run/current-system/systemd/lib/systemd/libsystemd-shared-258.so":   258, // NixOS
		"usr/lib/aarch64-linux-gnu/systemd/libsystemd-shared-255.so":        255,
		"usr/lib/systemd/libsystemd-core-252.so":                            0,
		"usr/lib/systemd/libsystemd-shared-.so":                             0,
		"usr/lib/systemd/libsystemd-shared-99999999999999999999999999.so":   0,
		"usr/lib/x86_64-linux-gnu/libsystemd-shared-252.so":                 0,
		"usr/lib/x86_64-linux-gnu/systemd/system/libsystemd-shared-252.so/": 0,
	} {
		if got := tree(t, map[string]string{strings.TrimSuffix(file, "/"): ""}).SystemdVersion(); got != want {
			t.Errorf("%s: %d, want %d", file, got, want)
		}
	}
}

func TestHasGroup(t *testing.T) {
	root := tree(t, map[string]string{"etc/group": "root:x:0:\nkvmx:x:1:\nkvm:x:2:a,b\n"})
	if !root.HasGroup("kvm") || root.HasGroup("kv") || tree(t, nil).HasGroup("kvm") {
		t.Error("the group is not found, or another is")
	}
}

func TestProviders(t *testing.T) {
	root := tree(t, map[string]string{
		"etc/systemd/system/microvm@web.service":                        "x",
		"usr/lib/systemd/system/microvm@web.service":                    "x",
		"usr/lib/systemd/system/microvm@lib.service":                    "x",
		"etc/systemd/system/microvm@off.service":                        "-> /dev/null",
		"etc/systemd/system/microvm@.service":                           "-> /nix/store/x/microvm@.service",
		"etc/systemd/system/microvm@nix.service.d/overrides.conf":       "x",
		"etc/systemd/system/microvm@mine.service.d/override.conf":       "x",
		"etc/systemd/system/microvms.target.wants/microvm@free.service": "-> /x",
	})
	p := root.Providers()
	for unit, want := range map[string]string{
		"microvm@web.service":  "/etc/systemd/system/microvm@web.service",
		"microvm@lib.service":  "/usr/lib/systemd/system/microvm@lib.service",
		"microvm@off.service":  "",
		"microvm@nix.service":  "/etc/systemd/system/microvm@.service",
		"microvm@mine.service": "",
		"microvm@free.service": "",
	} {
		if got := p.Of(unit); got != want {
			t.Errorf("%s is provided by %q, want %q", unit, got, want)
		}
	}
	// Without the template the drop-ins of a VM provide nothing.
	if got := tree(t, map[string]string{"etc/systemd/system/microvm@nix.service.d/overrides.conf": "x"}).Providers().Of("microvm@nix.service"); got != "" {
		t.Errorf("provided by %q", got)
	}
}

func TestClearing(t *testing.T) {
	root := tree(t, map[string]string{
		"etc/systemd/system/microvm@web.service.d/10.conf":   "[Service]\n# x\nSetCredential=\nSetCredential=a:b\n",
		"etc/systemd/system/microvm@.service.d/20.conf":      "[Service]\n SetCredentialEncrypted = \n",
		"run/systemd/system/service.d/30.conf":               "[Service]\nSetCredential=x:\nEnvironment=\n",
		"etc/systemd/system/microvm@other.service.d/10.conf": "[Service]\nSetCredential=\n",
		"etc/systemd/system/microvm@web.service.d/10.txt":    "SetCredential=\n",
	})
	got := root.Clearing("microvm@web.service", "SetCredential", "SetCredentialEncrypted")
	want := []string{"/etc/systemd/system/microvm@web.service.d/10.conf:3", "/etc/systemd/system/microvm@.service.d/20.conf:2"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
