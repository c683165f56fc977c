package spec

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

func TestCheckHostVersion(t *testing.T) {
	text := "[Unit]\nDescription=x\nUpholds=a.service\n[Service]\nOpenFile=/x\nMemoryLimit=1G\nX-Mine=1\n[MicroVM]\nVCPU=1\n"
	resolved, _ := layer.Resolve([]*unitfile.File{unitfile.Parse("f", "main", []byte(text))}, Rules(Identity{Name: "n", Paths: SystemPaths}))
	for version, want := range map[int]string{
		252: "f:5: OpenFile=…: systemd has this key from version 253 on, and this host has 252; remove the line",
		248: "f:3: Upholds=…: systemd has this key from version 249 on, and this host has 248; remove the line\n" +
			"f:5: OpenFile=…: systemd has this key from version 253 on, and this host has 248; remove the line",
		258: "f:6: MemoryLimit=…: systemd ignores this key from version 258 on, and this host has 258; use MemoryMax=",
		254: "",
	} {
		problems := CheckHostVersion(resolved, version)
		problems.Sort()
		if got := strings.TrimSpace(problems.Error()); got != want {
			t.Errorf("%d:\n%s\nwant\n%s", version, got, want)
		}
	}
}
