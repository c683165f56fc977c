package emit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/testkit/microvm"
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

// TestEveryAnswer: all that the hypervisor is told is shown, with the lines behind
// it, and nothing is left of how a plan writes what is not known yet.
func TestEveryAnswer(t *testing.T) {
	for _, hypervisor := range driver.Names(all.Drivers()) {
		res := load(t, microvm.Everything(t, hypervisor))
		var b strings.Builder
		if err := Plan(&b, res.Plan); err != nil {
			t.Fatal(err)
		}
		got := b.String()
		if strings.ContainsAny(got, "{}") && res.Plan.VM.API != nil {
			t.Errorf("%s: braces in\n%s", hypervisor, got)
		}
		_, rest, _ := strings.Cut(got, "\nRequests\n")
		if (rest != "") != (res.Plan.VM.API != nil) {
			t.Errorf("%s: the requests:\n%s", hypervisor, rest)
		}
		if res.Plan.VM.API == nil {
			continue
		}
		for _, r := range res.Plan.VM.API.Start {
			head, fields, _ := strings.Cut(rest, "\n")
			if strings.TrimSpace(head) != r.Method+" "+r.Path {
				t.Fatalf("%s: %q, want %s %s", hypervisor, head, r.Method, r.Path)
			}
			if rest = fields; r.Ask != "" {
				var line string
				if line, rest, _ = strings.Cut(rest, "\n"); !strings.HasPrefix(line, "    with it ") || !strings.HasSuffix(line, origin(res.Plan, r.From)) {
					t.Errorf("%s: %q is not what goes with the request", hypervisor, line)
				}
			}
			for _, f := range r.Body {
				if fieldValue(res.Plan.VM, f) == "" {
					continue
				}
				line, others, _ := strings.Cut(rest, "\n")
				if rest = others; !strings.HasPrefix(line, "    "+f.At+" ") || f.From != "" && !strings.HasSuffix(line, origin(res.Plan, f.From)) {
					t.Errorf("%s: %q is not the field %s", hypervisor, line, f.At)
				}
			}
		}
	}
}

// TestFields: what stands in a body as what.
func TestFields(t *testing.T) {
	plain := plan.VM{Kernel: "/a b", Channels: []plan.Channel{{Encoding: plan.OEMStrings}, {Encoding: plan.CPIO}}}
	secrets := plain
	secrets.Credentials = []plan.Credential{{ID: "A"}}
	initrd := secrets
	initrd.Initrd, initrd.Channels = "/i", plain.Channels[1:]
	for _, c := range []struct {
		vm    plan.VM
		field plan.Field
		want  string
	}{
		{plain, plan.TextAt("/a", "b c\x1b", ""), `$'b c\x1b'`},
		{plain, plan.NumberAt("/a", -1, ""), "-1"},
		{plain, plan.TrueAt("/a", ""), "true"},
		{plain, plan.Empty(), ""},
		{plain, plan.Field{At: "/a", Type: plan.Object}, "{}"},
		{plain, plan.AskAt("/a", plan.AskKernel, ""), "<descriptor of '/a b'>"},
		{plain, plan.AskAt("/a", plan.AskInitrd, ""), ""},
		{secrets, plan.AskAt("/a", plan.AskInitrd, ""), "<credentials>"},
		{initrd, plan.AskAt("/a", plan.AskInitrd, ""), "<credentials, then /i>"},
		{secrets, plan.AskAt("/a", plan.AskChannel, ""), "<credentials>"},
		{initrd, plan.AskAt("/a", plan.AskChannel, ""), ""},
		{plain, plan.AskAt("/a", plan.AskCommandLine, ""), "<kernel command line>"},
		{plain, plan.AskAt("/a", plan.AskVSock, ""), "<path>"},
		{plain, plan.AskAt("/a", plan.AskLandlock, ""), "<true where the host's kernel has it>"},
	} {
		if got := fieldValue(c.vm, c.field); got != c.want {
			t.Errorf("%s: %q, want %q", c.field.String(), got, c.want)
		}
	}
}

// TestVSock: whose number it is, who connects it, and what it is waited for.
func TestVSock(t *testing.T) {
	for lines, want := range map[string][]string{
		"VSockCID=auto": {"VSock                a number that is free, connected by the host's kernel  vm.microvm:3", "guest-cid=<number>,vhostfd=<descriptor>"},
		"VSockCID=77\nReadiness=guest": {
			"VSock                77, connected by the host's kernel", "guest-cid=77,", "Ready when           the guest's systemd says so over vsock  vm.microvm:4",
		},
		"VSockCID=auto\nGuestSystemd=257":                    {"Ready when           the guest's systemd says so over vsock                 vm.microvm:3"},
		"Hypervisor=firecracker\nInitrd=/i\nVSockCID=auto":   {"VSock                3, connected by the hypervisor", "/uds_path   <path>"},
		"Hypervisor=cloud-hypervisor\nVSockCID=5\nInitrd=/i": {"VSock                5, connected by the hypervisor", "/vsock/socket"},
		"Hypervisor=firecracker\nConsole=none\nInitrd=/i":    {"Console              none", "  firecracker \\\n    --api-sock <path> \\\n    --level Off\n\nRequests\n"},
	} {
		got := show(t, strings.Split(lines, "\n")...)
		for _, text := range want {
			if !strings.Contains(got, text) {
				t.Errorf("%q: no %q in\n%s", lines, text, got)
			}
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
