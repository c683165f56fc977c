package pipeline

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// FuzzLoad: whatever stands in a file, a drop-in and an image, the chain does not
// fall over: it refuses with a place and a reason, or gives a plan that comes back whole.
func FuzzLoad(f *testing.F) {
	f.Add(whole, "[MicroVM]\nVCPU=3\n", "")
	f.Add("[MicroVM]\nKernel=/k\nSetCredential=A:s3cr3t\nSetCredential=A:s3cr3t \\q\n", "[Service]\nExecStart=/x s3cr3t\n", "")
	f.Add("[MicroVM]\nKernel\x1b\nKer\x1bnel=/k\nReadiness=console:\x1b(\n", "[\u202ea]\n", "")
	f.Add("[MicroVM]\nMemory=1G \\\nSetCredential=A:s3cr3t\n[X-Y]\njunk", "\xef\xbb\xbf[Unit]\nAfter=\n", "")
	const of = "[MicroVM]\nImage=%Y/image\n"
	f.Add(of+"VCPU=2\n", "[MicroVM]\nImage=\n", "[MicroVM]\nKernel=vmlinuz\nKernelCommandLine=a=%n\nDisk=x:ro\n")
	f.Add(of+"Kernel=/k\nRunner=\n", "[MicroVM]\nMemory=\n", "[MicroVM]\nRunner=bin/run\nMemory=64M\nSetCredential=A:s3cr3t\n[Service]\nUser=root\n")
	f.Add("[MicroVM]\nImage=%Y/absent\nKernel=/k\n", "[MicroVM]\nDisk=a:size=1G\n", "")
	f.Add(of+"[Service]\nLoadCredential=outer:/o\n", "[MicroVM]\nCredential=inner:outer\n", "[MicroVM]\nImage=/else\nInitrd=../../etc/shadow\n")
	for _, row := range spec.Table() {
		for _, value := range badValues[row.Name] {
			f.Add("[MicroVM]\nKernel=/k\n"+row.Name+"="+value+"\n", "[MicroVM]\n"+row.Name+"=\n", "")
			f.Add(of+row.Name+"="+value+"\n", "", "[MicroVM]\nKernel=k\n"+row.Name+"="+value+"\n")
		}
	}
	f.Fuzz(func(t *testing.T, main, dropIn, image string) {
		dir := t.TempDir()
		file := filepath.Join(dir, "vm.microvm")
		if err := os.WriteFile(file, []byte(main), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(file+".d", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(file+".d", "10.conf"), []byte(dropIn), 0o600); err != nil {
			t.Fatal(err)
		}
		conf := filepath.Join(dir, "image", spec.ImageFile)
		if err := os.Mkdir(filepath.Dir(conf), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(conf, []byte(image), 0o600); err != nil {
			t.Fatal(err)
		}
		res := Load(Input{Argument: file, Drivers: all.Drivers(), Architecture: "x86-64"})
		if (res.Plan == nil) != res.Problems.HasErrors() {
			t.Fatalf("plan %v, problems:\n%s", res.Plan != nil, res.Problems.Error())
		}
		for _, p := range res.Problems {
			text := p.Error()
			if p.What == "" || !strings.HasPrefix(text, file) && !strings.HasPrefix(text, conf+":") || strings.ContainsAny(text, "\n\r\x1b") {
				t.Fatalf("a problem without place or reason, or not on one line: %q", text)
			}
		}
		if res.Plan == nil {
			return
		}
		again, err := plan.Parse(res.Plan.JSON())
		if err != nil {
			t.Fatalf("the plan does not come back: %v", err)
		}
		if !bytes.Equal(again.JSON(), res.Plan.JSON()) {
			t.Fatal("the plan comes back as another")
		}
		if !res.Plan.VM.Waits() {
			return
		}
		// The image comes after the plan was frozen.
		if err := os.Mkdir(res.Plan.VM.Image.Path, 0o700); err != nil {
			return // not below this directory
		}
		if err := os.WriteFile(filepath.Join(res.Plan.VM.Image.Path, spec.ImageFile), []byte(image), 0o600); err != nil {
			t.Fatal(err)
		}
		merged, problems := AtStart(res.Plan, all.Drivers())
		if (merged == nil) != problems.HasErrors() {
			t.Fatalf("at the start: plan %v, problems:\n%s", merged != nil, problems.Error())
		}
	})
}
