package pipeline

import (
	"github.com/ampoule-vm/ampoule/internal/emit"
	"testing"
)

func BenchmarkLoad(b *testing.B) {
	root := tree(b, map[string]string{"etc/ampoule/web.microvm": "[Unit]\nDescription=x\n[MicroVM]\nMemory=512M\nKernel=/var/lib/guest/vmlinuz\nInitrd=/var/lib/guest/initrd\nLoadCredential=A:/run/secrets/a\nDisk=data.raw:size=16M\n[Install]\nWantedBy=multi-user.target\n"})
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r := load(b, root, "web")
			if r.Plan == nil {
				b.Fatal(r.Problems)
			}
		}
	})
	r := load(b, root, "web")
	b.Run("unit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err := emit.Unit(emit.UnitSource{Plan: r.Plan, Resolved: r.Resolved, Main: "/etc/ampoule/web.microvm", Files: []string{"/etc/x"}, Program: "/usr/bin/ampoule", KVMGroup: "kvm"})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
