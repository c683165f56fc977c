package shim

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/shim/cmdline"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/test/shim/report"
)

// TestStarts: what is executed is what the kernel would have executed.
func TestStarts(t *testing.T) {
	need.All(t, need.VMAll)
	broken := func(name string) file {
		return file{name: name, mode: cpio.TypeRegular | 0o755, body: []byte("not a program")}
	}
	bare := []file{dir("dev"), dir("proc"), dir("sbin"), dir("etc"), dir("bin")}
	cases := map[string]struct {
		next, words string
		files       []file
		want        []string // the arguments; none: the kernel panics
		says        string
	}{
		"rdinit":                    {next: "/bin/own", words: "one", files: []file{probe("bin/own"), broken("init")}, want: []string{"/bin/own", "one"}},
		"rdinit that is a link":     {next: "/own", files: []file{probe("bin/real"), {name: "own", mode: cpio.TypeSymlink | 0o777, body: []byte("bin/real")}}, want: []string{"/own"}},
		"rdinit that fails":         {next: "/bin/own", files: []file{broken("bin/own"), probe("init"), probe("bin/init")}, want: []string{"/bin/init"}, says: "error: executing /bin/own: exec format error"},
		"rdinit that fails, init=":  {next: "/bin/own", words: "before init=/bin/second after", files: []file{broken("bin/own"), probe("bin/second")}, want: []string{"/bin/second", "after"}},
		"rdinit that is not there":  {next: "/bin/own", files: []file{probe("init")}, says: "rdinit=/bin/own is not there"},
		"an init that fails":        {files: []file{broken("init"), probe("sbin/init")}, want: []string{"/sbin/init"}, says: "error: executing /init: exec format error"},
		"an init that is a script":  {files: []file{{name: "init", mode: cpio.TypeRegular | 0o755, body: []byte("#!/bin/own -x\n")}, probe("bin/own")}, want: []string{"/bin/own", "-x", "/init"}},
		"init= that fails too":      {words: "init=/bin/second", files: []file{broken("init"), broken("bin/second"), probe("sbin/init")}, says: "error: nothing could be executed"},
		"init= that is not there":   {words: "init=/bin/second", files: []file{broken("init"), probe("sbin/init")}, says: "error: executing /bin/second: no such file or directory"},
		"all fails":                 {files: []file{broken("init"), broken("bin/sh")}, says: "error: nothing could be executed"},
		"nothing and no root=":      {says: "error: the initrd has no init, and the kernel's command line no root="},
		"init= beside a good /init": {words: "init=/bin/second", files: []file{probe("init"), broken("bin/second")}, want: []string{"/init"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := machine{initrd: append(overlay(few, c.next), archive(append(slices.Clone(bare), c.files...)...)...), words: c.words}.boot(t)
			if !strings.Contains(o.console, "ampoule-init: "+c.says) {
				t.Errorf("the console lacks %q", c.says)
			}
			if c.want == nil {
				if o.report != nil || !strings.Contains(o.console, "Attempted to kill init!") {
					t.Errorf("the kernel did not panic: %+v", o.report)
				}
				return
			}
			if o.report == nil {
				t.Fatal("the guest did not report")
			}
			wantDelivered(t, o, few)
			if !slices.Equal(o.report.Args, c.want) {
				t.Errorf("arguments %q, want %q", o.report.Args, c.want)
			}
		})
	}
}

// TestNoConsole: a guest without one starts its init without descriptors.
func TestNoConsole(t *testing.T) {
	need.All(t, need.VMAll)
	m := machine{initrd: append(overlay(few, ""), base()...), words: "console=none0 earlyprintk=serial,ttyS0,keep"}
	r, o := m.reported(t)
	if !strings.Contains(o.console, "unable to open an initial console") {
		t.Fatal("the guest had a console")
	}
	wantDelivered(t, o, few)
	if len(r.Open) != 0 {
		t.Errorf("open are %v", r.Open)
	}
}

// compressions are those that Linux takes, with the tool that makes each as the
// kernel wants it.
func compressions() map[string][]string {
	return map[string][]string{
		"none": nil, "gzip": {"gzip", "-n"}, "bzip2": {"bzip2"}, "lzma": {"xz", "--format=lzma"}, "xz": {"xz", "--check=crc32"},
		"lzo": {"lzop"}, "lz4": {"lz4", "-l"}, "zstd": {"zstd", "-q"},
	}
}

