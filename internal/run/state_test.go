package run

import (
	"os"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// TestStateOfService: root does not run a VM by hand on disks of its service's user,
// and a check of the service has nothing against them.
func TestStateOfService(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 65533, 65533); err != nil {
		t.Fatal(err)
	}
	vm := plan.VM{Name: "web", Disks: []plan.Disk{{Path: "data.img", From: "Disk"}, {Path: "/srv/other.img", From: "Disk"}}}
	for _, checking := range []bool{false, true} {
		r := &runner{
			Options: Options{Plan: &plan.Plan{VM: vm}, Getenv: func(string) string { return "" }}, dirs: state.Directories{State: dir}, checking: checking,
		}
		var problems diag.List
		r.judgeState(&problems)
		if len(problems) != 1 || problems.HasErrors() == checking {
			t.Errorf("checking %t: %v", checking, problems)
		}
	}
}
