package pipeline

import (
	"fmt"
	"sync"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/source"
)

const small = `[Unit]
Description=x
[MicroVM]
Memory=512M
Kernel=/var/lib/guest/vmlinuz
Initrd=/var/lib/guest/initrd
LoadCredential=A:/run/secrets/a
Disk=data.raw:size=16M
[Install]
WantedBy=multi-user.target
`

// BenchmarkLoad is what one VM costs a generator: the chain, with the files found
// by a listing or one by one, and the unit made of its plan.
func BenchmarkLoad(b *testing.B) {
	root := tree(b, map[string]string{"etc/ampoule/web.microvm": small})
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			mustPlan(b, root, "web")
		}
	})
	in := Input{Argument: "web", Tree: source.Scan(root, source.SearchPath()), Drivers: all.Drivers(), Architecture: "x86-64"}
	b.Run("listed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if Load(in).Plan == nil {
				b.Fatal("no plan")
			}
		}
	})
	res := load(b, root, "web")
	b.Run("unit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := emit.Unit(emit.UnitSource{
				Plan: res.Plan, Resolved: res.Resolved, Main: res.Source.Main, Files: []string{res.Source.Main}, Program: "/usr/bin/ampoule", KVMGroup: "kvm",
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestLoadInParallel: VMs that are loaded at the same time, good ones and broken
// ones, come out as those that are loaded one after the other. It is run with
// the race detector.
func TestLoadInParallel(t *testing.T) {
	files := map[string]string{"usr/lib/ampoule/microvm.d/50.conf": "[MicroVM]\nSetCredential=X:%i\n"}
	const many = 40
	for i := range many {
		text := []string{whole, small, "[MicroVM]\nMemroy=1G\nKernel=k\nDisk=a:size=\n[Servce]\nx\n", "[MicroVM]\nKernel=/k\nReadiness=console:(\n[Unit]\nAfer=b\n"}[i%4]
		files[fmt.Sprintf("etc/ampoule/vm%d.microvm", i)] = text
	}
	in := Input{Tree: source.Scan(tree(t, files), source.SearchPath()), Drivers: all.Drivers(), Architecture: "x86-64"}
	say := func(i int) string {
		in := in
		in.Argument = fmt.Sprintf("vm%d", i)
		res := Load(in)
		if res.Plan == nil {
			return res.Problems.Error()
		}
		return string(res.Plan.JSON())
	}
	var got [many]string
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() { got[i] = say(i) })
	}
	all.Wait()
	for i := range many {
		if want := say(i); got[i] != want {
			t.Errorf("vm%d: in parallel\n%s\nand alone\n%s", i, got[i], want)
		}
	}
}
