package scan

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// found lists the names that a scanner finds in a text.
func found(t *testing.T, values map[string][]byte, text []byte) []string {
	t.Helper()
	s := newScanner(values)
	if err := s.read(Leak{Class: Memory}, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return s.names()
}

func (s *scanner) names() []string {
	var names []string
	for _, l := range s.Leaks {
		names = append(names, l.Credential)
	}
	slices.Sort(names)
	return names
}

// TestForms: every form of values of many lengths is found at every distance
// from the start, whether the value stands alone or is part of something
// longer.
func TestForms(t *testing.T) {
	for _, size := range []int{MinValue, 13, 16, 31, 32, 33, 100, 5000} {
		value := random(size)
		values := map[string][]byte{"v": value}
		for before := range 35 {
			text := append(append(random(before), value...), random(20)...)
			forms := map[string][]byte{
				"plain": text, "hex": []byte(hex.EncodeToString(text)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(text))),
				"base64": []byte(base64.StdEncoding.EncodeToString(text)), "base64url": []byte(base64.RawURLEncoding.EncodeToString(text)),
				"base64 alone": append(random(before), base64.StdEncoding.EncodeToString(value)...),
			}
			for name, form := range forms {
				if got := found(t, values, form); !slices.Equal(got, []string{"v"}) {
					t.Errorf("%d bytes, %d before, %s: found %q", size, before, name, got)
				}
			}
		}
	}
}

// TestPartsOfLongValues: the beginning, the middle or the end alone betrays a
// long value.
func TestPartsOfLongValues(t *testing.T) {
	value := random(10001)
	for name, part := range map[string][]byte{"beginning": value[:32], "middle": value[4900:5100], "end": value[10001-32:]} {
		if got := found(t, map[string][]byte{"v": value}, part); len(got) != 1 {
			t.Errorf("%s: found %q", name, got)
		}
	}
}

// TestChunks: a value that lies across the border of two reads is found, also
// where the reader gives a byte at a time.
func TestChunks(t *testing.T) {
	long, short := random(300), random(MinValue)
	values := map[string][]byte{"long": long, "short": short}
	for _, at := range []int{chunk - 1, chunk - 7, chunk - 16, chunk - 31, chunk, 2*chunk - 5} {
		for name, value := range values {
			text := append(append(make([]byte, at), value...), make([]byte, 100)...)
			if got := found(t, values, text); !slices.Equal(got, []string{name}) {
				t.Errorf("%s at %d: found %q", name, at, got)
			}
		}
	}
	s := newScanner(values)
	text := append(append(random(1000), short...), 0)
	if err := s.read(Leak{}, oneByOne{bytes.NewReader(text)}); err != nil || len(s.Leaks) != 1 || s.Bytes != int64(len(text)) {
		t.Errorf("one by one: %v, %d leaks, %d bytes", err, len(s.Leaks), s.Bytes)
	}
}

type oneByOne struct{ r *bytes.Reader }

func (o oneByOne) Read(b []byte) (int, error) { return o.r.Read(b[:1]) }

// TestNotFound: other values, parts that are too short, and values that cannot
// be told from chance.
func TestNotFound(t *testing.T) {
	value := random(64)
	if got := found(t, map[string][]byte{"v": value}, append(random(1<<20), value[:31]...)); len(got) != 0 {
		t.Errorf("found %q", got)
	}
	values := map[string][]byte{
		"empty": {}, "short": []byte("elevenbytes\n\n"), "same": bytes.Repeat([]byte("ab"), 500), "fits": []byte("twelve bytes\n"),
	}
	s := newScanner(values)
	if want := []string{"empty", "same", "short"}; !reflect.DeepEqual(s.Unsearched, want) {
		t.Errorf("not looked for: %q, want %q", s.Unsearched, want)
	}
	if got := found(t, values, []byte("elevenbytes ababababababababab twelve bytes")); !slices.Equal(got, []string{"fits"}) {
		t.Errorf("found %q", got)
	}
	if got := found(t, nil, []byte("anything")); len(got) != 0 {
		t.Errorf("nothing was looked for and %q found", got)
	}
}

