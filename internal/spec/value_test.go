package spec

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1": 1, "512M": 512 << 20, "1G": 1 << 30, "1.5G": 3 << 29, "2T": 2 << 40, "10K": 10240, "7B": 7,
		"1 G": 1 << 30, "0.5K": 512, "7E": 7 << 60,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "M", "-1", "1MB", "1m", "1.G", ".5G", "1e9", "0x10", "9E", "99999999999999999999", "1.0000001K", "1,5G", "٣M", "1 2M", "infinity", "50%"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestParseMachineID(t *testing.T) {
	const want = "0123456789abcdef0123456789abcdef"
	for _, in := range []string{want, strings.ToUpper(want), "01234567-89ab-cdef-0123-456789abcdef"} {
		if got, err := ParseMachineID(in); err != nil || got != want {
			t.Errorf("ParseMachineID(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0", strings.Repeat("0", 32), want[:31], want + "0", "0123456-789ab-cdef-0123-456789abcdef", strings.Repeat("g", 32)} {
		if _, err := ParseMachineID(in); err == nil {
			t.Errorf("ParseMachineID(%q): want an error", in)
		}
	}
}

func TestParseDisk(t *testing.T) {
	for in, want := range map[string]Disk{
		"/a":                              {Path: "/a", Format: "raw"},
		"a.img":                           {Path: "a.img", Format: "raw"},
		"sub/a.img:qcow2":                 {Path: "sub/a.img", Format: "qcow2"},
		"/a:ro,serial=x1":                 {Path: "/a", Format: "raw", ReadOnly: true, Serial: "x1"},
		"a:raw,size=4G":                   {Path: "a", Format: "raw", Size: 4 << 30},
		`/dev/disk/by-path/pci-0\:1-a:ro`: {Path: "/dev/disk/by-path/pci-0:1-a", Format: "raw", ReadOnly: true},
		"//a//b/":                         {Path: "/a/b", Format: "raw"},
	} {
		if got, err := ParseDisk(in); err != nil || got != want {
			t.Errorf("ParseDisk(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                                     "path is empty",
		":ro":                                  "path is empty",
		"/":                                    "a directory",
		"../x":                                 "..",
		"/a:":                                  "an option is empty",
		"/a:rw":                                `unknown option "rw"`,
		"/a:ro,ro":                             "stands twice",
		"/a:raw,qcow2":                         "stands twice",
		"/a:serial=":                           "1 to 20 bytes",
		"/a:serial=a b":                        "letters",
		"/a:size=4G":                           "state directory only",
		"a:size=4G,ro":                         "stays empty",
		"a:size=100":                           "at least 1M",
		"a:size=x":                             "not a size",
		"/dev/pci-0000:1:raw":                  "unknown option",
		"/a:serial=" + strings.Repeat("s", 21): "1 to 20 bytes",
	} {
		if got, err := ParseDisk(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseDisk(%q) = %+v, %v; want an error with %q", in, got, err, want)
		}
	}
}

func TestParseTimeSpan(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"90": 90 * time.Second, "1min 30s": 90 * time.Second, "500ms": 500 * time.Millisecond, "1.5h": 90 * time.Minute,
		"infinity": 0, "0": 0, "2min": 2 * time.Minute, "1h1m": 61 * time.Minute, " 5 s ": 5 * time.Second,
	} {
		if got, err := ParseTimeSpan(in); err != nil || got != want {
			t.Errorf("ParseTimeSpan(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "banana", "5 parsecs", "-1", "s", "1..2", "99999999999999999h"} {
		if got, err := ParseTimeSpan(in); err == nil {
			t.Errorf("ParseTimeSpan(%q) = %v, want an error", in, got)
		}
	}
}

func TestExpand(t *testing.T) {
	id := Identity{Name: "web-1", Fragment: "/etc/ampoule/web-1.microvm", Architecture: "x86-64", Paths: SystemPaths}
	for in, want := range map[string]string{
		"plain": "plain", "%i": "web-1", "%n": "microvm@web-1.service", "%N": "microvm@web-1", "%I": "web/1", "%f": "/web/1",
		"100%%": "100%", "%S/x": "/var/lib/x", "%t": "/run", "%d/k": "/run/credentials/microvm@web-1.service/k",
		"%Y": "/etc/ampoule", "%y": "/etc/ampoule/web-1.microvm", "%a": "x86-64", "%%i": "%i", "%p%P": "microvmmicrovm",
	} {
		if got, err := id.Expand(in); err != nil || got != want {
			t.Errorf("Expand(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"%": "single %", "a%": "single %", "%H": "depends on the host", "%u": "names a user", "%Z": "is not a specifier", "%\x01": `%\x01`,
	} {
		if got, err := id.Expand(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Expand(%q) = %q, %v; want an error with %q", in, got, err, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, ok := range []string{"a", "web-1", "A.b_c", strings.Repeat("x", 48)} {
		if err := CheckName(ok); err != nil {
			t.Errorf("CheckName(%q): %v", ok, err)
		}
	}
	for _, bad := range []string{"", ".hidden", "-x", "a@b", "a b", "a/b", "ä", strings.Repeat("x", 49)} {
		if CheckName(bad) == nil {
			t.Errorf("CheckName(%q): want an error", bad)
		}
	}
}

// The fuzz targets, one for each type of value: no panic, and what is accepted
// keeps the promises of its type.

func FuzzSize(f *testing.F) {
	for _, s := range []string{"512M", "1.5G", "9E", "", "0B", "1 K"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("%q is negative: %d", s, n)
		}
		if again, err := ParseSize(FormatSize(n)); err != nil || again != n {
			t.Fatalf("%q is %d, written %q, which is %d, %v", s, n, FormatSize(n), again, err)
		}
	})
}

func FuzzInt(f *testing.F) {
	f.Add("1")
	f.Add("007")
	f.Add("99999999999999999999999")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseInt(s, 1, 4096); err == nil && (n < 1 || n > 4096) {
			t.Fatalf("%q is %d", s, n)
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add("/a/../b")
	f.Add("//x//")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseAbsolutePath(s)
		if err != nil {
			return
		}
		if !strings.HasPrefix(p, "/") || strings.Contains(p, "//") || len(p) > MaxPath {
			t.Fatalf("%q became %q", s, p)
		}
		if again, err := ParseAbsolutePath(p); err != nil || again != p {
			t.Fatalf("%q became %q and then %q, %v", s, p, again, err)
		}
	})
}

func FuzzMachineID(f *testing.F) {
	f.Add("0123456789abcdef0123456789abcdef")
	f.Add("01234567-89ab-cdef-0123-456789abcdef")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseMachineID(s); err == nil && !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) {
			t.Fatalf("%q became %q", s, id)
		}
	})
}

func FuzzDisk(f *testing.F) {
	f.Add("/a:ro,serial=x")
	f.Add(`a\:b:raw,size=4G`)
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDisk(s)
		if err != nil {
			return
		}
		if d.Path == "" || strings.Contains("/"+d.Path+"/", "/../") || d.Size < 0 || d.Size > 0 && (!d.Relative() || d.ReadOnly) {
			t.Fatalf("%q became %+v", s, d)
		}
	})
}

