package secret

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

const plain = "correct horse battery staple"

func value(t testing.TB, b string) *Value {
	t.Helper()
	v, err := FromBytes([]byte(b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Wipe)
	return v
}

// holders are the shapes in which a secret ends up in somebody's print call.
func holders(t *testing.T) map[string]any {
	v := value(t, plain)
	b := NewBuilder(0)
	b.AppendString(plain)
	t.Cleanup(b.Wipe)
	m, err := NewMemfd("test", v)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	type exported struct{ V Value }
	type pointer struct{ V *Value }
	type hidden struct {
		v  Value
		p  *Value
		pp **Value
		b  *Builder
		m  *Memfd
	}
	type embedding struct{ Value }
	return map[string]any{
		"value": *v, "pointer": v, "pointer to pointer": &v, "builder": b, "memfd": m,
		"struct": exported{*v}, "struct pointer": &exported{*v}, "struct with pointer": pointer{v},
		"hidden": hidden{*v, v, &v, b, m}, "hidden pointer": &hidden{*v, v, &v, b, m},
		"embedded": embedding{*v}, "slice": []Value{*v}, "pointers": []*Value{v, v},
		"array": [1]Value{*v}, "map": map[string]*Value{"key": v}, "key": map[Value]int{*v: 1},
		"any": []any{v, *v}, "error": fmt.Errorf("wrapped: %v", v),
		"joined": errors.Join(fmt.Errorf("%+v", *v), fmt.Errorf("%#v", v)),
	}
}

// leaks reports whether a text has the secret in a form that Go prints.
func leaks(text string) bool {
	for _, form := range []string{
		plain, fmt.Sprintf("%x", plain), fmt.Sprintf("%X", plain), fmt.Sprintf("% x", plain),
		fmt.Sprintf("%#v", []byte(plain)), strings.Trim(fmt.Sprint([]byte(plain)), "[]"),
		"Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBs", "[]byte{0x63", "99 111 114",
	} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

func TestNoVerbPrintsASecret(t *testing.T) {
	for name, h := range holders(t) {
		for verb := 'A'; verb <= 'z'; verb++ {
			for _, flags := range []string{"", "+", "#", "-40", " ", "0", ".3", "+#"} {
				if text := fmt.Sprintf("%"+flags+string(verb), h); leaks(text) {
					t.Errorf("%s: %%%s%c prints %s", name, flags, verb, text)
				}
			}
		}
		if text := fmt.Sprint(h) + fmt.Sprintln(h); leaks(text) {
			t.Errorf("%s: Print prints %s", name, text)
		}
	}
	// And what is printed says what it is.
	v := value(t, plain)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		for _, h := range []any{v, *v} {
			if text := fmt.Sprintf(verb, h); text != Redacted {
				t.Errorf("%s of %T: %s", verb, h, text)
			}
		}
	}
}

func TestNoEncoderWritesASecret(t *testing.T) {
	encoders := map[string]func(any) (string, error){
		"json": func(h any) (string, error) { b, err := json.Marshal(h); return string(b), err },
		"xml":  func(h any) (string, error) { b, err := xml.Marshal(h); return string(b), err },
		"gob": func(h any) (string, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(h)
			return b.String(), err
		},
		"slog text": func(h any) (string, error) {
			var b bytes.Buffer
			slog.New(slog.NewTextHandler(&b, nil)).Info("message", "secret", h, slog.Group("group", "inner", h))
			return b.String(), nil
		},
		"slog json": func(h any) (string, error) {
			var b bytes.Buffer
			slog.New(slog.NewJSONHandler(&b, nil)).Info("message", "secret", h, slog.Group("group", "inner", h))
			return b.String(), nil
		},
		"log": func(h any) (string, error) {
			var b bytes.Buffer
			log.New(&b, "", 0).Print(h)
			return b.String(), nil
		},
		"reflection": func(h any) (string, error) {
			var b strings.Builder
			dump(&b, reflect.ValueOf(h), 0)
			return b.String(), nil
		},
	}
	for name, h := range holders(t) {
		for enc, encode := range encoders {
			// Some shapes have no form in some encodings; that is an error,
			// which must not tell either.
			text, err := encode(h)
			if leaks(text) || err != nil && leaks(err.Error()) {
				t.Errorf("%s in %s: %s, %v", name, enc, text, err)
			}
		}
	}
	v := value(t, plain)
	for enc, want := range map[string]string{
		"json": `"[secret]"`, "xml": `<Value>[secret]</Value>`,
		"slog text": "secret=[secret] group.inner=[secret]", "slog json": `"secret":"[secret]","group":{"inner":"[secret]"}`,
		"gob": Redacted, "log": Redacted,
	} {
		for _, h := range []any{v, *v} {
			if text, err := encoders[enc](h); err != nil || !strings.Contains(text, want) {
				t.Errorf("%s of %T: %q, %v; want %s", enc, h, text, err, want)
			}
		}
	}
	for what, f := range map[string]func() (any, error){
		"yaml":   func() (any, error) { return v.MarshalYAML() },
		"binary": func() (any, error) { b, err := v.MarshalBinary(); return string(b), err },
		"string": func() (any, error) { return v.String() + v.GoString(), nil },
	} {
		if got, err := f(); err != nil || strings.ReplaceAll(got.(string), Redacted, "") != "" {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
}

// dump prints everything that reflection reaches, as debugging printers do.
func dump(b *strings.Builder, v reflect.Value, depth int) {
	if depth > 12 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			dump(b, v.Elem(), depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			dump(b, v.Field(i), depth+1)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			for i := range v.Len() {
				b.WriteByte(byte(v.Index(i).Uint()))
			}
			return
		}
		for i := range v.Len() {
			dump(b, v.Index(i), depth+1)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			dump(b, k, depth+1)
			dump(b, v.MapIndex(k), depth+1)
		}
	case reflect.String:
		b.WriteString(v.String())
	}
}

// The dump above finds what is there to be found.
func TestDumpFindsPlainBytes(t *testing.T) {
	var b strings.Builder
	dump(&b, reflect.ValueOf(&struct{ hidden []byte }{[]byte(plain)}), 0)
	if !leaks(b.String()) {
		t.Error("the test's own printer is blind")
	}
}
