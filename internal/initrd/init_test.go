package initrd_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ampoule-vm/ampoule/internal/initrd"
	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestInit: what would run first.
func TestInit(t *testing.T) {
	chain := func(n int) []byte {
		a := new(archive).exec("l0", elf)
		for i := 1; i <= n; i++ {
			a.link(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i-1))
		}
		return a.link("init", fmt.Sprintf("/l%d", n)).end()
	}
	huge := linked(2, binary.LittleEndian, 16<<20, "libsystemd-core-252.so")
	kinds := func(body string, kind initrd.Kind) struct {
		data []byte
		want initrd.Init
	} {
		return struct {
			data []byte
			want initrd.Init
		}{simple(body), initrd.Init{Resolved: "/init", Kind: kind, Executable: true}}
	}
	cases := map[string]struct {
		data []byte
		want initrd.Init
	}{
		"systemd by name": {new(archive).dir("usr", "usr/lib", "usr/lib/systemd").exec("usr/lib/systemd/systemd", elf).link("init", "usr/lib/systemd/systemd").end(),
			initrd.Init{Resolved: "/usr/lib/systemd/systemd", Kind: initrd.Systemd, Executable: true}},
		"through merged directories": {new(archive).dir("usr", "usr/lib").link("lib", "usr/lib").dir("lib/systemd").exec("lib/systemd/systemd", elf).
			dir("sbin").link("sbin/init", "../lib/systemd/systemd").link("init", "/sbin/init").end(),
			initrd.Init{Resolved: "/usr/lib/systemd/systemd", Kind: initrd.Systemd, Executable: true}},
		"systemd by its libraries": kinds(elfSystemd, initrd.Systemd),
		"across pieces":            kinds(linked(2, binary.LittleEndian, 700<<10, "libc.so.6", "libsystemd-shared-257.9-1.fc42.so"), initrd.Systemd),
		"of 32 bits":               kinds(linked(1, binary.LittleEndian, 4, "libsystemd-core-252.so"), initrd.Systemd),
		"big end first":            kinds(linked(2, binary.BigEndian, 0, "libsystemd-core-252.so"), initrd.Systemd),
		"big, 32 bits":             kinds(linked(1, binary.BigEndian, 0, "libc.so.6", "libsystemd-shared-252.so"), initrd.Systemd),
		"no version":               kinds(linked(2, binary.LittleEndian, 0, "libsystemd-core-", "libsystemd-shared-x1"), initrd.ELF),
		"the public library":       kinds(linked(2, binary.LittleEndian, 0, "libsystemd.so.0", "libc.so.6"), initrd.ELF),
		"a word in its text":       kinds(linked(2, binary.LittleEndian, 0, "libc.so.6")+"\x00libsystemd-core-252.so\x00", initrd.ELF),
		"the table cut off":        kinds(elfSystemd[:100], initrd.ELF),
		"a name cut off":           kinds(linked(2, binary.LittleEndian, 0, "libsystemd-core-252.so")[:64+2*56+3*16+10], initrd.ELF),
		"too large to tell":        kinds(huge, initrd.ELF),
		"a word about systemd":     {simple("#!/bin/sh\n# libsystemd-core"), initrd.Init{Resolved: "/init", Kind: initrd.Script, Executable: true, Interpreter: "/bin/sh"}},
		"another library":          {simple(elf + "libsystemd.so.0 libsystemd-"), initrd.Init{Resolved: "/init", Kind: initrd.ELF, Executable: true}},
		"script":                   {simple(script), initrd.Init{Resolved: "/init", Kind: initrd.Script, Executable: true, Interpreter: "/usr/bin/busybox"}},
		"script without words":     {simple("#!"), initrd.Init{Resolved: "/init", Kind: initrd.Script, Executable: true}},
		"a script named systemd":   {new(archive).exec("systemd", script).link("init", "systemd").end(), initrd.Init{Resolved: "/systemd", Kind: initrd.Script, Executable: true, Interpreter: "/usr/bin/busybox"}},
		"not executable":           {new(archive).file("init", elf).end(), initrd.Init{Resolved: "/init", Kind: initrd.ELF}},
		"empty":                    {new(archive).exec("init", "").end(), initrd.Init{Resolved: "/init", Kind: initrd.Other, Executable: true}},
		"text":                     {simple("hello"), initrd.Init{Resolved: "/init", Kind: initrd.Other, Executable: true}},
		"directory":                {new(archive).dir("init").end(), initrd.Init{Resolved: "/init", Kind: initrd.Other}},
		"device":                   {new(archive).link("init", "dev/console").end(), initrd.Init{Resolved: "/dev/console", Kind: initrd.Other}},
		"missing":                  {new(archive).dir("etc").end(), initrd.Init{Kind: initrd.Missing}},
		"dangling":                 {new(archive).link("init", "usr/lib/systemd/systemd").end(), initrd.Init{Kind: initrd.Missing, Why: "it leads to /usr, which is not there"}},
		"to itself":                {new(archive).link("init", "init").end(), initrd.Init{Kind: initrd.Missing, Why: "too many symbolic links"}},
		"in a circle":              {new(archive).dir("a", "b").link("a/x", "../b/x").link("b/x", "/a/x").link("init", "a/x").end(), initrd.Init{Kind: initrd.Missing, Why: "too many symbolic links"}},
		"40 links":                 {chain(39), initrd.Init{Resolved: "/l0", Kind: initrd.ELF, Executable: true}},
		"41 links":                 {chain(40), initrd.Init{Kind: initrd.Missing, Why: "too many symbolic links"}},
		"above the root":           {new(archive).exec("prog", elf).link("init", "../../prog").end(), initrd.Init{Resolved: "/prog", Kind: initrd.ELF, Executable: true}},
		"names with ./":            {new(archive).dir(".", "./bin").exec("./bin/prog", elf).link("./init", "./bin//prog").end(), initrd.Init{Resolved: "/bin/prog", Kind: initrd.ELF, Executable: true}},
		"through a file":           {new(archive).exec("prog", elf).link("init", "prog/x").end(), initrd.Init{Kind: initrd.Missing, Why: "it leads to /prog, which is not there"}},
	}
	for name, c := range cases {
		c.want.Path = "/init"
		r, err := inspect(c.data, initrd.Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.Init != c.want {
			t.Errorf("%s: %+v\nwant %+v", name, r.Init, c.want)
		}
	}

	other := new(archive).exec("init", script).dir("sbin").exec("sbin/start", elf).end()
	r, err := inspect(other, initrd.Options{Init: "/sbin/start"})
	if want := (initrd.Init{Path: "/sbin/start", Resolved: "/sbin/start", Kind: initrd.ELF, Executable: true}); err != nil || r.Init != want {
		t.Errorf("another init: %+v, %v", r.Init, err)
	}
}

