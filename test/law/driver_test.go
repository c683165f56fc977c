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
		"internal/driver/all/all.go":      "the ordered list",
		"internal/spec/hypervisor.go":     "the manual states the default and what its machine types are",
		"internal/preflight/preflight.go": "the tool that makes qcow2 disks, for whatever hypervisor",
		"internal/run/disk.go":            "the tool that makes qcow2 disks, for whatever hypervisor",
		"internal/control/qmp/message.go": "the greeting of the protocol has that field",
	}
}

// TestDriversAreNotNamed: outside its folder a hypervisor is a value like any
// other. Identifiers, strings and import paths count; comments may explain.
func TestDriversAreNotNamed(t *testing.T) {
	allowed, used := naming(), map[string]bool{}
	for _, name := range driver.Names(all.Drivers()) {
		for _, f := range files(t) {
			if f.test || matches("internal/driver/"+name+"/*", f.dir+"/x") || matches("internal/testkit/*", f.dir) || matches("test/*", f.dir) {
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
				if strings.Contains(strings.ToLower(text), name) && !allowed.allow(used, f.path) {
					t.Errorf("%s names the driver %s: %s", f.at(n), name, text)
				}
				return true
			})
		}
	}
	allowed.stale(t, used)
}
