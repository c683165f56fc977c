package preflight

import (
	"os"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// TestMemory: what this host has not is an error at its line.
func TestMemory(t *testing.T) {
	for name, c := range map[string]struct {
		memory, page int64
		want         string
	}{
		"as much as there is": {1 << 30, 0, ""},
		"more than there is":  {2 << 30, 0, "f:7: Memory=2G: this host has only 1024 MiB of memory; accepted: at most 1024M"},
		"huge pages":          {64 << 20, 2 << 20, ""},
		"too few": {128 << 20, 2 << 20, "f:8: HugePages=2M: Memory=128M (f:7) needs 64 huge pages of 2M, and on this host 32 are free; " +
			"set aside 32 more: echo N > %/hugepages-2048kB/nr_hugepages, or at boot hugepagesz=2M hugepages=N"},
		"none of the size": {1 << 30, 1 << 30, "f:8: HugePages=1G: this host's kernel has no huge pages of 1G; accepted: no, or a size that % has"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, true)
			w.host.HugePageDir = t.TempDir()
			if err := os.Mkdir(w.host.HugePageDir+"/hugepages-2048kB", 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, w.host.HugePageDir+"/hugepages-2048kB/free_hugepages", "40\n", 0o644)
			write(t, w.host.HugePageDir+"/hugepages-2048kB/resv_hugepages", "8\n", 0o644)
			w.plan.Origins["Memory"], w.plan.Origins["HugePages"] = diag.Origin{File: "f", Line: 7}, diag.Origin{File: "f", Line: 8}
			w.plan.VM.Memory, w.plan.VM.HugePages = c.memory, c.page
			_, problems := Judge(t.Context(), w.plan, w.host, Places{State: w.state})
			var errors diag.List
			for _, p := range problems {
				if p.Severity == diag.Error && p.Key != "Accelerator" {
					errors = append(errors, p)
				}
			}
			got := ""
			if len(errors) > 0 {
				got = errors.Error()
			}
			if want := strings.ReplaceAll(c.want, "%", w.host.HugePageDir); got != want {
				t.Errorf("%s\nwant\n%s", got, want)
			}
		})
	}
}