// TestLater: what comes later counts, by the rules of the system calls that Linux
// makes.
func TestLater(t *testing.T) {
	cases := map[string]struct {
		data  []byte
		kind  initrd.Kind
		pages int64
	}{
		"file over file":           {join(simple(strings.Repeat(elf, 1000)), simple(script)), initrd.Script, 4096},
		"in one archive":           {new(archive).exec("init", elf).exec("init", script).end(), initrd.Script, 4096},
		"link over file":           {join(new(archive).exec("prog", elf).end(), simple(script), new(archive).link("init", "prog").end()), initrd.ELF, 4096},
		"file over link":           {join(new(archive).exec("prog", elf).link("init", "prog").end(), simple(script)), initrd.Script, 8192},
		"file over empty dir":      {join(new(archive).dir("init").end(), simple(script)), initrd.Script, 4096},
		"file over full dir":       {join(new(archive).dir("init").file("init/x", "x").end(), simple(script)), initrd.Other, 4096},
		"link over full dir":       {new(archive).exec("prog", elf).dir("init").file("init/x", "x").link("init", "prog").end(), initrd.Other, 8192},
		"dir over file":            {join(simple(script), new(archive).dir("init").end()), initrd.Other, 0},
		"dir over dir":             {new(archive).dir("d").exec("d/p", elf).dir("d").link("init", "d/p").end(), initrd.ELF, 4096},
		"through a link":           {join(new(archive).dir("usr").exec("usr/p", elf).link("bin", "usr").link("init", "bin/p").end(), new(archive).exec("bin/p", script).end()), initrd.Script, 4096},
		"dir over link":            {new(archive).dir("usr").link("bin", "usr").dir("bin").exec("bin/p", elf).link("init", "usr/p").end(), initrd.Missing, 4096},
		"pipe over file":           {join(simple(script), new(archive).entry(cpio.Header{Mode: cpio.TypeFIFO | 0o644, Name: "init"}, "").end()), initrd.Other, 0},
		"no type":                  {join(simple(script), new(archive).entry(cpio.Header{Mode: 0o755, Name: "init"}, "").end()), initrd.Script, 4096},
		"no name":                  {join(simple(script), new(archive).exec("", elf).end()), initrd.Script, 4096},
		"name ends with a dot":     {new(archive).dir("d").exec("d/..", elf).exec("init", script).end(), initrd.Script, 4096},
		"the root":                 {new(archive).dir(".").exec("init", elf).link("/", "x").end(), initrd.ELF, 4096},
		"absolute name":            {new(archive).exec("/init", elf).end(), initrd.ELF, 4096},
		"in the kernel's own /dev": {new(archive).exec("dev/p", elf).link("init", "/dev/p").end(), initrd.ELF, 4096},
		"hard link, content last":  {new(archive).hard("init", 7, "").hard("b", 7, "").hard("c", 7, elf).end(), initrd.ELF, 4096},
		"hard link, content first": {new(archive).hard("a", 7, elf).hard("b", 7, "").hard("init", 7, "").end(), initrd.ELF, 4096},
		"hard link, another device": {new(archive).hard("a", 7, elf).
			entry(cpio.Header{Ino: 7, DevMinor: 1, Mode: cpio.TypeRegular | 0o755, NLink: 2, Name: "init"}, script).end(), initrd.Script, 8192},
		"hard link, another archive": {join(new(archive).hard("a", 7, elf).end(), new(archive).hard("init", 7, script).end()), initrd.Script, 8192},
		"hard link, replaced":        {join(new(archive).hard("init", 7, elf).hard("b", 7, "").end(), new(archive).exec("b", script).end()), initrd.Script, 4096},
		"hard link, one goes":        {join(new(archive).hard("init", 7, elf).hard("b", 7, "").end(), new(archive).link("b", "x").end()), initrd.ELF, 4096},
		"hard link, all go":          {join(new(archive).hard("a", 7, elf).hard("b", 7, "").end(), new(archive).link("a", "x").link("b", "x").end()), initrd.Missing, 0},
	}
	for name, c := range cases {
		for _, packed := range []bool{false, true} {
			data := c.data
			if packed {
				data = zip(t, data)
			}
			r, err := inspect(data, initrd.Options{})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if r.Init.Kind != c.kind || r.Pages != c.pages {
				t.Errorf("%s (packed %v): %s, %d bytes of memory; want %s, %d", name, packed, r.Init.Kind, r.Pages, c.kind, c.pages)
			}
		}
	}
}