func FuzzReadiness(f *testing.F) {
	f.Add("auto")
	f.Add("console:^login:")
	f.Add("console:(")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReadiness(s)
		if err != nil {
			return
		}
		if r.Mode == "console" {
			regexp.MustCompile(r.Pattern)
		}
		if again, err := ParseReadiness(r.String()); err != nil || again != r {
			t.Fatalf("%q became %+v and then %+v, %v", s, r, again, err)
		}
	})
}

func FuzzTimeSpan(f *testing.F) {
	f.Add("1min 30s")
	f.Add("infinity")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseTimeSpan(s); err == nil && d < 0 {
			t.Fatalf("%q is %v", s, d)
		}
	})
}

func FuzzExpand(f *testing.F) {
	f.Add("%i-%%-%Y")
	id := Identity{Name: "n", Fragment: "/f/n.microvm", Architecture: "x86-64", Paths: SystemPaths}
	f.Fuzz(func(t *testing.T, s string) {
		out, err := id.Expand(s)
		if err == nil && !strings.Contains(s, "%") && out != s {
			t.Fatalf("%q became %q", s, out)
		}
		if escaped, err := id.Expand(strings.ReplaceAll(s, "%", "%%")); err != nil || escaped != s {
			t.Fatalf("%q, escaped, became %q, %v", s, escaped, err)
		}
	})
}

func FuzzCredential(f *testing.F) {
	for _, kind := range []CredentialKind{Load, LoadEncrypted, Set, SetEncrypted, Import, Pass} {
		f.Add(string(kind), "ID:/path")
		f.Add(string(kind), "a*:b")
		f.Add(string(kind), `x:\x00\q`)
	}
	f.Fuzz(func(t *testing.T, kind, s string) {
		r := &reader{Context: Context{Identity: Identity{Name: "n", Paths: SystemPaths}}, vm: &VM{}}
		var c Credential
		var err error
		switch CredentialKind(kind) {
		case Load, LoadEncrypted:
			c, err = r.parseLoad(Load, s)
		case Set, SetEncrypted:
			c, err = r.parseSet(CredentialKind(kind), s)
		case Import:
			c, err = r.parseImport(s)
		case Pass:
			if err = passCredential(r, s, From{}); err == nil {
				c = r.vm.Credentials[0]
			}
		default:
			return
		}
		if err != nil {
			return
		}
		if c.Kind != Import && (checkCredentialName(c.ID) != nil || checkCredentialName(c.Guest) != nil) {
			t.Fatalf("%s=%q became %+v", kind, s, c)
		}
		// What is shown of a line never holds the value of a set credential.
		if c.Kind == Set && len(c.Value) > 3 && strings.Contains(elideID(s), string(c.Value)) && !strings.Contains(c.ID, string(c.Value)) {
			t.Fatalf("%q is shown as %q", s, elideID(s))
		}
	})
}

// FuzzWords: the words of a command line.
func FuzzWords(f *testing.F) {
	f.Add(`a "b c" 'd' \x41`)
	f.Fuzz(func(t *testing.T, s string) {
		r := &reader{Context: Context{Identity: Identity{Name: "n", Paths: SystemPaths}}, vm: &VM{}}
		if err := setWords(func(vm *VM) *[]Word { return &vm.KernelCommandLine })(r, s, From{}); err != nil {
			return
		}
		for _, w := range r.vm.KernelCommandLine {
			if strings.ContainsRune(w.Text, 0) {
				t.Fatalf("%q has a NUL", s)
			}
		}
		_ = fmt.Sprint(JoinCommandLine([]string{s}))
	})
}

func TestParseCID(t *testing.T) {
	for in, want := range map[string]int64{"auto": AnyCID, "3": 3, "77": 77, "4294967294": 1<<32 - 2} {
		if got, err := parseCID(in); got != want || err != nil {
			t.Errorf("%s: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0", "1", "2", "-3", "+3", "4294967295", "4294967299", "3.0", "0x3", "any", "auto ", "18446744073709551619"} {
		if got, err := parseCID(in); err == nil {
			t.Errorf("%q is taken for %d", in, got)
		}
	}
}
