package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

func creds(t testing.TB, values map[string]string) []Credential {
	t.Helper()
	var all []Credential
	for name, value := range values {
		v, err := secret.FromBytes([]byte(value))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Wipe)
		all = append(all, Credential{Guest: name, Value: v})
	}
	slices.SortFunc(all, func(a, b Credential) int { return strings.Compare(a.Guest, b.Guest) })
	return all
}

// unpack reads structures as a guest does: the first page of each at most, if
// page is set.
func unpack(t testing.TB, structures []*secret.Value, page bool) map[string]string {
	t.Helper()
	got, handles := map[string]string{}, map[uint16]bool{}
	for _, s := range structures {
		var raw []byte
		if err := s.Use(func(b []byte) error { raw = bytes.Clone(b); return nil }); err != nil {
			t.Fatal(err)
		}
		if page && len(raw) > 4096 {
			raw = raw[:4096]
		}
		if len(raw) < 6 || raw[0] != 11 || raw[1] != 5 {
			t.Fatalf("the structure begins with % x", raw[:min(6, len(raw))])
		}
		handle := binary.LittleEndian.Uint16(raw[2:])
		if handles[handle] {
			t.Errorf("handle %#x is there twice", handle)
		}
		handles[handle] = true
		if !bytes.HasSuffix(raw, []byte{0, 0}) {
			t.Errorf("the structure ends with % x", raw[len(raw)-2:])
		}
		parts := bytes.Split(raw[5:len(raw)-2], []byte{0})
		if len(parts) != int(raw[4]) {
			t.Errorf("%d strings, %d are counted", len(parts), raw[4])
		}
		for _, p := range parts {
			rest, ok := strings.CutPrefix(string(p), "io.systemd.credential.binary:")
			name, encoded, ok2 := strings.Cut(rest, "=")
			value, err := base64.StdEncoding.DecodeString(encoded)
			if !ok || !ok2 || err != nil {
				t.Fatalf("string %.60q: %v", p, err)
			}
			if _, twice := got[name]; twice {
				t.Errorf("%s is there twice", name)
			}
			got[name] = string(value)
		}
	}
	return got
}

func same(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

func TestPackSMBIOS(t *testing.T) {
	values := map[string]string{
		"text": "value", "empty": "", "binary": "a\x00b\n,\"'[]=%\xff", strings.Repeat("n", 100): "long name", "a b": "blank",
		"page": strings.Repeat("x", 3000),
	}
	for i := range 40 {
		values[fmt.Sprintf("c%d", i)] = strings.Repeat("v", 37*i)
	}
	all := creds(t, values)
	packed, err := PackSMBIOS(all, rule.SMBIOSPage)
	if err != nil {
		t.Fatal(err)
	}
	if got := unpack(t, packed, true); !same(got, values) {
		t.Errorf("the guest gets %v", got)
	}
	layout, err := rule.LayoutSMBIOS(Items(all), rule.SMBIOSPage)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, s := range packed {
		total += s.Len()
		s.Wipe()
	}
	if total != layout.Bytes || len(packed) != len(layout.Structures) {
		t.Errorf("%d bytes in %d structures, foretold were %d in %d", total, len(packed), layout.Bytes, len(layout.Structures))
	}
	// In one structure, for guests that read all of it.
	one, err := PackSMBIOS(all, rule.SMBIOSMaxStructure)
	if err != nil || len(one) != 1 || !same(unpack(t, one, false), values) {
		t.Errorf("%d structures, %v", len(one), err)
	}
	if none, err := PackSMBIOS(nil, rule.SMBIOSPage); err != nil || len(none) != 0 {
		t.Errorf("nothing gives %d structures, %v", len(none), err)
	}
}

func TestPackSMBIOSRefuses(t *testing.T) {
	all := creds(t, map[string]string{"fits": "x", "large": strings.Repeat("secret", 1000), "a=b": "x"})
	packed, err := PackSMBIOS(all, rule.SMBIOSPage)
	var refusal *rule.Refusal
	if packed != nil || !errors.As(err, &refusal) || !strings.Contains(err.Error(), "credential large:") || !strings.Contains(err.Error(), "credential a=b:") {
		t.Errorf("%v, %v", packed, err)
	}
	if strings.Contains(err.Error(), "secretsecret") {
		t.Error("the error repeats the value")
	}
	// A value that is gone must not arrive as an empty one.
	all = creds(t, map[string]string{"a": "x", "b": "y"})
	all[1].Value.Wipe()
	if packed, err := PackSMBIOS(all, rule.SMBIOSPage); packed != nil || !errors.Is(err, secret.ErrWiped) {
		t.Errorf("%v, %v", packed, err)
	}
}

func FuzzPackSMBIOS(f *testing.F) {
	f.Add("a", []byte("x"), "b", []byte(""), 4096)
	f.Add("a=b", []byte("x"), "b", []byte("\x00"), 100)
	f.Add("long", bytes.Repeat([]byte("x"), 4000), "b", bytes.Repeat([]byte("y"), 3000), 4096)
	f.Fuzz(func(t *testing.T, name1 string, value1 []byte, name2 string, value2 []byte, limit int) {
		if name1 == name2 {
			return
		}
		values := map[string]string{name1: string(value1), name2: string(value2)}
		packed, err := PackSMBIOS(creds(t, values), limit)
		if err != nil {
			if packed != nil {
				t.Error("structures beside an error")
			}
			return
		}
		defer func() {
			for _, s := range packed {
				s.Wipe()
			}
		}()
		for _, s := range packed {
			if s.Len() > limit {
				t.Errorf("a structure of %d bytes, at most %d are allowed", s.Len(), limit)
			}
		}
		if got := unpack(t, packed, false); !same(got, values) {
			t.Errorf("%q comes back as %q", values, got)
		}
	})
}