// TestMakers: by the files that each of them leaves.
func TestMakers(t *testing.T) {
	with := func(paths ...string) []byte {
		a, made := new(archive).exec("init", script), map[string]bool{}
		for _, p := range paths {
			parts := strings.Split(p, "/")
			for i := 1; i < len(parts); i++ {
				if d := strings.Join(parts[:i], "/"); !made[d] {
					made[d] = true
					a.dir(d)
				}
			}
			a.file(p, "x")
		}
		return a.end()
	}
	nix := "nix/store/abc-stage-1-init.sh"
	cases := map[string]struct {
		data []byte
		want string
	}{
		"dracut":              {with("usr/lib/dracut/build-parameter.txt", "etc/initrd-release"), "dracut"},
		"dracut, old":         {with("lib/dracut-lib.sh"), "dracut"},
		"a system with it":    {with("usr/lib/dracut/dracut-init.sh", "usr/lib/dracut/modules.d/99base/init.sh", "usr/share/initramfs-tools/scripts/functions"), ""},
		"initramfs-tools":     {with("conf/initramfs.conf", "conf/arch.conf", "scripts/functions"), "initramfs-tools"},
		"mkinitcpio":          {with("config", "init_functions", "buildconfig"), "mkinitcpio"},
		"mkinitcpio, systemd": {with("config", "buildconfig", "etc/initrd-release"), "mkinitcpio"},
		"mkosi":               {with("usr/lib/udev/rules.d/10-mkosi-initrd-dm.rules"), "mkosi"},
		"nixos":               {new(archive).dir("nix", "nix/store").exec(nix, script).link("init", "/"+nix).end(), "nixos"},
		"a system with nix":   {with("nix/store/abc/bin/x"), ""},
		"nobody":              {with("etc/motd"), ""},
	}
	for name, c := range cases {
		r := mustInspect(t, c.data)
		if r.Maker != c.want || r.Release != strings.Contains(string(c.data), "etc/initrd-release") {
			t.Errorf("%s: %q, want %q; release %v", name, r.Maker, c.want, r.Release)
		}
	}
}