// TestMany: with as many credentials as a VM may have, each is told from the
// others.
func TestMany(t *testing.T) {
	values := map[string][]byte{}
	var text []byte
	for i := range 300 {
		value := random(40)
		values[fmt.Sprintf("c%03d", i)] = value
		text = append(append(text, value...), '\n')
	}
	if got := found(t, values, text); len(got) != 300 || got[0] != "c000" || got[299] != "c299" {
		t.Errorf("found %d", len(got))
	}
}

// plant writes a file below a directory.
func plant(t *testing.T, mode uint32, content []byte, path ...string) string {
	t.Helper()
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestPlanted: what lies in a file system is found with its class, mode and
// path, and the stores are let be unless everybody may read them.
func TestPlanted(t *testing.T) {
	root := t.TempDir()
	value := random(50000)
	leaking := append(random(70000), value...)
	plant(t, 0o644, leaking, root, "tmp", "a b")
	plant(t, 0o4755, value, root, "usr/bin/tool")
	plant(t, 0o640, value, root, "run/log/journal/id/system.journal")
	plant(t, 0o400, value, root, "run/credentials/@system/v")
	plant(t, 0o440, value, root, "run/credentials/x.service/v")
	plant(t, 0o444, value, root, "run/credentials/y.service/v")
	plant(t, 0o644, []byte("nothing here"), root, "etc/motd")
	if err := os.Symlink("tmp/a b", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	leak := func(class Class, mode, path string) Leak {
		return Leak{class, mode, root + path, "v"}
	}
	memory := []Leak{
		leak(Journal, "0640", "/run/log/journal/id/system.journal"),
		leak(Memory, "0644", "/tmp/a b"),
		leak(Memory, "4755", "/usr/bin/tool"),
		leak(Store, "0444", "/run/credentials/y.service/v"),
	}
	for fstype, want := range map[string][]Leak{
		"tmpfs": memory,
		"ext4": {
			leak(Disk, "0644", "/tmp/a b"),
			leak(Journal, "0640", "/run/log/journal/id/system.journal"),
			leak(Store, "0444", "/run/credentials/y.service/v"),
		},
	} {
		t.Run(fstype, func(t *testing.T) {
			s := newScanner(map[string][]byte{"v": value})
			s.mounted(root, mount{point: "/", fstype: fstype})
			slices.SortFunc(s.Leaks, func(a, b Leak) int {
				return strings.Compare(string(a.Class)+a.Path, string(b.Class)+b.Path)
			})
			for i := range s.Leaks {
				s.Leaks[i].Path = filepath.Clean(s.Leaks[i].Path)
			}
			if !reflect.DeepEqual(s.Leaks, want) {
				t.Errorf("got  %+v\nwant %+v", s.Leaks, want)
			}
			if len(s.Unread) != 0 || s.Files < len(want) || s.Bytes < int64(len(value)*len(want)) {
				t.Errorf("%d files, %d bytes, unread %q", s.Files, s.Bytes, s.Unread)
			}
		})
	}
}

// TestMappedFileBecomesShorter: that is told, and ends nothing.
func TestMappedFileBecomesShorter(t *testing.T) {
	path := plant(t, 0o600, random(100), t.TempDir(), "f")
	f, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	s := newScanner(map[string][]byte{"v": random(20)})
	if err := s.mapped(Leak{}, f, 1<<20); err == nil || !strings.Contains(err.Error(), "became shorter") {
		t.Errorf("got %v", err)
	}
}

// TestBeginning: what lies behind the limit is not read.
func TestBeginning(t *testing.T) {
	value := random(40)
	path := plant(t, 0o600, append(random(fwCfgBytes-40), append(value, value...)...), t.TempDir(), "f")
	for limit, want := range map[int64]int{fwCfgBytes: 1, fwCfgBytes - 40: 0, whole: 1} {
		s := newScanner(map[string][]byte{"v": value})
		s.beginning(Firmware, path, anyDevice, limit)
		if len(s.Leaks) != want || s.Bytes != min(limit, fwCfgBytes+40) || len(s.Unread) != 0 {
			t.Errorf("limit %d: %d leaks in %d bytes, unread %q", limit, len(s.Leaks), s.Bytes, s.Unread)
		}
	}
}

// TestUnread: what cannot be read is told; what is gone is not.
func TestUnread(t *testing.T) {
	dir := t.TempDir()
	s := newScanner(nil)
	s.file(Memory, dir, anyDevice)
	s.file(Memory, filepath.Join(dir, "gone"), anyDevice)
	if len(s.Unread) != 1 || !strings.Contains(s.Unread[0], "is a directory") {
		t.Errorf("unread %q", s.Unread)
	}
}

// TestMachine plants one value in each kind of place that this machine has.
func TestMachine(t *testing.T) {
	need.All(t, need.Root)
	value := []byte(hex.EncodeToString(random(40)))
	dir, err := os.MkdirTemp("/dev/shm", "ampoule-scan-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var stat syscall.Statfs_t
	const tmpfs = 0x01021994
	if err := syscall.Statfs(dir, &stat); err != nil || stat.Type != tmpfs {
		t.Skipf("/dev/shm is no tmpfs: %v, type %#x", err, stat.Type)
	}
	file := plant(t, 0o600, value, dir, "planted")
	child := environmentHolder(t, value)

	// The disk of a developer's machine is not what this is for.
	s := newScanner(map[string][]byte{"v": value})
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range parseMounts(string(text)) {
		if m.point == "/dev/shm" {
			s.mounted("", m)
		}
	}
	s.processes()
	for _, want := range []Leak{
		{Memory, "0600", file, "v"},
		{Process, "0400", fmt.Sprintf("/proc/%d/environ", child), "v"},
		{Process, "0444", fmt.Sprintf("/proc/%d/cmdline", child), "v"},
	} {
		if !slices.Contains(s.Leaks, want) {
			t.Errorf("not found: %+v in %+v", want, s.Leaks)
		}
	}
}

// environmentHolder starts a process that has the value in its environment and
// in an argument, and returns its number.
func environmentHolder(t *testing.T, value []byte) int {
	t.Helper()
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "read line; exit", string(value)}, &os.ProcAttr{
		Files: []*os.File{silent(t)}, Env: []string{"SECRET=" + string(value)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Kill()
		_, _ = p.Wait()
	})
	return p.Pid
}

// silent is the reading end of a pipe into which nobody writes.
func silent(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r
}

func TestParseMounts(t *testing.T) {
	const text = `21 1 0:2 / / rw - rootfs rootfs rw,size=1k
30 21 0:26 / /run rw,nosuid shared:5 master:1 - tmpfs tmpfs rw,mode=755
31 30 8:1 /sub\040dir /mnt\134x rw - ext4 /dev/sda1 rw
nonsense
32 30 - x
`
	want := []mount{{"0:2", "/", "/", "rootfs"}, {"0:26", "/", "/run", "tmpfs"}, {"8:1", "/sub dir", `/mnt\x`, "ext4"}}
	if got := parseMounts(text); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestEscape(t *testing.T) {
	for path, want := range map[string]string{
		"/plain/@system": "/plain/@system", "/a b\n": `/a\040b\012`, `/x\040`: `/x\134040`, "/\xffé": `/\377\303\251`, "": "",
	} {
		if got := Escape(path); got != want || Unescape(got) != path {
			t.Errorf("%q becomes %q and back %q", path, got, Unescape(got))
		}
	}
	for _, text := range []string{`\`, `\0`, `\09`, `\999`, `\400`, `a\04`} {
		if got := Unescape(text); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}
