package secret

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fileOf is an opened file with a content.
func fileOf(t *testing.T, content string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// Values of all sizes around that from which they have a mapping of their own.
func TestArena(t *testing.T) {
	var a Arena
	sizes := []int{0, 1, 24, 1024, 1024, blockShare - 1, blockShare, blockSize, 3 * blockSize, 1024, blockShare - 1, blockShare - 1, blockShare - 1, 24}
	values, want := make([]*Value, len(sizes)), make([]string, len(sizes))
	for i, size := range sizes {
		want[i] = strings.Repeat(fmt.Sprintf("%x", i), size)
		var err error
		if values[i], err = a.Take(fileOf(t, want[i]), 1<<20); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 && !values[i].Locked() {
			t.Errorf("value %d is not locked", i)
		}
		if flags := vmFlags(t, address(t, values[i])); !strings.Contains(flags, " dd ") || !strings.Contains(flags, " wf ") {
			t.Errorf("value %d is not protected: %s", i, flags)
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s", &a, &a, &a, &a); strings.Trim(got, "[]secrt ") != "" {
		t.Errorf("an arena is printed as %s", got)
	}
	a.Close()
	a.Close()
	for i := range values {
		for j, v := range values {
			if wiped := j < i; !wiped && !v.EqualBytes([]byte(want[j])) {
				t.Errorf("after the wipe of %d values, value %d is another", i, j)
			}
		}
		values[i].Wipe()
		values[i].Wipe()
	}
}

// A wiped value is zeros while its neighbours live, and the mapping goes with
// the last of them, but not while the arena may add to it.
func TestArenaWipes(t *testing.T) {
	for _, closedFirst := range []bool{true, false} {
		var a Arena
		first, err := a.Take(fileOf(t, plain), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		second, err := a.Take(fileOf(t, plain), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		at := address(t, first)
		if address(t, second)-at > 100 {
			t.Fatal("the values do not share a page")
		}
		memory := unsafe.Slice((*byte)(first.r.mem.addr), len(plain))
		first.Wipe()
		if strings.Trim(string(memory), "\x00") != "" {
			t.Error("a wiped value is still in memory")
		}
		if closedFirst {
			a.Close()
		}
		if !second.EqualBytes([]byte(plain)) || !strings.Contains(vmFlags(t, at), " dd ") {
			t.Error("the other value went too")
		}
		second.Wipe()
		if !closedFirst {
			if !strings.Contains(vmFlags(t, at), " dd ") {
				t.Error("the arena's own mapping is gone")
			}
			a.Close()
		}
		if strings.Contains(vmFlags(t, at), " dd ") {
			t.Error("the memory is still there")
		}
	}
}

func TestArenaErrors(t *testing.T) {
	var a Arena
	defer a.Close()
	if _, err := a.Take(fileOf(t, plain), len(plain)-1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte too many: %v", err)
	}
	if _, err := a.Take(fileOf(t, plain), -1); err == nil {
		t.Error("a negative limit is no error")
	}
	if _, err := a.Take(idle{}, 10); err == nil {
		t.Error("a reader that gives nothing is no error")
	}
	// A file that grows after its size was asked.
	f := fileOf(t, plain)
	mem, err := a.room(4)
	if err != nil {
		t.Fatal(err)
	}
	v, err := readInto(mem, f, 1<<20)
	if err != nil || !v.EqualBytes([]byte(plain)) {
		t.Errorf("a file that grew: %v", err)
	}
	v.Wipe()
	// A file that cannot be read any more.
	f = fileOf(t, plain)
	writeOnly, err := os.OpenFile(f.Name(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writeOnly.Close()
	if _, err := a.Take(writeOnly, 1<<20); !errors.Is(err, unix.EBADF) {
		t.Errorf("a file that cannot be read: %v", err)
	}
	if n := a.now.users.Load(); n != 1 {
		t.Errorf("%d users are left after errors", n)
	}
}
