package plan_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/testkit/microvm"
)

const everything = `[MicroVM]
Kernel=/boot/vmlinuz
Initrd=/boot/initrd
KernelCommandLine=quiet "a=b c"
Disk=data:qcow2,size=1G,serial=s
Disk=/dev/vdb:ro
MachineID=0123456789abcdef0123456789abcdef
Readiness=console:login: $
LoadCredential=A:/run/a
SetCredential=B:<&>
SetCredentialEncrypted=C:czNjcjN0
ImportCredential=d.*
Credential=E:F
Runner=/usr/bin/runner
HypervisorArgs=-msg timestamp=on
[Service]
LoadCredential=F:/run/f
UMask=0077
TimeoutStopSec=infinity
`

func load(t testing.TB, text string) *plan.Plan {
	t.Helper()
	file := filepath.Join(t.TempDir(), "vm.microvm")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	res := pipeline.Load(pipeline.Input{Argument: file, Drivers: all.Drivers(), Architecture: "x86-64"})
	if res.Plan == nil {
		t.Fatal(res.Problems.Error())
	}
	return res.Plan
}

func seeds(t testing.TB) (out [][]byte) {
	t.Helper()
	texts := []string{everything, "[MicroVM]\nKernel=/k\n", "[MicroVM]\nKernel=/k\nMachine=microvm\nConsole=none\nSetCredential=x:y\n"}
	for _, hypervisor := range driver.Names(all.Drivers()) {
		texts = append(texts, microvm.Everything(t, hypervisor), microvm.For(microvm.Bare, hypervisor))
	}
	for _, text := range texts {
		out = append(out, load(t, text).JSON())
	}
	return out
}

