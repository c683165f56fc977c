// Package drivertest is the contract that every driver keeps. A driver's test
// is one call of [Run]. It is for tests alone.
package drivertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// Case is a .microvm file for a driver.
type Case struct {
	Name string
	// Lines are those of [MicroVM] beside Kernel=.
	Lines []string
	// Refused is part of the error that the driver must give; empty: it must
	// take the file.
	Refused string
	// Feature is the refused feature that the case stands for.
	Feature string
}

// Secret stands in the credentials of every case and must be nowhere in what a
// driver makes of them: a driver sees names, never values.
const Secret = "drivertest-secret-0123456789"

// Run checks a driver.
func Run(t *testing.T, d driver.Driver, cases []Case) {
	t.Run("features", func(t *testing.T) { testFeatures(t, d, cases) })
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { t.Parallel(); testCase(t, d, c) })
	}
	t.Run("stateless", func(t *testing.T) { testStateless(t, d, cases) })
	t.Run("probe", func(t *testing.T) {
		args, read := d.Probe()
		if len(args) == 0 {
			t.Error("no arguments ask for the version")
		}
		for _, junk := range []string{"", "\n", "version", strings.Repeat("x", 1<<16), "\x00\xff"} {
			if _, _, err := read(junk); err == nil {
				t.Errorf("%.20q is taken for a version", junk)
			}
		}
		for _, junk := range []string{"", ":", ": -", "a: -b", strings.Repeat(": -", 1000), "\xff: -x: y"} {
			for _, code := range []int{-1, 0, 1, 255} {
				d.Ended(code, junk) // must not panic
			}
		}
	})
}

func testFeatures(t *testing.T, d driver.Driver, cases []Case) {
	declared := map[string]driver.Feature{}
	for _, f := range d.Features() {
		if _, twice := declared[f.Name]; twice {
			t.Errorf("%s is declared twice", f.Name)
		}
		declared[f.Name] = f
	}
	for _, name := range driver.FeatureNames() {
		if _, ok := declared[name]; !ok {
			t.Errorf("%s is not declared: yes, or no with the reason", name)
		}
	}
	for name, f := range declared {
		if f.Refusal == "" {
			continue
		}
		if !strings.Contains(f.Refusal, " ") {
			t.Errorf("%s: the refusal %q is not a sentence", name, f.Refusal)
		}
		found := f.Unasked
		for _, c := range cases {
			found = found || c.Feature == name && c.Refused != ""
		}
		if !found {
			t.Errorf("%s is refused and no case shows how", name)
		}
	}
}

// Read makes a VM from the lines of a case.
func Read(t testing.TB, d driver.Driver, lines []string) (*spec.VM, error) {
	t.Helper()
	text := "[MicroVM]\nKernel=/boot/vmlinuz\nSetCredential=PLAIN:public\nLoadCredential=KEY:/run/" + Secret + "\n" + strings.Join(lines, "\n") + "\n"
	id := spec.Identity{Name: "contract", Fragment: "/etc/ampoule/contract.microvm", Architecture: "x86-64", Paths: spec.SystemPaths}
	resolved, twice := layer.Resolve([]*unitfile.File{unitfile.Parse(id.Fragment, "main", []byte(text))}, spec.Rules(id))
	vm, problems := spec.Read(spec.Context{Identity: id, Hypervisors: []string{d.Name()}}, resolved)
	return vm, append(problems, twice...).Err()
}

func compose(t testing.TB, d driver.Driver, c Case) (plan.VM, error) {
	t.Helper()
	vm, err := Read(t, d, c.Lines)
	if err != nil {
		return plan.VM{}, err
	}
	part, problems := d.Compose(vm, "x86-64")
	return part, problems.Err()
}

