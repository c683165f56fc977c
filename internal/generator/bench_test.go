package generator

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// BenchmarkGenerate is a reload with a thousand VMs, on whatever file system the
// temporary directory has; make bench measures the program itself.
func BenchmarkGenerate(b *testing.B) {
	files := map[string]string{}
	for i := range 1000 {
		files[fmt.Sprintf("etc/ampoule/vm%d.microvm", i)] = good
	}
	h := newHost(b, files)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if err := os.RemoveAll(h.out); err != nil {
			b.Fatal(err)
		}
		if err := os.Mkdir(h.out, 0o755); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		var out bytes.Buffer
		if code := generate(&Writer{Out: h.out, Store: h.store}, &Log{Errors: &out}, h.in); code != ExitDone {
			b.Fatal(out.String())
		}
	}
}
