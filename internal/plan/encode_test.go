package plan

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// reference is what encoding/json makes of a value.
func reference(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// bareVM is a VM as the digest sees it, made by copying.
func bareVM(vm VM) VM {
	vm.Disks = changed(vm.Disks, func(d *Disk) { d.From = "" })
	vm.Devices = changed(vm.Devices, func(d *Device) { d.From = "" })
	vm.Shares = changed(vm.Shares, func(s *Share) { s.From = "" })
	vm.Credentials = changed(vm.Credentials, func(c *Credential) { c.From = "" })
	vm.Given = changed(vm.Given, func(g *Given) { g.From = "" })
	vm.Networks = changed(vm.Networks, func(n *Network) { n.From = "" })
	vm.Ports = changed(vm.Ports, func(p *Port) { p.From = "" })
	vm.Command = changed(vm.Command, func(p *Part) { p.From = "" })
	vm.Channels = changed(vm.Channels, func(c *Channel) { c.Why = "" })
	vm.Channels = slices.DeleteFunc(vm.Channels, func(c Channel) bool { return c.Refused != "" })
	vm.KernelFormats, vm.SystemCalls = nil, nil
	vm.LockDisks, vm.FixedVHD = false, false
	bare := func(r *Request) { r.Body, r.From = changed(r.Body, func(f *Field) { f.From = "" }), "" }
	if vm.Resize != nil {
		resize := *vm.Resize
		for _, l := range []**Lever{&resize.Add, &resize.Balloon} {
			if *l != nil {
				lever := **l
				bare(&lever.Request)
				*l = &lever
			}
		}
		resize.Gauges = changed(resize.Gauges, func(g *Gauge) { bare(&g.Request) })
		vm.Resize = &resize
	}
	if vm.API != nil {
		api := *vm.API
		bare(&api.Alive)
		api.Start = changed(api.Start, bare)
		if api.Power != nil {
			power := *api.Power
			bare(&power)
			api.Power = &power
		}
		vm.API = &api
	}
	if vm.Image != nil {
		image := *vm.Image
		image.Lines = changed(image.Lines, func(l *ImageLine) { l.From = "" })
		vm.Image = &image
	}
	return vm
}

func changed[T any](list []T, change func(*T)) []T {
	out := slices.Clone(list)
	for i := range out {
		change(&out[i])
	}
	return out
}

// compare holds the encoder, and the digests, to the reference.
func compare(t testing.TB, p *Plan) {
	t.Helper()
	if got, want := p.JSON(), reference(t, p); !bytes.Equal(got, want) {
		t.Fatalf("encoding/json gives\n%s\nand JSON\n%s", want, got)
	}
	unit := p.Unit
	unit.Service = changed(unit.Service, func(a *Assignment) { a.From = "" })
	unit.Resources, unit.KeepRunning = nil, false
	unit.Credentials = changed(unit.Credentials, func(c *Credential) { c.From = "" })
	want := Digest{VM: digest(reference(t, bareVM(p.VM))), Unit: digest(reference(t, unit))}
	sealed := *p
	if sealed.Seal(); sealed.Digest != want {
		t.Fatalf("digests %v, want %v, of\n%s", sealed.Digest, want, p.JSON())
	}
}

// awkward are strings that JSON writes in ways of their own.
func awkward() []string {
	all := []string{"", "<&>", `"\/`, "é\u2027\u2028\u2029\u202a\ufffd\U0001f600", "\xff", "a\xed\xa0\x80b", "\xe2\x80", "\u007f\u0080"}
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	return append(all, string(every))
}

// fill gives every field of a value, however deep, something; sparse leaves
// about half of them at their zero value, nil and empty lists among them.
func fill(t testing.TB, v reflect.Value, random *rand.Rand, sparse bool) {
	if sparse && random.Intn(2) == 0 {
		if v.Kind() == reflect.Slice && random.Intn(2) == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		return
	}
	size := 1 + random.Intn(3)
	switch v.Kind() {
	case reflect.String:
		words := awkward()
		v.SetString(words[random.Intn(len(words))])
		if !sparse {
			v.SetString("some" + v.String())
		}
	case reflect.Int, reflect.Int64:
		v.SetInt([]int64{1, -1, 4096, math.MaxInt64, math.MinInt64}[random.Intn(5)])
	case reflect.Uint8:
		v.SetUint(uint64(random.Intn(256)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), random, sparse)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), random, sparse)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), size, size))
		for i := range size {
			fill(t, v.Index(i), random, sparse)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range size {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(t, key, random, sparse)
			fill(t, value, random, sparse)
			v.SetMapIndex(key, value)
		}
	default:
		t.Fatalf("a plan has a %v, which the encoder does not know", v.Type())
	}
}

// TestEncoding: the encoder writes what encoding/json writes, of plans in which
// every field is set, so that one that the encoder forgets is found here.
func TestEncoding(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	compare(t, &Plan{})
	for i := range 2000 {
		var p Plan
		fill(t, reflect.ValueOf(&p).Elem(), random, i%2 == 1)
		compare(t, &p)
	}
}

// TestEncodingOfStrings: of every character, of those that are none, and of
// each where a string ends.
func TestEncodingOfStrings(t *testing.T) {
	check := func(s string) {
		var e encoder
		if e.string(s); !bytes.Equal(e.out, reference(t, s)) {
			t.Fatalf("%q: %s, want %s", s, e.out, reference(t, s))
		}
	}
	for r := range rune(0x11000) {
		check("a" + string(r) + "b")
	}
	for _, s := range awkward() {
		for i := range len(s) {
			check(s[:i])
			check(s[i:])
		}
	}
}

// TestEncodingOfGoldenPlans: every plan that a golden case of the repository
// prints is encoded as encoding/json does.
func TestEncodingOfGoldenPlans(t *testing.T) {
	cases, err := filepath.Glob("../../test/script/testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range cases {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			var p Plan
			if !bytes.HasPrefix(line, []byte(`{"schema":`)) || json.Unmarshal(line, &p) != nil {
				continue
			}
			seen++
			compare(t, &p)
		}
	}
	if seen == 0 {
		t.Error("no golden case has a plan")
	}
}

// FuzzEncoding: whatever is in a plan.
func FuzzEncoding(f *testing.F) {
	for i, s := range awkward() {
		f.Add(int64(i), s)
	}
	f.Fuzz(func(t *testing.T, seed int64, text string) {
		random := rand.New(rand.NewSource(seed))
		var p Plan
		fill(t, reflect.ValueOf(&p).Elem(), random, seed%2 == 0)
		p.VM.Name, p.VM.Kernel = text, "/"+text
		p.VM.KernelCommandLine = append(p.VM.KernelCommandLine, text)
		p.VM.Credentials = append(p.VM.Credentials, Credential{ID: text, Value: []byte(text), From: text})
		p.Origins = map[string]diag.Origin{Whole: {File: text, Line: 1}, text: {Layer: text}}
		compare(t, &p)
	})
}
