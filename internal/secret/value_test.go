package secret

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unsafe"
)

// content copies the bytes of a value, as only a test may.
func content(t testing.TB, v *Value) []byte {
	t.Helper()
	var got []byte
	if err := v.Use(func(b []byte) error { got = bytes.Clone(b); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func address(t testing.TB, v *Value) uintptr {
	t.Helper()
	var at uintptr
	if err := v.Use(func(b []byte) error { at = addressOf(b); return nil }); err != nil {
		t.Fatal(err)
	}
	return at
}

// vmFlags returns the flags of the mapping that an address lies in, "" where
// nothing is mapped.
func vmFlags(t testing.TB, at uintptr) string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	within := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			within = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && within {
			return flags + " "
		}
	}
	return ""
}

func TestReadFromAnyReader(t *testing.T) {
	for _, size := range []int{0, 1, 15, 4095, 4096, 4097, 70000, 1 << 20} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i*7 + i>>8)
		}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		readers := map[string]io.Reader{
			"plain": bytes.NewReader(data), "half": iotest.HalfReader(bytes.NewReader(data)),
			"data and end at once": iotest.DataErrReader(bytes.NewReader(data)), "file": f,
		}
		if size < 70000 {
			readers["byte by byte"] = iotest.OneByteReader(bytes.NewReader(data))
		}
		for kind, r := range readers {
			v, err := ReadFrom(r, 1<<20)
			if err != nil {
				t.Errorf("%d bytes, %s: %v", size, kind, err)
				continue
			}
			if got := content(t, v); !bytes.Equal(got, data) || v.Len() != size {
				t.Errorf("%d bytes, %s: the content is another", size, kind)
			}
			v.Wipe()
		}
	}
}

func TestReadFromLimit(t *testing.T) {
	for _, limit := range []int{0, 1, 100, 4096, 5000} {
		for over, wantErr := range map[int]bool{-1: false, 0: false, 1: true, 9000: true} {
			data := strings.Repeat("secret!", 3000)[:max(0, limit+over)]
			v, err := ReadFrom(strings.NewReader(data), limit)
			if wantErr {
				if !errors.Is(err, ErrTooLarge) || v != nil || strings.Contains(err.Error(), "secret!") {
					t.Errorf("limit %d, %d bytes: %v", limit, len(data), err)
				}
				continue
			}
			if err != nil || v.Len() != len(data) {
				t.Errorf("limit %d, %d bytes: %v", limit, len(data), err)
			}
		}
	}
	for _, limit := range []int{-1, int(^uint(0) >> 1)} {
		if _, err := ReadFrom(strings.NewReader("x"), limit); err == nil {
			t.Errorf("limit %d was taken", limit)
		}
	}
}

func TestReadFromErrors(t *testing.T) {
	boom := errors.New("boom")
	v, err := ReadFrom(io.MultiReader(strings.NewReader("half of it"), iotest.ErrReader(boom)), 100)
	if v != nil || !errors.Is(err, boom) || strings.Contains(err.Error(), "half") {
		t.Errorf("%v, %v", v, err)
	}
	if _, err := ReadFrom(idle{}, 100); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that gives nothing: %v", err)
	}
}

// idle never gives anything.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestMemoryIsProtected(t *testing.T) {
	v := value(t, plain)
	flags := vmFlags(t, address(t, v))
	for flag, what := range map[string]string{"dd": "left out of core dumps", "wf": "wiped on fork"} {
		if !strings.Contains(flags, " "+flag+" ") {
			t.Errorf("the memory is not %s: %s", what, flags)
		}
	}
	if locked := strings.Contains(flags, " lo "); locked != v.Locked() {
		t.Errorf("Locked says %v, the kernel %s", v.Locked(), flags)
	}
	if os.Geteuid() == 0 && !v.Locked() {
		t.Error("root's secret is not locked")
	}
	var heap []byte
	runtime.GC()
	heap = make([]byte, 1)
	if strings.Contains(vmFlags(t, uintptr(unsafe.Pointer(&heap[0]))), " dd ") {
		t.Error("the check cannot tell the heap from a secret")
	}
	large, err := FromBytes(make([]byte, 100_000))
	if err != nil {
		t.Fatal(err)
	}
	defer large.Wipe()
	if flags := vmFlags(t, address(t, large)+99_999); !strings.Contains(flags, " dd ") {
		t.Errorf("the end of a large secret is not protected: %s", flags)
	}
}

