package driver

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// TestCheckArguments: each word that is not taken is told once, and no value of
// one is repeated.
func TestCheckArguments(t *testing.T) {
	known := []Argument{{Name: "--flag"}, {Name: "--log", Value: true}, {Name: "--bad", Value: true, Refused: "it is bad", Use: "use Good="}}
	const accepted = "; accepted: --flag, --log"
	for words, want := range map[string]string{
		"":                            "",
		"--flag --log x --log=y":      "",
		"--log --flag":                "", // as the hypervisor reads it
		"--log":                       "--log: the value of this option is missing" + accepted,
		"--bad hunter2 --flag":        "--bad: it is bad; use Good=",
		"--bad=hunter2":               "--bad=…: it is bad; use Good=",
		"--bad --other":               "--bad: it is bad; use Good=|--other: not that" + accepted,
		"--other hunter2 hunter3":     "--other: not that" + accepted + "|…: a word that is no option" + accepted,
		"hunter2 --flag":              "…: a word that is no option" + accepted,
		"--flag=hunter2 --log a hunt": "…: a word that is no option" + accepted,
	} {
		vm := &spec.VM{}
		for w := range strings.FieldsSeq(words) {
			vm.HypervisorArgs = append(vm.HypervisorArgs, spec.Word{Text: w, From: spec.From{Key: "K"}})
		}
		var problems diag.List
		CheckArguments(vm, known, "not that", &problems)
		var got []string
		for _, p := range problems {
			_, text, _ := strings.Cut(p.Error(), "K=")
			got = append(got, text)
		}
		if text := strings.Join(got, "|"); text != want {
			t.Errorf("%q: %s, want %s", words, text, want)
		}
	}
}

// TestCheckASCII: the word is named by its parameter, and its value is not shown.
func TestCheckASCII(t *testing.T) {
	for word, want := range map[string]string{
		"a=b": "", "~": "", "a b": "", "": "",
		"a=ü":      "KernelCommandLine=a=…: xen takes",
		"hunter\t": "KernelCommandLine=…: xen takes",
		"a\u00a0":  "KernelCommandLine=…: xen takes",
		"a=\x7f":   "KernelCommandLine=a=…: xen takes",
	} {
		vm := &spec.VM{Hypervisor: spec.Setting[string]{Value: "xen"}, KernelCommandLine: []spec.Word{{Text: word, From: spec.From{Key: "KernelCommandLine"}}}}
		var problems diag.List
		CheckASCII(vm, &problems)
		if got := problems.Error(); (len(problems) > 0) != (want != "") || !strings.Contains(got, want) || strings.Contains(got, "hunter") {
			t.Errorf("%q: %s, want %s", word, got, want)
		}
	}
}
