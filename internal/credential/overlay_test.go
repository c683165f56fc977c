package credential

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestOverlay: GNU cpio unpacks what was packed.
func TestOverlay(t *testing.T) {
	need.All(t, need.Cpio)
	values := map[string][]byte{
		"empty": nil, "one": {0}, "three": []byte("abc"), "four": []byte("abcd"), "n u l\x01": []byte("a\x00b\n"),
		strings.Repeat("n", 255): bytes.Repeat([]byte{0xff}, 100_001),
	}
	var creds []Credential
	for name, data := range values {
		v, err := secret.FromBytes(bytes.Clone(data))
		if err != nil {
			t.Fatal(err)
		}
		creds = append(creds, Credential{Guest: name, Value: v})
	}
	defer Wipe(creds)
	packed, err := PackOverlay(creds)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Wipe()
	var archive bytes.Buffer
	if _, err := packed.WriteTo(&archive); err != nil {
		t.Fatal(err)
	}
	if archive.Len()%4 != 0 {
		t.Errorf("the tail would start at %d", archive.Len())
	}
	before, after := OverlayTail(9, "/sbin/own")
	tail := slices.Concat(before, []byte("the shim."), after)
	archive.Write(tail)
	if len(tail)%4 != 0 || !bytes.Contains(tail[bytes.Index(tail, []byte(".ampoule/init\x00")):], []byte("TRAILER!!!")) {
		t.Error("the shim is not the last entry")
	}
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-idm", "--quiet", "--no-absolute-filenames")
	cmd.Dir, cmd.Stdin = dir, &archive
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	want := map[string]string{".ampoule/next": "/sbin/own", ".ampoule/init": "the shim."}
	for name, data := range values {
		want[".ampoule/credentials/"+name] = string(data)
	}
	for name, data := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != data {
			t.Errorf("%q has %d bytes, want %d: %v", name, len(got), len(data), err)
		}
	}
	for name, mode := range map[string]os.FileMode{".ampoule": os.ModeDir | 0o700, ".ampoule/credentials": os.ModeDir | 0o700,
		".ampoule/credentials/one": 0o400, ".ampoule/next": 0o400, ".ampoule/init": 0o755} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v: %v", name, info.Mode(), mode, err)
		}
	}
	if before, _ := OverlayTail(9, ""); bytes.Contains(before, []byte("next")) {
		t.Error("a path that nobody named")
	}
}

// TestOverlayOfWiped: a value that is gone is no empty credential.
func TestOverlayOfWiped(t *testing.T) {
	v, err := secret.FromBytes([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	v.Wipe()
	if _, err := PackOverlay([]Credential{{Guest: "a", Value: v}}); err == nil {
		t.Error("no error")
	}
}