// FuzzParse: no plan makes it fall over, and one that is accepted comes back
// the same, byte for byte. The fuzzer cannot guess digests, so that what it
// changes is tried with the right ones too.
func FuzzParse(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
		f.Add(seed[:len(seed)/2])
		f.Add(bytes.ReplaceAll(seed, []byte(`[]`), []byte(`null`)))
		f.Add(bytes.ReplaceAll(seed, []byte(`"raw"`), []byte(`"odd"`)))
		f.Add(bytes.ReplaceAll(seed, []byte(`"at":"/`), []byte(`"at":"/0/`)))
		f.Add(bytes.ReplaceAll(seed, []byte(`"PUT"`), []byte(`"GET"`)))
	}
	for _, text := range []string{"", "{}", `{"schema":1}`, `{"schema":1,"vm":null}`, `{"schema":1}{}`, `[1]`, "\xff", `{"schema":1,"vm":{"name":"\ud800"}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		roundTrip(t, data)
		var p plan.Plan
		if json.Unmarshal(data, &p) == nil {
			p.Seal()
			roundTrip(t, p.JSON())
		}
	})
}

func roundTrip(t *testing.T, data []byte) {
	t.Helper()
	p, err := plan.Parse(data)
	if err != nil {
		if p != nil || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Fatalf("%v, %q", p, err)
		}
		return
	}
	again, err := plan.Parse(p.JSON())
	if err != nil {
		t.Fatalf("what was accepted is refused: %v", err)
	}
	if !bytes.Equal(again.JSON(), p.JSON()) {
		t.Fatal("the plan comes back as another")
	}
}

func TestParse(t *testing.T) {
	for _, seed := range seeds(t) {
		p, err := plan.Parse(seed)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.JSON(), seed) {
			t.Error("the plan comes back as another")
		}
		// Another order of keys and other blanks are the same plan.
		var loose map[string]any
		if err := json.Unmarshal(seed, &loose); err != nil {
			t.Fatal(err)
		}
		pretty, err := json.MarshalIndent(loose, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if p, err = plan.Parse(append(pretty, '\n')); err != nil || !bytes.Equal(p.JSON(), seed) {
			t.Errorf("in another form: %v", err)
		}
	}
	seed := seeds(t)[0]
	for name, tt := range map[string]struct{ data, want string }{
		"empty":          {"", "not a plan; ampoule plan --json prints one"},
		"half":           {string(seed[:len(seed)/2]), "not a plan"},
		"trailing data":  {string(seed) + "{}", "not a plan"},
		"trailing brace": {string(seed) + "}", "not a plan"},
		"no schema":      {"{}", "not a plan"},
		"older":          {`{"schema":0}`, "the plan has schema 0 and this version of Ampoule reads 1; make it anew: run systemctl daemon-reload, or, for a plan in a file, ampoule plan --json"},
		"newer":          {`{"schema":2,"more":[]}`, "the plan has schema 2"},
		"unknown field":  {strings.Replace(string(seed), `"vcpu"`, `"vcpus"`, 1), `the plan is damaged: unknown field "vcpus"`},
		"wrong type":     {strings.Replace(string(seed), `"vcpu":1`, `"vcpu":"s3cr3t"`, 1), "the plan is damaged: its JSON does not have the form of a plan"},
		"overflow":       {strings.Replace(string(seed), `"vcpu":1`, `"vcpu":99999999999999999999`, 1), "the plan is damaged: its JSON does not have the form of a plan"},
		"changed":        {strings.Replace(string(seed), `"vcpu":1`, `"vcpu":2`, 1), "its contents do not have the digests that it names"},
		"changed unit":   {strings.Replace(string(seed), `"UMask"`, `"Umask"`, 1), "its contents do not have the digests that it names"},
		"too large":      {strings.Repeat(" ", plan.MaxBytes+1), "the plan has more than 524288 bytes"},
	} {
		if _, err := plan.Parse([]byte(tt.data)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

// Where it comes from, and what explains it, changes no digest; what reaches
// hypervisor, guest or unit does.
func TestDigests(t *testing.T) {
	base := load(t, everything).Digest
	for name, tt := range map[string]struct {
		old, text string
		vm, unit  bool
	}{
		"comment":    {"[MicroVM]", "# a comment\n[MicroVM]", false, false},
		"default":    {"Kernel=/boot/vmlinuz", "Kernel=/boot/vmlinuz\nVCPU=1", false, false},
		"memory":     {"Kernel=/boot/vmlinuz", "Kernel=/boot/vmlinuz\nMemory=1G", true, false},
		"credential": {"B:<&>", "B:<&", true, false},
		"service":    {"UMask=0077", "UMask=0027", false, true},
	} {
		got := load(t, strings.Replace(everything, tt.old, tt.text, 1)).Digest
		if (got.VM != base.VM) != tt.vm || (got.Unit != base.Unit) != tt.unit {
			t.Errorf("%s: the digests changed: %v, %v", name, got.VM != base.VM, got.Unit != base.Unit)
		}
	}
}

// A plan with true digests that Ampoule never makes is refused by name.
func TestForeignPlans(t *testing.T) {
	for want, change := range map[string]func(*plan.VM){
		"vm.name":                       func(vm *plan.VM) { vm.Name = "../../etc" },
		"vm.vcpu: -1":                   func(vm *plan.VM) { vm.VCPU = -1 },
		"vm.vcpu: 0":                    func(vm *plan.VM) { vm.VCPU = 0 },
		"vm.memory":                     func(vm *plan.VM) { vm.Memory = math.MaxInt64 },
		"vm.kernel_command_line_max":    func(vm *plan.VM) { vm.CommandLineMax = -1 },
		"vm.stop_timeout_ms":            func(vm *plan.VM) { vm.StopTimeout = math.MaxInt64 },
		"vm.kernel: ":                   func(vm *plan.VM) { vm.Kernel = "vmlinuz" },
		"vm.initrd: ":                   func(vm *plan.VM) { vm.Initrd = "/a\x00b" },
		"vm.runner: ":                   func(vm *plan.VM) { vm.Runner = "sh" },
		"vm.binary.path: ":              func(vm *plan.VM) { vm.Binary.Path = "./qemu" },
		"vm.disks[0]: the path leads":   func(vm *plan.VM) { vm.Disks[0].Path = "../x" },
		"vm.disks[0]: not a path":       func(vm *plan.VM) { vm.Disks[0].Path = "" },
		"vm.disks[0]: the format":       func(vm *plan.VM) { vm.Disks[0].Format = "vmdk" },
		"vm.disks[0]: a disk cannot":    func(vm *plan.VM) { vm.Disks[0].Size = -1 },
		"vm.disks[1]: disks are":        func(vm *plan.VM) { vm.Disks[1].Size = 1 << 20 },
		"vm.readiness: the pattern":     func(vm *plan.VM) { vm.Readiness.Pattern = "(" },
		"vm.readiness: it waits":        func(vm *plan.VM) { vm.Console = false },
		"vm.readiness: this version":    func(vm *plan.VM) { vm.Readiness.Mode = "weather" },
		"it waits for the guest's word": func(vm *plan.VM) { vm.Readiness.Mode = "guest" },
		"is not the number of a guest":  func(vm *plan.VM) { vm.VSock = &plan.VSock{CID: 2} },
		`the part for "vsock" is`:       func(vm *plan.VM) { vm.VSock = &plan.VSock{} },
		"have no {cid}": func(vm *plan.VM) {
			vm.VSock = &plan.VSock{}
			vm.Command = append(vm.Command, plan.Part{Ask: plan.AskVSock, Words: []string{"{path}{fd}"}})
		},
		"have no {path}": func(vm *plan.VM) {
			vm.VSock = &plan.VSock{Multiplexed: true}
			vm.Command = append(vm.Command, plan.Part{Ask: plan.AskVSock, Words: []string{"{cid}{fd}"}})
		},
		"vm.control":                    func(vm *plan.VM) { vm.Control = "rpc" },
		"vm.api: requests go over http": func(vm *plan.VM) { vm.Control = plan.HTTP },
		`vm.command: the part for "a`:   func(vm *plan.VM) { vm.Command, vm.Console, vm.Readiness = nil, false, plan.Readiness{Mode: "started"} },
		`vm.command: the part for "ch`:  func(vm *plan.VM) { vm.Command = without(vm.Command, plan.AskChannel) },
		`the part for the console is`:   func(vm *plan.VM) { vm.Command = without(vm.Command, plan.AskConsole) },
		`the part for "control" is`:     func(vm *plan.VM) { vm.Command = append(vm.Command, vm.Command[part(vm, plan.AskControl)]) },
		"a question that":               func(vm *plan.VM) { vm.Command[0].Ask = "weather" },
		"have no {fd}":                  func(vm *plan.VM) { vm.Command[part(vm, plan.AskConsole)].Words = nil },
		"vm.command[0]: a word with":    func(vm *plan.VM) { vm.Command[0].Words = []string{"\x00"} },
		"vm.kernel_command_line: a":     func(vm *plan.VM) { vm.KernelCommandLine = []string{"\x00"} },
		"vm.accelerator[0]: a word":     func(vm *plan.VM) { vm.Accelerator[0].Words = []string{"\x00"} },
		"vm.channels: there are":        func(vm *plan.VM) { vm.Channels = nil },
		"vm.channels[0]: a limit":       func(vm *plan.VM) { vm.Channels[0].MaxTotal = -1 },
		"each have no {fd}":             func(vm *plan.VM) { vm.Channels[0].Each = nil },
		"each have no {name}":           func(vm *plan.VM) { vm.Channels[1].Each = []string{"{fd}"} },
		"vm.channels[0]: structures":    func(vm *plan.VM) { vm.Channels[0].MaxStructure = 1 << 20 },
		"vm.channels[1]: an encoding":   func(vm *plan.VM) { vm.Channels[1].Encoding = "gzip" },
	} {
		p := load(t, everything)
		change(&p.VM)
		p.Seal()
		_, err := plan.Parse(p.JSON())
		if err == nil || !strings.HasPrefix(err.Error(), "the plan cannot be carried out: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// The same of plans with requests, of every hypervisor that has some.
func TestForeignAPIPlans(t *testing.T) {
	for _, hypervisor := range driver.Names(all.Drivers()) {
		text := microvm.Everything(t, hypervisor)
		if load(t, text).VM.API == nil {
			continue
		}
		for want, change := range map[string]func(*plan.VM){
			"vm.api: requests go over http":      func(vm *plan.VM) { vm.API = nil },
			"vm.api: requests go over http, ":    func(vm *plan.VM) { vm.Control = plan.QMP },
			"vm.api.start: nothing starts":       func(vm *plan.VM) { vm.API.Start = nil },
			"the method is none of":              func(vm *plan.VM) { vm.API.Start[0].Method = "CONNECT" },
			"not the path of a request":          func(vm *plan.VM) { vm.API.Alive.Path = "http://elsewhere/" },
			"a question that this version":       func(vm *plan.VM) { vm.API.Start[0].Body[0] = plan.AskAt("/x", "weather", "") },
			"not a JSON pointer to a member":     func(vm *plan.VM) { vm.API.Start[0].Body[0].At = "x" },
			"it has a value already":             func(vm *plan.VM) { vm.API.Start[0].Body[1].At = vm.API.Start[0].Body[0].At },
			"not a whole number":                 func(vm *plan.VM) { vm.API.Start[0].Body[0].Value = "many" },
			"vm.api.halted: the pattern":         func(vm *plan.VM) { vm.API.Halted = "[" },
			"vm.api.events: a meaning":           func(vm *plan.VM) { vm.API.Events = []plan.Event{{}} },
			`the part for "initrd" is there 0`:   func(vm *plan.VM) { unask(vm, plan.AskInitrd) },
			`the part for "channel" is there 0`:  func(vm *plan.VM) { unask(vm, plan.AskChannel) },
			`the part for "kernel-command-line"`: func(vm *plan.VM) { unask(vm, plan.AskCommandLine) },
			`the part for "vsock" is there 0`:    func(vm *plan.VM) { unask(vm, plan.AskVSock) },
			`the part for "control" is there 0`:  func(vm *plan.VM) { unask(vm, plan.AskControl) },
			`the part for "initrd" is there 2`: func(vm *plan.VM) {
				vm.API.Start[1].Body = append(vm.API.Start[1].Body, plan.AskAt("/twice", plan.AskInitrd, ""))
			},
			"the part for the console is there 0": func(vm *plan.VM) { unask(vm, plan.AskStdio) },
			"the part for the console is there 2": func(vm *plan.VM) { vm.Command = append(vm.Command, plan.Part{Ask: plan.AskStdio}) },
			"words where none belong":             func(vm *plan.VM) { vm.Command[part(vm, plan.AskStdio)].Words = []string{"x"} },
			"have no {fd} in them":                func(vm *plan.VM) { vm.Command[part(vm, plan.AskControl)].Words = []string{"x"} },
			"have no {path} in them": func(vm *plan.VM) {
				vm.Command = append(vm.Command, plan.Part{Ask: plan.AskVSock, Words: []string{"{fd}"}})
			},
			"is not the number of a guest":  func(vm *plan.VM) { vm.VSock.CID = math.MaxUint32 },
			"it waits for the guest's word": func(vm *plan.VM) { vm.VSock, vm.Readiness = nil, plan.Readiness{Mode: "guest"} },
			"go into the body of a request": func(vm *plan.VM) {
				vm.Channels = []plan.Channel{{Name: "x", Encoding: plan.OEMStrings, Each: []string{"{fd}"}}}
			},
			"structures of SMBIOS have limits": func(vm *plan.VM) {
				ask(vm, plan.AskChannel)
				vm.Channels = []plan.Channel{{Name: "x", Encoding: plan.OEMStrings, MaxCount: 1}}
			},
		} {
			p := load(t, text)
			change(&p.VM)
			p.Seal()
			_, err := plan.Parse(p.JSON())
			if err == nil || !strings.HasPrefix(err.Error(), "the plan cannot be carried out: ") || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %s: %v", hypervisor, want, err)
			}
		}
	}
}

// unask takes a question out of a plan.
func unask(vm *plan.VM, q plan.Question) {
	vm.Command = without(vm.Command, q)
	for i := range vm.API.Start {
		r := &vm.API.Start[i]
		r.Body = slices.DeleteFunc(r.Body, func(f plan.Field) bool { return f.Ask == q })
	}
}

// ask has a request ask what the command line asked.
func ask(vm *plan.VM, q plan.Question) {
	unask(vm, q)
	vm.API.Start[0].Body = append(vm.API.Start[0].Body, plan.AskAt("/asked", q, ""))
}

// TestDigestsOfRequests: what is asked is in the digest of the VM, and where it
// comes from is not; nor is what only concerns the host.
func TestDigestsOfRequests(t *testing.T) {
	for _, hypervisor := range driver.Names(all.Drivers()) {
		text := microvm.Everything(t, hypervisor)
		if load(t, text).VM.API == nil {
			continue
		}
		for name, c := range map[string]struct {
			change  func(*plan.VM)
			changes bool
		}{
			"from":         {func(vm *plan.VM) { vm.API.Start[0].Body[0].From = "Memory" }, false},
			"formats":      {func(vm *plan.VM) { vm.KernelFormats = nil }, false},
			"system calls": {func(vm *plan.VM) { vm.SystemCalls = append(vm.SystemCalls, "bpf") }, false},
			"value":        {func(vm *plan.VM) { vm.API.Start[0].Body[0].Value = "9" }, true},
			"place":        {func(vm *plan.VM) { vm.API.Start[0].Body[0].At = "/x" }, true},
			"path":         {func(vm *plan.VM) { vm.API.Start[0].Path = "/x" }, true},
			"sign of life": {func(vm *plan.VM) { vm.API.Alive.Path = "/x" }, true},
			"power":        {func(vm *plan.VM) { vm.API.Power = nil }, true},
			"oldest":       {func(vm *plan.VM) { vm.API.Oldest = "0" }, true},
			"vsock":        {func(vm *plan.VM) { vm.VSock.CID++ }, true},
			"multiplexed":  {func(vm *plan.VM) { vm.VSock.Multiplexed = false }, true},
			"kind of event": {func(vm *plan.VM) {
				vm.API.Events = append(vm.API.Events, plan.Event{Source: "a", Means: plan.Panicked})
			}, true},
		} {
			p := load(t, text)
			before := p.Digest
			c.change(&p.VM)
			if p.Seal(); (p.Digest != before) != c.changes {
				t.Errorf("%s: %s: the digest changed: %v", hypervisor, name, p.Digest != before)
			}
		}
	}
}

func part(vm *plan.VM, q plan.Question) int {
	for i, p := range vm.Command {
		if p.Ask == q {
			return i
		}
	}
	return -1
}

func without(parts []plan.Part, q plan.Question) (out []plan.Part) {
	for _, p := range parts {
		if p.Ask != q {
			out = append(out, p)
		}
	}
	return out
}

func TestOrigin(t *testing.T) {
	p := load(t, everything)
	if o := p.Origin("Kernel"); o.Line != 2 {
		t.Errorf("Kernel= is at %v", o)
	}
	if o := p.Origin("VCPU"); o.Line != 1 || o.File == "" {
		t.Errorf("a default is at %v, not at the VM", o)
	}
}

func TestKernelWords(t *testing.T) {
	c := plan.Channel{CommandLine: []string{"rdinit=/ours"}, Replaces: []string{"rdinit"}}
	for in, want := range map[string]string{
		"":                                  "rdinit=/ours",
		"quiet -- rdinit=/a":                "rdinit=/ours quiet -- rdinit=/a",
		"a rdinit=/b c":                     "a rdinit=/ours c",
		"rdinit=/a b rdinit=/c d -- rdinit": "b rdinit=/ours d -- rdinit",
		"rdinits=/a":                        "rdinit=/ours rdinits=/a",
	} {
		if got := strings.Join(c.KernelWords(strings.Fields(in)), " "); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	none := plan.Channel{}
	if got := none.KernelWords([]string{"a", "rdinit=/b"}); len(got) != 2 {
		t.Errorf("%q", got)
	}
}
