package initrd_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/initrd"
)

// guests are the initial RAM disks that the VM tests boot, where they were built
// already.
func guests(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob("../../.cache/guest/*/initrd")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Skip("no guest was built yet")
	}
	return found
}

func inspectFile(t testing.TB, path string, o initrd.Options) (*initrd.Report, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return initrd.Inspect(f, info.Size(), o)
}

// TestGuests: whole systems with systemd as their init, and what dracut and
// initramfs-tools make.
func TestGuests(t *testing.T) {
	for _, path := range guests(t) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		r, err := inspectFile(t, path, initrd.Options{})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		runtime.ReadMemStats(&after)
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %v, %d MiB allocated: %s", path, time.Since(start), (after.TotalAlloc-before.TotalAlloc)>>20, text)
		want := initrd.Init{Path: "/init", Resolved: "/usr/lib/systemd/systemd", Kind: initrd.Systemd, Executable: true}
		maker := madeBy(t, filepath.Join(filepath.Dir(path), "manifest"))
		if maker == "initramfs-tools" {
			want = initrd.Init{Path: "/init", Resolved: "/init", Kind: initrd.Script, Executable: true, Interpreter: "/bin/sh"}
		}
		if r.Init != want || r.Maker != maker || r.Release != (maker == "dracut") || r.Pages < 10<<20 || r.Pages < r.Segments[0].Unpacked ||
			r.Ampoule || r.Run != "" || len(r.Flaws) != 0 || len(r.Segments) != 1 {
			t.Errorf("%s: %s", path, text)
		}
	}
}

// madeBy returns the program that a guest's manifest names behind "by".
func madeBy(t testing.TB, manifest string) string {
	t.Helper()
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 3 && words[0] == "initrd-bytes" && words[2] == "by" {
			return words[3]
		}
	}
	return ""
}

func BenchmarkGuest(b *testing.B) {
	path := guests(b)[0]
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := inspectFile(b, path, initrd.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
