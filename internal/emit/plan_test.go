package emit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
)

func load(t *testing.T, text string) pipeline.Result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vm.microvm")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	res := pipeline.Load(pipeline.Input{Argument: file, Drivers: all.Drivers(), Architecture: "x86-64"})
	if res.Plan == nil {
		t.Fatal(res.Problems.Error())
	}
	return res
}

func show(t *testing.T, lines ...string) string {
	t.Helper()
	res := load(t, "[MicroVM]\nKernel=/k\n"+strings.Join(lines, "\n")+"\n")
	var b strings.Builder
	if err := Plan(&b, res.Plan); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), filepath.Dir(res.Source.Fragment)+"/", "")
}

// A value is counted and never shown, also where it is not secret.
func TestNoValue(t *testing.T) {
	const value = "s3cr3t-value"
	got := show(t, "SetCredential=a:"+value, "SetCredentialEncrypted=b:czNjcjN0LXZhbHVl", "LoadCredential=c:/run/c", "Credential=guest:d", "ImportCredential=e.*",
		"[Service]", "SetCredential=d:"+value)
	if strings.Contains(got, value) || strings.Contains(got, "czNjcjN0LXZhbHVl") {
		t.Errorf("a value is shown:\n%s", got)
	}
	for _, want := range []string{
		"  a      set here, 12 bytes, not secret", "  b      set here, encrypted", "  c      from /run/c", "  guest  passed on from [Service], where it is d",
		"  e.*    imported from the host", "vm.microvm:3", "<credentials>",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// What a terminal would obey is shown, not sent.
func TestControlCharacters(t *testing.T) {
	got := show(t, "Readiness=console:\x1b.31m|\u202e", "HypervisorArgs=\"-x\x1by\" 'it'\\''s' ''", "Initrd=/a b")
	if strings.ContainsAny(got, "\x1b\u202e") {
		t.Errorf("%q", got)
	}
	for _, want := range []string{`\x1b.31m|\u202e`, `$'-x\x1by'`, `''`, "-initrd '/a b'"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"": "''", "a=b,c": "a=b,c", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'", "a\\\x01'": `$'a\\\x01\''`, "ü": "'ü'", "{\"a\"}": `'{"a"}'`,
	} {
		if got := quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
