package verify

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

func TestUnserved(t *testing.T) {
	dir := t.TempDir()
	p := &plan.Plan{
		VM: plan.VM{Name: "web", Shares: []plan.Share{
			{Tag: "there", Protocol: spec.VirtioFS, From: "Share[0]"}, {Tag: "gone", Protocol: spec.VirtioFS, From: "Share[1]"}, {Tag: "own", Protocol: spec.NineP, From: "Share[2]"},
		}},
		Origins: map[string]diag.Origin{"Share[1]": {File: "/etc/ampoule/web.microvm", Line: 7}},
	}
	socketOf := func(_, tag string) string { return filepath.Join(dir, tag) }
	l, err := net.Listen("unix", socketOf("", "there"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out := unserved(p, os.Getpid(), socketOf)
	if len(out) != 1 || out[0].Tag != "gone" || out[0].Origin.Line != 7 || !strings.Contains(out[0].What, "microvm-share@web:gone.service") {
		t.Errorf("%+v", out)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Lchown(socketOf("", "there"), 12345, 0); err != nil {
		t.Fatal(err)
	}
	if out := unserved(p, os.Getpid(), socketOf); len(out) != 2 || !strings.Contains(out[0].What, "belongs to uid 12345, and the hypervisor runs as uid 0") {
		t.Errorf("%+v", out)
	}
}
