package law

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
)

// naming are the files outside a driver's folder that may name it, with the
// reason.
func naming() exceptions {
	return exceptions{
		"internal/driver/all/all.go":         "the ordered list",
		"internal/spec/hypervisor.go":        "the manual states the default and what its machine types are",
		"internal/preflight/disks.go":        "the tool that makes qcow2 disks, for whatever hypervisor",
		"internal/run/disk.go":               "the tool that makes qcow2 disks, for whatever hypervisor",
		"internal/control/qmp/message.go":    "the greeting of the protocol has that field",
		"internal/adopt/adopt.go":            "which runners can be adopted",
		"internal/adopt/cloudhypervisor.go":  "the command line of a runner",
		"internal/adopt/firecracker.go":      "the command line of a runner",
		"internal/adopt/qemu.go":             "the command line of a runner",
		"internal/adopt/qemudevice.go":       "the command line of a runner",
		"internal/adopt/intent.go":           "what differs between a runner and a plan, and why",
		"internal/adopt/plan.go":             "what a plan tells it, in the words of a runner",
		"internal/adopt/write.go":            "which runners have a choice of accelerators",
		"internal/cli/adopt.go":              "the manual says which runners can be adopted",
		"internal/microvmnix/hypervisor.go":  "the words of microvm.nix for what it starts",
		"internal/diagnose/rules_options.go": "which options of microvm.nix each of its runners passes over",
		"internal/diagnose/codes.go":         "the name of an option of microvm.nix",

		"internal/driver/cloudhypervisor/cloudhypervisor.go": "the cure for what it cannot do is another",
		"internal/driver/cloudhypervisor/features.go":        "the cure for what it cannot do is another",
		"internal/driver/firecracker/firecracker.go":         "the cure for what it cannot do is another",
		"internal/driver/firecracker/features.go":            "the cure for what it cannot do is another",
	}
}

// TestDriversAreNotNamed: outside its folder a hypervisor is a value like any
// other. Identifiers, strings and import paths count; comments may explain.
func TestDriversAreNotNamed(t *testing.T) {
	allowed, used := naming(), map[string]bool{}
	for _, name := range driver.Names(all.Drivers()) {
		identifier := strings.ReplaceAll(name, "-", "") // in Go, that of its folder too
		folder, own := "internal/driver/"+identifier, 0
		for _, f := range files(t) {
			if f.dir == folder {
				own++
			}
			if f.test || f.dir == folder || matches(folder+"/*", f.dir) || forTests(f.dir) {
				continue
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				text := ""
				switch n := n.(type) {
				case *ast.Ident:
					text = n.Name
				case *ast.BasicLit:
					if n.Kind == token.STRING {
						text = n.Value
					}
				}
				lower := strings.ToLower(text)
				if (strings.Contains(lower, name) || strings.Contains(lower, identifier)) && !allowed.allow(used, f.path) {
					t.Errorf("%s names the driver %s: %s", f.at(n), name, text)
				}
				return true
			})
		}
		if own == 0 {
			t.Errorf("the driver %s is not in %s", name, folder)
		}
	}
	allowed.stale(t, used)
}
