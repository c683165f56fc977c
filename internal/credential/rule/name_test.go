package rule

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

func TestName(t *testing.T) {
	for name, want := range map[string]string{
		"a": "", "API_KEY": "", "ssh.authorized_keys.root": "", ".hidden": "", "...": "", "a b": "", "a=b,c*?[]%$~": "",
		"-x": "", "@": "", strings.Repeat("x", 255): "",
		"":                       "the name is empty",
		strings.Repeat("x", 256): "the name has 256 bytes, at most 255 are possible",
		".":                      "the name is that of a directory",
		"..":                     "the name is that of a directory",
		"a/b":                    "the name contains '/'",
		"a:b":                    "the name contains ':'",
		"a\nb":                   "the name contains byte 0x0a",
		"a\x00":                  "the name contains byte 0x00",
		"a\x7f":                  "the name contains byte 0x7f",
		"ü":                      "the name contains byte 0xc3",
	} {
		got := ""
		if err := Name(name); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if !Reserved("ampoule.plan") || Reserved("ampoule") || Reserved("x.ampoule.") {
		t.Error("reserved names are others")
	}
}

// The names that are taken here are those that systemd takes.
func TestNameAgreesWithSystemd(t *testing.T) {
	need.All(t, need.Systemd)
	secret := filepath.Join(t.TempDir(), "host.secret")
	for _, name := range []string{
		"a", ".hidden", "...", "a b", "a=b", "*", "~", strings.Repeat("x", 255), "-x", "@system",
		"..", ".", "a/b", "/a", "a:b", "a\nb", "a\x7f", "\x01", "ü", strings.Repeat("x", 256),
	} {
		cmd := exec.Command("systemd-creds", "encrypt", "--with-key=host", "--name="+name, "-", "-")
		cmd.Env = []string{"SYSTEMD_CREDENTIAL_SECRET=" + secret}
		cmd.Stdin = strings.NewReader("value")
		out, err := cmd.CombinedOutput()
		if (err == nil) != (Name(name) == nil) {
			t.Errorf("%q: systemd-creds says %v (%s), this package %v", name, err, strings.TrimSpace(string(out)), Name(name))
		}
	}
}

func TestUnitSafe(t *testing.T) {
	for s, ok := range map[string]bool{
		"": true, "a": true, "/a/b.c": true, "net.*": true, "a=b": true, `a"b'c`: true, "/ta\tb": true,
		"a b": false, " a": false, `a\b`: false, "a\n": false,
	} {
		if err := UnitSafe(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestPath(t *testing.T) {
	for path, ok := range map[string]bool{
		"/a": true, "/a b/c:d": true, "/": true, "//a//": true, "/..a/.b/c..": true, "/" + strings.Repeat("x", 4094): true,
		"": false, "a": false, "./a": false, "/a/../b": false, "/..": false, "/a/./b": false, "/a\x00b": false,
		"/" + strings.Repeat("x", 4095): false,
	} {
		if err := Path(path); (err == nil) != ok {
			t.Errorf("%.40q: %v", path, err)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		glob           string
		match, noMatch []string
	}{
		{"a", []string{"a"}, []string{"", "ab", "A"}},
		{"a*", []string{"a", "ab", "a.b"}, []string{"", "b", "A"}},
		{"*", []string{"a", "a.b"}, []string{".a"}},
		{".a*", []string{".a", ".ab"}, []string{"a", "."}},
		{"a.b.*", []string{"a.b.", "a.b.c"}, []string{"a.b"}},
	} {
		g, err := ParseGlob(c.glob)
		if err != nil || g.String() != c.glob {
			t.Errorf("%q: %v, %v", c.glob, g, err)
		}
		for _, name := range c.match {
			if !g.Match(name) {
				t.Errorf("%q does not cover %q", c.glob, name)
			}
		}
		for _, name := range c.noMatch {
			if g.Match(name) {
				t.Errorf("%q covers %q", c.glob, name)
			}
		}
	}
	for _, bad := range []string{"", "a*b", "**", "a?", "[a]", "a]", "a/b*", "a:*", "..", strings.Repeat("x", 256) + "*", "ü*"} {
		if g, err := ParseGlob(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, g)
		}
	}
}

func TestRename(t *testing.T) {
	for _, c := range []struct{ glob, to, name, want string }{
		{"my.original.cred", "my.renamed.cred", "my.original.cred", "my.renamed.cred"},
		{"my.original.*", "my.renamed.", "my.original.x", "my.renamed.x"},
		{"my.original.*", "my.renamed.", "my.original.", "my.renamed."},
		{"*", "guest.", "x", "guest.x"},
		{"a*", "", "ab", "ab"},
		{"a", "", "a", "a"},
	} {
		g, err := ParseGlob(c.glob)
		if err != nil {
			t.Fatal(err)
		}
		got := g.Rename(c.name, c.to)
		if got != c.want {
			t.Errorf("%s:%s makes %q of %q, want %q", c.glob, c.to, got, c.name, c.want)
		}
		if !g.Renamed(c.to).Match(got) {
			t.Errorf("%s:%s does not cover its own result %q", c.glob, c.to, got)
		}
		if back := g.Original(got, c.to); back != c.name {
			t.Errorf("%s:%s: %q goes back to %q, want %q", c.glob, c.to, got, back, c.name)
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("a*", "b", "abc")
	f.Add("*", "", ".x")
	f.Add("a]", "", "a]")
	f.Fuzz(func(t *testing.T, pattern, to, name string) {
		g, err := ParseGlob(pattern)
		if err != nil {
			return
		}
		if g.String() != pattern {
			t.Errorf("%q comes back as %q", pattern, g)
		}
		if strings.ContainsAny(strings.TrimSuffix(pattern, "*"), "*?[]:/") {
			t.Errorf("%q was taken", pattern)
		}
		// What a pattern means by the shell's rules.
		want, err := filepath.Match(strings.ReplaceAll(pattern, `\`, `\\`), name)
		if err != nil {
			t.Fatalf("%q: %v", pattern, err)
		}
		if strings.Contains(name, "/") {
			return // no name of a file
		}
		if pattern == "*" && strings.HasPrefix(name, ".") {
			want = false
		}
		if got := g.Match(name); got != want {
			t.Errorf("%q covers %q: %v, want %v", pattern, name, got, want)
		}
		if g.Match(name) {
			if back := g.Original(g.Rename(name, to), to); back != name {
				t.Errorf("%q renamed by %q:%q goes back to %q", name, pattern, to, back)
			}
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add("a:b")
	f.Add("..")
	f.Fuzz(func(t *testing.T, name string) {
		printable := len(name) >= 1 && len(name) <= 255 && name != "." && name != ".."
		for _, b := range []byte(name) {
			printable = printable && b >= ' ' && b <= '~' && b != '/' && b != ':'
		}
		err := Name(name)
		if (err == nil) != printable {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && len(name) > 12 && strings.Contains(err.Error(), name) {
			t.Errorf("the error repeats %q", name)
		}
		if _, err := FwCfgKey(name); (err == nil) != (printable && len(name) <= 28) {
			t.Errorf("%q over fw_cfg: %v", name, err)
		}
	})
}
