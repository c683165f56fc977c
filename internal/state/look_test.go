package state

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestMain lets the test binary be another process that runs a VM.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STATE_TEST_HOLD"); dir != "" {
		os.Exit(hold(dir))
	}
	os.Exit(m.Run())
}

func hold(dir string) int {
	c, err := Take(Directories{Runtime: dir})
	if err == nil {
		err = c.Write(Record{Name: filepath.Base(dir), Pid: os.Getpid(), ByHand: true, Phase: Ready})
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("held")
	_, _ = os.Stdin.Read(make([]byte, 1))
	c.Release()
	return 0
}

// holding starts a process that holds the lock in dir.
func holding(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = []string{"STATE_TEST_HOLD=" + dir}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("it says %q", line)
	}
	return cmd
}

// A directory is running as long as its process lives, however that ends.
func TestLook(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, Root, "web")
	cmd := holding(t, dir)
	got, err := List(root)
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	i := got[0]
	if i.Name != "web" || i.Dir != dir || !i.Running || i.Service || i.Pid != cmd.Process.Pid || i.Problem != nil ||
		i.Record == nil || i.Record.Pid != i.Pid || i.Record.Phase != Ready {
		t.Errorf("%+v %+v", i, i.Record)
	}
	// To look takes nothing: a start in the same moment is not kept out.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if i, ok := Look(dir); !ok || i.Running || i.Pid != 0 || i.Record == nil || i.Problem != nil {
		t.Errorf("killed: %+v", i)
	}
	// A successor does not pass the record off as its own.
	c, err := Take(Directories{Runtime: dir})
	if err != nil {
		t.Fatal(err)
	}
	if i, ok := Look(dir); !ok || i.Record != nil || !i.Service {
		t.Errorf("begun again: %+v", i)
	}
	c.Release()
	if got, err := List(root); err != nil || len(got) != 0 {
		t.Errorf("over: %+v, %v", got, err)
	}
	if got, err := List(t.TempDir()); err != nil || got != nil {
		t.Errorf("nothing there: %+v, %v", got, err)
	}
}

// What a service's user writes does not make it one that was started by hand.
func TestLookService(t *testing.T) {
	need.All(t, need.Root)
	root := t.TempDir()
	private := filepath.Join(root, "run/private/ampoule/vm/dynamic")
	foreign := filepath.Join(root, Root, "foreign")
	for _, dir := range []string{private, foreign} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		text := `{"name": "` + filepath.Base(dir) + `", "by_hand": true, "pid": 1}`
		if err := os.WriteFile(filepath.Join(dir, recordName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(foreign, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	vms := filepath.Join(root, Root)
	for name, target := range map[string]string{"dynamic": "../../private/ampoule/vm/dynamic", "dangling": "../../private/ampoule/vm/no", "fd": "/dev/null"} {
		if err := os.Symlink(target, filepath.Join(vms, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"file", "li\x1bne"} {
		if err := os.WriteFile(filepath.Join(vms, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := List(root)
	if err != nil || len(got) != 2 || got[0].Name != "dynamic" || got[1].Name != "foreign" {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, i := range got {
		if !i.Service || i.Running || i.Record == nil || i.Problem != nil {
			t.Errorf("%+v", i)
		}
	}
}

// Whatever lies there, looking at it ends soon, and with words.
func TestHostile(t *testing.T) {
	for name, tt := range map[string]struct {
		put   func(path string) error
		words string
	}{
		"link":     {func(p string) error { return os.Symlink("/etc/passwd", p) }, "too many levels of symbolic links"},
		"fifo":     {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "not a regular file"},
		"folder":   {func(p string) error { return os.Mkdir(p, 0o700) }, "not a regular file"},
		"endless":  {func(p string) error { return truncated(p, maxRecord+1) }, "larger than"},
		"no JSON":  {func(p string) error { return os.WriteFile(p, []byte("secret"), 0o600) }, "not valid"},
		"deep":     {func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("[", 1<<20)), 0o600) }, "not valid"},
		"types":    {func(p string) error { return os.WriteFile(p, []byte(`{"pid": "secret"}`), 0o600) }, "not valid"},
		"time":     {func(p string) error { return os.WriteFile(p, []byte(`{"started": "secret"}`), 0o600) }, "not valid"},
		"negative": {func(p string) error { return os.WriteFile(p, []byte(`{"name": "vm", "pid": -1}`), 0o600) }, "negative"},
		"other":    {func(p string) error { return os.WriteFile(p, []byte(`{"name": "secret"}`), 0o600) }, "another VM"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "vm")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := tt.put(filepath.Join(dir, recordName)); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			i, ok := Look(dir)
			if !ok || i.Record != nil || i.Problem == nil || !strings.Contains(i.Problem.Error(), tt.words) || strings.Contains(i.Problem.Error(), "secret") {
				t.Errorf("%+v, want %q", i, tt.words)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			if _, err := Read(dir); name != "other" && err == nil {
				t.Error("Read takes it")
			}
		})
	}
	// A lock that is no file: neither does that hang.
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, lockName), 0o600); err != nil {
		t.Fatal(err)
	}
	if i, ok := Look(dir); !ok || i.Running || !errors.Is(i.Problem, errNotRegular) {
		t.Errorf("%+v", i)
	}
}

func truncated(path string, size int64) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return os.Truncate(path, size)
}

// Every text of a record, those that will be added too, is made printable.
func TestPrintable(t *testing.T) {
	rec := Record{}
	rec.Credentials, rec.Files = make([]DeliveredMetadata, 1), make([]File, 1)
	texts(reflect.ValueOf(&rec).Elem(), func(v reflect.Value) { v.SetString("a\x1b[2J\u202eb\nü\u0085") })
	rec.clean()
	n := 0
	texts(reflect.ValueOf(&rec).Elem(), func(v reflect.Value) {
		if n++; v.String() != "a�[2J�b�ü�" {
			t.Errorf("%q", v)
		}
	})
	if n < 14 {
		t.Errorf("only %d texts", n)
	}
}

// texts calls f for every string below v.
func texts(v reflect.Value, f func(reflect.Value)) {
	switch v.Kind() {
	case reflect.String:
		f(v)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				texts(v.Field(i), f)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			texts(v.Index(i), f)
		}
	}
}
