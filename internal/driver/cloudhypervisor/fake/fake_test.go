package fake

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVersionByCall: what needs no process of its own is a call. (The rest of the tests
// is in package conformance, which runs the program.)
func TestVersionByCall(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	f, err := os.OpenFile(out, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if code := Main([]string{"--version"}, nil, f, f); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if said, err := os.ReadFile(out); err != nil || !strings.HasPrefix(string(said), "cloud-hypervisor v53.0.0\n") {
		t.Errorf("%s, %v", said, err)
	}
}

// FuzzDecode: whatever comes is taken or refused, and what is taken is shown as
// JSON that is taken again, to the same effect.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `[]`, `{"memory":[1]}`, `{"platform":{"oem_strings":["a"],"uuid":"b"}}`, `{"disks":[{"path":"x","iommu":true}]}`, `{"a":`, `nul`, "\xff", `{"serial":{"mode":"Tty"},"vsock":{"cid":3,"socket":"s"}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		v, problem := decodeVM(body)
		if problem != nil {
			problem.complete(body)
			return
		}
		shown, err := json.Marshal(v.shown)
		if err != nil {
			t.Fatal(err)
		}
		again, problem := decodeVM(shown)
		if problem != nil {
			t.Fatalf("%s: %s", shown, problem.complete(shown))
		}
		if second, err := json.Marshal(again.shown); err != nil || string(second) != string(shown) {
			t.Errorf("%s, then %s, %v", shown, second, err)
		}
		v.set.checkMemory()
		v.set.validate()
		v.set.checkLandlock()
	})
}

// FuzzHTTP: the parser survives all bytes, however they are cut.
func FuzzHTTP(f *testing.F) {
	f.Add([]byte("PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.0\r\n\r\n"), 7)
	f.Add([]byte(strings.Repeat("x", 3000)), 1000)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		p := parser{}
		for len(data) > 0 {
			n := min(len(data), max(1, size), lineLimit-len(p.pending))
			if n <= 0 {
				t.Fatal("nothing can be read any more")
			}
			_, _, _ = p.feed(data[:n])
			data = data[n:]
		}
	})
}