func TestWipe(t *testing.T) {
	v, err := FromBytes([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	dup := *v
	at := address(t, v)
	dup.Wipe()
	v.Wipe()
	dup.Wipe()
	if flags := vmFlags(t, at); strings.Contains(flags, " dd ") {
		t.Error("the memory is still there")
	}
	if v.Len() != 0 || dup.Len() != 0 {
		t.Error("a wiped value has a length")
	}
	if err := v.Use(func([]byte) error { t.Error("a wiped value was used"); return nil }); !errors.Is(err, ErrWiped) {
		t.Errorf("use after wipe: %v", err)
	}
	if _, err := dup.WriteTo(io.Discard); !errors.Is(err, ErrWiped) {
		t.Errorf("write after wipe: %v", err)
	}
	if v.Equal(&dup) || v.Equal(value(t, "")) || v.EqualBytes(nil) {
		t.Error("a wiped value equals something")
	}
	b := new(Builder)
	b.AppendValue(v)
	if _, err := b.Value(); !errors.Is(err, ErrWiped) {
		t.Errorf("building with a wiped value: %v", err)
	}
	if _, err := NewMemfd("test", v); !errors.Is(err, ErrWiped) {
		t.Errorf("memory file of a wiped value: %v", err)
	}
}

// The zero value is an empty secret, not a crash.
func TestZeroValue(t *testing.T) {
	var v Value
	v.Wipe()
	if v.Len() != 0 || !v.Locked() || !v.EqualBytes(nil) || !v.Equal(value(t, "")) || v.Equal(value(t, "x")) {
		t.Error("the zero value is not empty")
	}
	if n, err := v.WriteTo(io.Discard); n != 0 || err != nil {
		t.Errorf("writing it: %d, %v", n, err)
	}
}

func TestEqual(t *testing.T) {
	a, b, c, d := value(t, plain), value(t, plain), value(t, plain[1:]), value(t, strings.ToUpper(plain))
	if !a.Equal(b) || !a.Equal(a) || !a.EqualBytes([]byte(plain)) {
		t.Error("equal values are not equal")
	}
	for _, other := range []*Value{c, d, value(t, "")} {
		if a.Equal(other) || other.Equal(a) {
			t.Error("other values are equal")
		}
	}
}

// Memory that nobody wiped is given back once nobody can reach it.
func TestForgottenValuesAreWiped(t *testing.T) {
	at := func() uintptr {
		v, err := FromBytes(make([]byte, 3<<20)) // larger than what is mapped soon after
		if err != nil {
			t.Fatal(err)
		}
		return address(t, v)
	}()
	for range 200 {
		runtime.GC()
		if !strings.Contains(vmFlags(t, at), " dd ") {
			return
		}
	}
	t.Error("the memory of a forgotten value is still mapped")
}

// Values are used and wiped from several goroutines.
func TestConcurrentUse(t *testing.T) {
	for range 50 {
		v, err := FromBytes([]byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if i == 5 {
					v.Wipe()
					return
				}
				err := v.Use(func(b []byte) error {
					if string(b) != plain {
						return errors.New("torn")
					}
					return nil
				})
				if err != nil && !errors.Is(err, ErrWiped) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

func TestBuilder(t *testing.T) {
	long := strings.Repeat("x\x00y\xff", 5000)
	var b Builder
	var want bytes.Buffer
	for i, part := range []string{"", "a", plain, long, "ab", "abc", long} {
		v := value(t, part)
		b.AppendString(part)
		b.Append([]byte(part)...)
		b.AppendValue(v)
		b.AppendBase64(v)
		b.Append(byte(i), 0)
		want.WriteString(part + part + part + base64.StdEncoding.EncodeToString([]byte(part)))
		want.Write([]byte{byte(i), 0})
		if b.Len() != want.Len() {
			t.Fatalf("after part %d: %d bytes, want %d", i, b.Len(), want.Len())
		}
	}
	v, err := b.Value()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Wipe()
	if !bytes.Equal(content(t, v), want.Bytes()) {
		t.Error("the builder built something else")
	}
	if flags := vmFlags(t, address(t, v)); !strings.Contains(flags, " dd ") {
		t.Errorf("what was built is not protected: %s", flags)
	}
	empty, err := b.Value()
	if err != nil || empty.Len() != 0 {
		t.Errorf("the builder was not left empty: %v", err)
	}
	b.AppendString("more")
	b.Wipe()
	if b.Len() != 0 {
		t.Error("a wiped builder has a length")
	}
}

// A size that is known is room enough: nothing moves.
func TestBuilderDoesNotMove(t *testing.T) {
	b := NewBuilder(3 * 4096)
	b.AppendString("a")
	first := b.mem.addr
	b.AppendString(strings.Repeat("b", 3*4096-1))
	if b.mem.addr != first {
		t.Error("the memory moved")
	}
	b.AppendString("c")
	if b.mem.addr == first {
		t.Error("the check sees no move")
	}
	b.Wipe()
}

func TestSizesThatCannotBe(t *testing.T) {
	for _, size := range []int{-1, 1 << 62} {
		b := NewBuilder(size)
		b.AppendString("x")
		b.AppendBase64(value(t, "y"))
		if v, err := b.Value(); err == nil || v != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func FuzzBuilder(f *testing.F) {
	f.Add([]byte("a"), []byte(""), 3)
	f.Fuzz(func(t *testing.T, x, y []byte, size int) {
		b := NewBuilder(max(0, size%10000))
		vx, vy := value(t, string(x)), value(t, string(y))
		b.AppendValue(vx)
		b.AppendBase64(vy)
		b.Append(y...)
		v, err := b.Value()
		if err != nil {
			t.Fatal(err)
		}
		defer v.Wipe()
		if want := string(x) + base64.StdEncoding.EncodeToString(y) + string(y); !v.EqualBytes([]byte(want)) {
			t.Error("the builder built something else")
		}
	})
}

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