func testCase(t *testing.T, d driver.Driver, c Case) {
	part, err := compose(t, d, c)
	if c.Refused != "" {
		if err == nil || !strings.Contains(err.Error(), c.Refused) {
			t.Fatalf("want a refusal with %q, got: %v", c.Refused, err)
		}
		if !strings.HasPrefix(err.Error(), "/etc/ampoule/contract.microvm:") {
			t.Errorf("the refusal names no line: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	checkPart(t, part)
	text, err := json.Marshal(part)
	if err != nil {
		t.Fatal(err)
	}
	var again plan.VM
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if b, _ := json.Marshal(again); !bytes.Equal(b, text) {
		t.Error("the plan is not plain data: it changes over JSON")
	}
	if bytes.Contains(text, []byte(Secret)) {
		t.Error("the source of a credential is in the hypervisor's part of the plan")
	}
}

// checkPart looks for what run could not carry out, and for ways of a secret into
// what others can see. That a plan with this part is one that run takes is for
// package pipeline's tests, which have whole plans.
func checkPart(t *testing.T, part plan.VM) {
	t.Helper()
	if part.Binary.Path == "" && len(part.Binary.Search) == 0 {
		t.Error("no binary")
	}
	if part.Control == "" || len(part.Accelerator) == 0 {
		t.Error("no control protocol, or no accelerator")
	}
	asked := map[plan.Question]int{}
	for _, p := range part.Command {
		asked[p.Ask]++
		if words := strings.Join(p.Words, " "); p.Ask == "" && (strings.Contains(words, "{fd}") || strings.Contains(words, "{path}")) {
			t.Errorf("a literal part waits for a descriptor: %v", p.Words)
		}
	}
	if part.API != nil {
		checkAPI(t, part.API, asked)
	}
	for _, q := range []plan.Question{plan.AskAccelerator, plan.AskChannel, plan.AskCommandLine, plan.AskControl, plan.AskInitrd} {
		if asked[q] != 1 {
			t.Errorf("the question %s is asked %d times", q, asked[q])
		}
	}
	for _, c := range part.Channels {
		checkChannel(t, part, c)
	}
}

// checkAPI: what the credentials travel in is the body of a request that starts the
// guest, and never the line of one, which hypervisors log.
func checkAPI(t *testing.T, api *plan.API, asked map[plan.Question]int) {
	t.Helper()
	requests := append([]plan.Request{api.Alive}, api.Start...)
	if api.Power != nil {
		requests = append(requests, *api.Power)
	}
	for i, r := range requests {
		if strings.ContainsAny(r.Path, "{}%") {
			t.Errorf("something is filled into the path of a request: %s", r.Path)
		}
		for _, f := range r.Body {
			asked[f.Ask]++
			if start := i > 0 && i <= len(api.Start); f.Ask != "" && !start {
				t.Errorf("%s %s asks for %s and starts nothing", r.Method, r.Path, f.Ask)
			}
		}
		chunks, err := r.Render(func(plan.Question) (plan.Answer, error) { return plan.Answer{Hole: true}, nil })
		if err != nil {
			t.Error(err)
		}
		for _, c := range chunks {
			if bytes.Contains(c.JSON, []byte(Secret)) {
				t.Errorf("%s %s has the source of a credential in it", r.Method, r.Path)
			}
		}
	}
}

func checkChannel(t *testing.T, part plan.VM, c plan.Channel) {
	t.Helper()
	each := strings.Join(c.Each, " ")
	byFile := c.Encoding == plan.SMBIOS || c.Encoding == plan.Raw
	if byFile != strings.Contains(each, "{fd}") {
		t.Errorf("channel %s: a value would not travel by descriptor: %s", c.Name, each)
	}
	if strings.Contains(each, "{value}") || strings.Contains(each, "/tmp") {
		t.Errorf("channel %s: %s", c.Name, each)
	}
	switch c.Encoding {
	case plan.SMBIOS, plan.Raw:
	case plan.OEMStrings:
		if part.API == nil || c.MaxStructure == 0 || c.MaxCount == 0 {
			t.Errorf("channel %s: no request to travel in, or no limits", c.Name)
		}
	case plan.CPIO:
		if len(c.CommandLine) == 0 || len(c.Each) > 0 {
			t.Errorf("channel %s: the kernel is not told what delivers, or words wait for single values", c.Name)
		}
	default:
		t.Errorf("channel %s: unknown encoding %q", c.Name, c.Encoding)
	}
}

// testStateless composes all cases side by side, each many times, and expects
// the same as one by one.
func testStateless(t *testing.T, d driver.Driver, cases []Case) {
	want := make([]string, len(cases))
	for i, c := range cases {
		want[i] = outcome(t, d, c)
	}
	var wg sync.WaitGroup
	for range 20 {
		for i, c := range cases {
			wg.Go(func() {
				if outcome(t, d, c) != want[i] {
					t.Errorf("%s differs when others are composed at the same time", c.Name)
				}
			})
		}
	}
	wg.Wait()
}

// outcome is a part, or the refusal, as text.
func outcome(t testing.TB, d driver.Driver, c Case) string {
	part, err := compose(t, d, c)
	text, _ := json.Marshal(part)
	return fmt.Sprintf("%s %v", text, err)
}