// TestInTheWay: what collides with what is to be put in front.
func TestInTheWay(t *testing.T) {
	for name, c := range map[string]struct {
		data    []byte
		ampoule bool
		run     string
	}{
		"nothing":          {simple(elf), false, ""},
		"other names":      {new(archive).dir("ampoule", ".ampoule2", "etc", "etc/.ampoule", "run", "run/.ampoule").end(), false, ""},
		"the directory":    {new(archive).dir(".ampoule").end(), true, ""},
		"with ./":          {new(archive).dir("./.ampoule/").end(), true, ""},
		"a file below":     {new(archive).exec(".ampoule/init", elf).end(), true, ""},
		"deep below":       {new(archive).file("/.ampoule/credentials/X", "x").end(), true, ""},
		"a link":           {new(archive).link(".ampoule", "etc").end(), true, ""},
		"by a way around":  {new(archive).dir("etc").dir("etc/../.ampoule").end(), true, ""},
		"gone again":       {new(archive).file(".ampoule", "x").dir(".ampoule").end(), true, ""},
		"run a link":       {new(archive).link("run", "var/run").end(), false, "symlink"},
		"run a file":       {new(archive).file("run", "x").end(), false, "file"},
		"run a pipe":       {new(archive).entry(cpio.Header{Mode: cpio.TypeFIFO, Name: "run"}, "").end(), false, "other"},
		"run made right":   {new(archive).link("run", "var/run").dir("run").end(), false, ""},
		"run a directory":  {new(archive).dir("run").file("run/x", "x").end(), false, ""},
		"run over content": {new(archive).dir("run").file("run/x", "x").link("run", "y").end(), false, ""},
	} {
		if r := mustInspect(t, c.data); r.Ampoule != c.ampoule || r.Run != c.run {
			t.Errorf("%s: %v, %q", name, r.Ampoule, r.Run)
		}
	}
}

// TestNotInspected: what Linux may take and this program cannot is neither right
// nor wrong.
func TestNotInspected(t *testing.T) {
	early := simple(elfSystemd)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"lzo":          {join(early, "\x89LZO\x00\x0d\x0a\x1a\x0a and so on"), "lzo"},
		"large window": {join(early, pack(t, "zstd --long=28", early)), "zstd with a window of 256 MiB"},
		"filter":       {join(early, pack(t, "xz --check=crc32 --arm --lzma2", early)), "xz with filter 0x7"},
	} {
		r := mustInspect(t, c.data)
		if r.NotInspected != c.want || r.Init != (initrd.Init{Path: "/init", Kind: initrd.Unknown}) || len(r.Flaws) != 0 || len(r.Segments) != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestJSON: reports are kept on disk, so that their form may not change by
// accident.
func TestJSON(t *testing.T) {
	data := join(new(archive).exec("init", script).link("run", "x").dir(".ampoule", "etc").file("etc/initrd-release", "x").end(), zip(t, simple(script)), "garbage")
	r := mustInspect(t, data)
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	gz := len(zip(t, simple(script)))
	want := fmt.Sprintf(`{"segments":[{"offset":0,"bytes":772,"unpacked":772,"entries":5},{"offset":772,"bytes":%d,"compression":"gzip","unpacked":%d,"entries":1}],"entries":6,"pages":8192,`+
		`"init":{"path":"/init","resolved":"/init","kind":"script","executable":true,"interpreter":"/usr/bin/busybox"},"release":true,"ampoule":true,"run":"symlink",`+
		`"flaws":[{"offset":%d,"what":"behind the end of an archive there is something unknown at byte %d; Linux looks no further"}],"ignored":7}`, gz, len(simple(script)), 772+gz, 772+gz)
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	var back initrd.Report
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(&back, r) {
		t.Errorf("%v: %+v", err, back)
	}
}

type failing struct {
	data []byte
	from int64
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, iotest.ErrTimeout
	}
	return copy(p, f.data[off:]), nil
}