func compress(t *testing.T, tool []string, data []byte) []byte {
	t.Helper()
	if tool == nil {
		return data
	}
	installed(t, tool[0])
	cmd := exec.Command(tool[0], append(tool[1:], "-c")...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCompressions: the overlay stands before an initial RAM disk in any
// compression that the kernel has.
func TestCompressions(t *testing.T) {
	need.All(t, need.VMAll)
	for _, suite := range []string{"bookworm", "trixie"} {
		for name, tool := range compressions() {
			t.Run(suite+" "+name, func(t *testing.T) {
				// A second archive behind the first, and what the tools add at the end.
				more := archive(file{name: "more", mode: cpio.TypeRegular | 0o644, body: value("more", 3001)})
				initrd := slices.Concat(overlay(few, ""), compress(t, tool, base()), compress(t, tool, more))
				r, o := machine{suite: suite, initrd: initrd}.reported(t)
				wantDelivered(t, o, few)
				if !slices.ContainsFunc(r.Root, func(f reportFile) bool { return f.Path == "/more" && f.Size == 3001 }) {
					t.Error("the archive behind it is not there")
				}
			})
		}
	}
}

// TestDamagedBase: what is behind the overlay is damaged. The credentials are
// there for whatever can still be executed, and gone where nothing can.
func TestDamagedBase(t *testing.T) {
	need.All(t, need.VMAll)
	good := base()
	packed := compress(t, []string{"gzip", "-n"}, good)
	cases := map[string]struct {
		behind []byte
		boots  bool
	}{
		"nothing":          {nil, false},
		"rubbish":          {[]byte("this is no initial RAM disk at all, but it is long enough"), false},
		"cut":              {packed[:len(packed)/2], false},
		"cut plain":        {good[:len(good)/2], false},
		"cut at the end":   {good[:len(good)-8], true},
		"rubbish behind":   {slices.Concat(packed, []byte("rubbish")), true},
		"zeros in between": {slices.Concat(make([]byte, 8192), packed, make([]byte, 1024)), true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := machine{initrd: append(overlay(few, ""), c.behind...)}.boot(t)
			if !strings.Contains(o.console, "ampoule-init: 2 credentials") {
				t.Error("the credentials were not delivered")
			}
			switch {
			case c.boots && o.report == nil:
				t.Error("the guest did not report")
			case c.boots:
				wantDelivered(t, o, few)
			case o.report != nil:
				t.Errorf("the guest booted: %+v", o.report)
			case !strings.Contains(o.console, "Attempted to kill init!"):
				t.Error("the kernel did not panic")
			}
		})
	}
}

// TestMemory searches the guest's whole memory for values, when its init runs:
// each is there once, in the store.
func TestMemory(t *testing.T) {
	need.All(t, need.VM, need.Guest, need.QEMU)
	t.Run("bookworm", func(t *testing.T) { searchMemory(t, "bookworm") })
	t.Run("trixie", func(t *testing.T) {
		need.All(t, need.VMAll)
		searchMemory(t, "trixie")
	})
}

func searchMemory(t *testing.T, suite string) {
	creds := []credential{{"short", value("short", 48)}, {"page", value("page", 4096)}, {"large", value("large", 300<<10)}}
	memory := filepath.Join(t.TempDir(), "memory")
	m := machine{
		suite: suite, initrd: append(overlay(creds, ""), base()...), words: report.Stay + "=yes",
		options: []string{"-object", "memory-backend-file,id=m,size=512M,share=on,mem-path=" + memory, "-machine", "memory-backend=m"},
	}
	dir := t.TempDir()
	ctx := t.Context()
	cmd := m.command(ctx, t, dir)
	var words bytes.Buffer
	cmd.Stderr = &words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		said, _ := os.ReadFile(filepath.Join(dir, "report"))
		if bytes.Contains(said, []byte(report.End)) {
			break
		}
		if time.Since(began) > limit {
			t.Fatalf("the guest did not come up: %s\n%s", words.String(), tail(text(t, filepath.Join(dir, "console")), 40))
		}
	}
	data, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range creds {
		last := len(c.value) - 32
		for where, at := range map[string]int{"beginning": 0, "middle": last / 2, "end": last} {
			if n := bytes.Count(data, c.value[at:at+32]); n != 1 {
				t.Errorf("the %s of %s is in the guest's memory %d times%s", where, c.name, n, places(data, c.value[at:at+32]))
			}
		}
	}
}

// places lists where in the guest's memory something is.
func places(data, what []byte) string {
	out := ":"
	for at := 0; ; {
		i := bytes.Index(data[at:], what)
		if i < 0 {
			return out
		}
		out += fmt.Sprintf(" %#x", at+i)
		at += i + 1
	}
}

// TestCommandLine: the kernel hands the words that it does not know to init, so
// it can be seen how it splits them. The shim's own parser agrees.
func TestCommandLine(t *testing.T) {
	need.All(t, need.VMAll)
	const line = `zza="b c" "zzd=e f" zzg"h i"j =k zzl==m zzn="" zzo=" p" "zzq" zzr"" zzs="t"u zzv='w x' ` +
		`"zz y" zz"a =b" zzz="q" zzc=` + "1\xa02" + ` zz,+%~ "--x" `
	r, _ := machine{initrd: append(overlay(few, ""), base()...), words: line + `-- behind "be hind"`}.reported(t)
	var args, env []string
	for _, w := range cmdline.Split(line) {
		if w.Assigned {
			env = append(env, w.Name+"="+w.Value)
		} else {
			args = append(args, w.Name)
		}
	}
	if want := slices.Concat([]string{"/init"}, args, []string{"behind", "be hind"}); !slices.Equal(r.Args, want) {
		t.Errorf("the kernel has %q\nthe shim       %q", r.Args, want)
	}
	if got := slices.DeleteFunc(slices.Clone(r.Env), func(s string) bool { return !strings.HasPrefix(s, "zz") }); !slices.Equal(got, env) {
		t.Errorf("the kernel has %q\nthe shim       %q", got, env)
	}
	if len(args) < 8 || len(env) < 8 {
		t.Errorf("too little to compare: %q %q", args, env)
	}
}
