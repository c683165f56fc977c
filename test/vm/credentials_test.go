package vm

import (
	"bytes"
	"fmt"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// value is a credential of the matrix.
type value struct {
	name string
	data []byte
}

// random is reproducible noise: every byte value occurs.
func random(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

// values are the sets of the matrix. What a channel cannot carry of a set is
// refused, each by itself; the rest boots together.
func values() map[string][]value {
	small := []value{
		{"text", []byte("correct horse battery staple")},
		{"special", []byte("NUL\x00 newline\n comma, quote\" apostrophe' [brackets] a=b 100% \\ backslash\r\n\x00")},
		{"empty", nil},
		{"one-byte", []byte{0}},
		{strings.Repeat("name-of-100-bytes.", 6)[:100], []byte("long name")},
		{"under.4096", random(1, 2900)},
	}
	for i := range 40 {
		small = append(small, value{fmt.Sprintf("many-%02d", i), random(int64(100+i), 64)})
	}
	var bulk []value
	for i := range 20 {
		bulk = append(bulk, value{fmt.Sprintf("bulk-%02d", i), random(int64(200+i), 2048)})
	}
	big := []value{{"kib-3", random(2, 3<<10)}, {"kib-20", random(3, 20<<10)}, {"kib-700", random(4, 700<<10)}}
	return map[string][]value{"small": small, "big": big, "bulk": bulk, "all": slices.Concat(small, big, bulk)}
}

// config is a machine with a channel.
type config struct{ machine, channel string }

// carries says whether a value fits by itself, by the limits that are
// documented. The tests state them again on purpose.
func (c config) carries(v value, systemd int) bool {
	smbios := func() bool {
		encoded := 6 + 29 + len(v.name) + 1 + (len(v.data)+2)/3*4 + 1
		most := 4096
		if systemd >= 257 {
			most = 65535 - 2048 - 128
		}
		return encoded <= most
	}
	fwCfg := len(v.name) <= 28
	switch {
	case c.channel == "initrd", c.channel == "auto":
		return true // the guests' init is systemd's
	case c.channel == "smbios":
		return smbios()
	}
	return fwCfg
}

func TestCredentialMatrix(t *testing.T) {
	need.All(t, need.VM, need.Root, need.QEMU, need.Guest)
	canary := map[string]bool{"q35+smbios/252/small": true, "microvm+auto/257/big": true}
	for _, c := range []config{{"q35", "smbios"}, {"q35", "fw_cfg"}, {"microvm", "fw_cfg"}, {"q35", "auto"}, {"microvm", "auto"}} {
		for _, suite := range []string{"bookworm", "trixie"} {
			systemd := map[string]int{"bookworm": 252, "trixie": 257}[suite]
			for _, set := range []string{"small", "big", "bulk"} {
				name := fmt.Sprintf("%s+%s/%d/%s", c.machine, c.channel, systemd, set)
				t.Run(name, func(t *testing.T) {
					if !canary[name] {
						need.All(t, need.VMAll)
					}
					t.Parallel()
					testSet(t, c, suite, systemd, values()[set])
				})
			}
		}
	}
}

// testSet checks that each value is refused or arrives, in both boots.
func testSet(t *testing.T, c config, suite string, systemd int, set []value) {
	g := guest.Get(t, suite)
	base := append(kernelLines(g), "Machine="+c.machine, "CredentialChannel="+c.channel, fmt.Sprintf("GuestSystemd=%d", systemd))
	dir := t.TempDir()
	var fit []value
	for _, v := range set {
		writeSecret(t, filepath.Join(dir, v.name), v.data)
		if c.carries(v, systemd) {
			fit = append(fit, v)
			continue
		}
		m := start(t, options{lines: append(slices.Clone(base), load(dir, v))})
		m.wantExit(2, "at most", bootTime)
		if n, _ := m.words.count(lineOf(m, len(base)+2)); n != 1 {
			t.Errorf("%s: the refusal does not name its line", v.name)
		}
		if n := len(m.console.all()); n != 0 {
			t.Errorf("%s: something was started", v.name)
		}
	}
	if len(fit) == 0 {
		return
	}
	lines := append(slices.Clone(base), "KernelCommandLine=ampoule.test=reboot-once,poweroff")
	for _, v := range fit {
		lines = append(lines, load(dir, v))
	}
	m := start(t, options{lines: lines})
	m.wantExit(0, "the guest powered off", 2*bootTime)
	for _, r := range m.reports(2) {
		same(t, fmt.Sprintf("boot %d, PID 1", r.Boot), r.Credentials, fit)
		same(t, fmt.Sprintf("boot %d, a service", r.Boot), r.Loaded, fit)
	}
}

func load(dir string, v value) string {
	return "LoadCredential=" + v.name + ":" + filepath.Join(dir, v.name)
}

func writeSecret(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// same compares what the guest has with what it was to get: no more, no less.
func same(t *testing.T, who string, got []guest.Item, want []value) {
	t.Helper()
	have := map[string]guest.Item{}
	for _, i := range got {
		have[i.Name] = i
	}
	for _, v := range want {
		i, ok := have[v.name]
		if !ok {
			t.Errorf("%s: %s is missing", who, v.name)
		} else if i != guest.Of(v.name, v.data) {
			t.Errorf("%s: %s arrived with %d bytes, want %d, or with other contents", who, v.name, i.Bytes, len(v.data))
		}
		delete(have, v.name)
	}
	for name := range have {
		t.Errorf("%s: %s came from nowhere", who, name)
	}
}

// TestSources: every kind of source, by hand.
func TestSources(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest, need.Systemd)
	t.Parallel()
	g := guest.Get(t, "bookworm")
	dir := t.TempDir()
	writeSecret(t, filepath.Join(dir, "file"), []byte("from a file"))
	if err := os.MkdirAll(filepath.Join(dir, "tree", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeSecret(t, filepath.Join(dir, "tree", "a"), []byte("tree a"))
	writeSecret(t, filepath.Join(dir, "tree", "sub", "b"), []byte("tree b"))
	socket := serve(t, filepath.Join(dir, "socket"), []byte("from a socket"))
	sealed := encrypt(t, "sealed", []byte("was encrypted"))
	writeSecret(t, filepath.Join(dir, "sealed"), sealed)
	inline := bytes.ReplaceAll(encrypt(t, "inline", []byte("was encrypted inline")), []byte("\n"), nil)
	m := start(t, options{
		lines: append(kernelLines(g), "KernelCommandLine=ampoule.test=poweroff",
			"LoadCredential=file:"+filepath.Join(dir, "file"), "LoadCredential=tree:"+filepath.Join(dir, "tree"), "LoadCredential=socket:"+socket,
			"LoadCredentialEncrypted=sealed:"+filepath.Join(dir, "sealed"), "SetCredentialEncrypted=inline:"+string(inline),
			`SetCredential=set:a\nb\x00c`, "SetCredential=file:unused default", "LoadCredential=absent:/nonexistent", "SetCredential=absent:the default",
			"Credential=guest-name:host-name"),
		service: []string{"LoadCredential=host-name:" + filepath.Join(dir, "file")},
	})
	m.wantExit(0, "the guest powered off", bootTime)
	same(t, "the guest", m.reports(1)[0].Credentials, []value{
		{"file", []byte("from a file")}, {"tree_a", []byte("tree a")}, {"tree_sub_b", []byte("tree b")}, {"socket", []byte("from a socket")},
		{"sealed", []byte("was encrypted")}, {"inline", []byte("was encrypted inline")}, {"set", []byte("a\nb\x00c")},
		{"absent", []byte("the default")}, {"guest-name", []byte("from a file")},
	})
}

// serve listens on a stream socket and gives each client the value.
func serve(t *testing.T, path string, data []byte) string {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(data)
			conn.Close()
		}
	}()
	return path
}

// encrypt seals a value with the host's key by the real systemd-creds.
func encrypt(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	cmd := exec.Command("systemd-creds", "encrypt", "--with-key=host", "--name="+name, "-", "-")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("systemd-creds encrypt: %v", err)
	}
	return out
}