func TestReadError(t *testing.T) {
	for _, data := range [][]byte{simple(elf), zip(t, simple(elf)), make([]byte, 100_000), pack(t, "zstd", simple(elf))} {
		for _, from := range []int64{0, int64(len(data)) - 1} {
			_, err := initrd.Inspect(&failing{data, from}, int64(len(data)), initrd.Options{})
			var e *initrd.Error
			if !errors.Is(err, iotest.ErrTimeout) || errors.As(err, &e) {
				t.Errorf("from byte %d on: %v", from, err)
			}
		}
	}
}

// TestTool: a directory as GNU cpio and the packers pack it. The memory is what
// the files on disk say.
func TestTool(t *testing.T) {
	need.All(t, need.Packers)
	dir := t.TempDir()
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program = program[:1<<20+1]
	for name, content := range map[string]string{"usr/lib/systemd/systemd": string(program), "etc/motd": "hello", "etc/empty": "", "etc/pages": strings.Repeat("x", 8192)} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("usr/lib", filepath.Join(dir, "lib")), os.Symlink("lib/systemd/systemd", filepath.Join(dir, "init")),
		os.Link(filepath.Join(dir, "etc/pages"), filepath.Join(dir, "etc/same")), os.Link(filepath.Join(dir, "etc/pages"), filepath.Join(dir, "again"))); err != nil {
		t.Fatal(err)
	}
	var names []string
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		names = append(names, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := (int64(len(program))+4095)&^4095 + 4096 + 8192
	for _, format := range []string{"newc", "crc"} {
		cmd := exec.Command("cpio", "--quiet", "-o", "-H", format)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(strings.Join(names, "\n")+"\n")
		plain, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range packers() {
			if command != "" && format == "crc" {
				continue
			}
			data := plain
			if command != "" {
				data = pack(t, command, plain)
			}
			r, err := inspect(data, initrd.Options{})
			if err != nil {
				t.Errorf("%s, %q: %v", format, command, err)
				continue
			}
			if r.Pages != want || r.Entries != int64(len(names)) || r.Init.Resolved != "/usr/lib/systemd/systemd" || r.Init.Kind != initrd.Systemd || len(r.Flaws) != 0 {
				t.Errorf("%s, %q: %+v; want %d bytes of memory", format, command, r, want)
			}
		}
	}
}

func FuzzInspect(f *testing.F) {
	plain := new(archive).dir("usr").link("bin", "usr").exec("bin/p", elf).hard("a", 7, "").hard("b", 7, "x").link("init", "bin/p").end()
	f.Add(plain)
	f.Add(join(plain, 4, zip(f, plain), "garbage"))
	f.Add(join(plain, bootconfig(len(plain), "kernel { rdinit = \"/x\" } # x\na =\n'y', z\n")))
	f.Add(plain[:len(plain)-3])
	for _, command := range packers()[1:] {
		f.Add(pack(f, command, plain))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := inspect(data, initrd.Options{MaxUnpacked: 8 << 20, MaxEntries: 10_000})
		if err != nil {
			var e *initrd.Error
			if !errors.As(err, &e) || e.Offset < 0 || e.Offset > int64(len(data)) {
				t.Errorf("%#v", err)
			}
			return
		}
		end := int64(0)
		for _, s := range r.Segments {
			if s.Offset < end || s.Bytes <= 0 {
				t.Errorf("segments: %+v", r.Segments)
			}
			end = s.Offset + s.Bytes
		}
		if end > int64(len(data)) || r.Ignored < 0 || r.Pages < 0 || r.Pages%4096 != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// FuzzPrograms: whatever a program says of itself, it is looked at within bounds.
func FuzzPrograms(f *testing.F) {
	f.Add([]byte(elfSystemd)[4:])
	f.Add([]byte(linked(1, binary.BigEndian, 8, "libc.so.6"))[4:])
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := inspect(simple("\x7fELF"+string(data)), initrd.Options{})
		if err != nil || r.Init.Kind != initrd.ELF && r.Init.Kind != initrd.Systemd {
			t.Errorf("%+v, %v", r, err)
		}
	})
}
