package fake

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Name is that of the program, and of the link to it.
const Name = "cloud-hypervisor"

// Options are what a test wants otherwise than the real one has it.
type Options struct {
	// Faults are how the hypervisor misbehaves; see the package's comment.
	Faults string
	// Version is what --version and the API say, such as "v48.0.0".
	Version string
}

// RunIfCalled is the program, if this process was started as such, and does not
// return then. A test's TestMain calls it first.
func RunIfCalled() {
	if len(os.Args) == 0 || filepath.Base(os.Args[0]) != Name {
		return
	}
	exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, installedOptions()))
}

// Install makes a link by which the test binary becomes the program, and returns
// its path. The package's TestMain has to call [RunIfCalled].
func Install(t testing.TB) string { return InstallWith(t, Options{}) }

// InstallWith is Install for a program with options.
func InstallWith(t testing.TB, o Options) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), Name)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{faultsFile: o.Faults, versionFile: o.Version} {
		if value == "" {
			continue
		}
		if err := os.WriteFile(link+name, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return link
}

// The options lie beside the link: a process that is started without environment
// and with an exact command line can be told nothing else.
const (
	faultsFile  = ".faults"
	versionFile = ".version"
)

func installedOptions() Options {
	link := executed()
	read := func(name string) string {
		data, err := os.ReadFile(link + name)
		if err != nil {
			return ""
		}
		return string(data)
	}
	return Options{Faults: read(faultsFile), Version: read(versionFile)}
}

// executed is the path that execve was given, links unresolved. The first argument
// need not be one.
func executed() string {
	const execfn = 31 // AT_EXECFN
	vector, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return os.Args[0]
	}
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		return os.Args[0]
	}
	defer memory.Close()
	for ; len(vector) >= 16; vector = vector[16:] {
		if binary.NativeEndian.Uint64(vector) != execfn {
			continue
		}
		name := make([]byte, 4096)
		n, _ := memory.ReadAt(name, int64(binary.NativeEndian.Uint64(vector[8:])))
		return unix.ByteSliceToString(name[:n])
	}
	return os.Args[0]
}
