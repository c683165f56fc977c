package eventstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// event is one as the hypervisor writes it, without the blank line behind it.
func event(name string) string {
	return "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": 3210206\n  },\n  \"source\": \"vm\",\n  \"event\": \"" + name +
		"\",\n  \"properties\": {\n    \"id\": \"a } b { \\\" c\"\n  }\n}"
}

// names returns the names of all events that are found in a text.
func names(t *testing.T, r io.Reader) (found []string, lost uint64) {
	t.Helper()
	s := New(io.NopCloser(r))
	for object := range s.Objects() {
		var e struct{ Event *string }
		if err := json.Unmarshal(object, &e); err != nil {
			t.Errorf("%v in %q", err, object)
		}
		if e.Event == nil {
			found = append(found, string(object))
			continue
		}
		found = append(found, *e.Event)
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	return found, s.Lost()
}

func TestStream(t *testing.T) {
	const gap = "\n\n"
	a, b, c := event("a"), event("b"), event("c")
	tests := []struct {
		name, text string
		want       string
		lost       uint64
	}{
		{"nothing", "", "", 0},
		{"blank", " \r\n\t\n", "", 0},
		{"as written", a + gap + b + gap + c + gap, "a b c", 0},
		{"no gaps", a + b + c, "a b c", 0},
		{"gaps alone", gap + gap + a + gap + gap, "a", 0},
		{"in one line each", `{"event":"a","x":[{"y":{}}]}` + "\n" + `{"event":"b"}{"event":"c"} `, "a b c", 0},
		{"garbage in front", "garbage" + gap + a, "a", 1},
		{"garbage without a gap", "gar{bage" + a + gap + b, "a b", 1},
		{"garbage between", a + gap + "\x00}]\"garbage" + gap + b, "a b", 1},
		{"garbage behind", a + "}", "a", 1},
		{"two pieces of garbage", "x" + gap + a + "x" + gap + b, "a b", 2},
		{"the rest of one", a[40:] + gap + b, "b", 1},
		{"no JSON", "{\"event\" x}\n" + a, "a", 1},
		{"wrong bracket", "{]\n" + a, "a", 1},
		{"cut at the end", a + gap + b[:50], "a", 1},
		{"cut in one line", `{"event":"a","x":{"y":` + "\n" + `{"event":"b"}`, "b", 1},
		{"value is the next", strings.Replace(a, "\"a\",", "", 1)[:60] + b + gap + c, "b c", 1},
		{"too long", "{\n  \"x\": \"" + strings.Repeat("x", MaxObject) + "\"\n}" + gap + a, "a", 1},
		{"too long without a gap", "{\n  \"x\": \"" + strings.Repeat("x", MaxObject) + a + b, "a b", 1},
		{"too deep", strings.Repeat("{\"x\":[", 20_000) + gap + a, "a", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tt.text), iotest.OneByteReader(strings.NewReader(tt.text)), iotest.DataErrReader(strings.NewReader(tt.text))} {
				got, lost := names(t, r)
				if strings.Join(got, " ") != tt.want || lost != tt.lost {
					t.Errorf("found %q and lost %d, want %q and %d", got, lost, tt.want, tt.lost)
				}
			}
		})
	}
}

// Wherever an object is cut, with or without the blank line behind it, those
// around it are found, and nothing that is only part of it. The writer cuts the
// end; of an object without its front, a whole inner one may be left.
func TestEveryCut(t *testing.T) {
	a, b, c := event("a"), event("b"), event("c")
	for n := 1; n < len(b); n++ {
		for _, gap := range []string{"\n\n", ""} {
			if got, lost := names(t, strings.NewReader(a+gap+b[:n]+gap+c+gap)); !slices.Equal(got, []string{"a", "c"}) || lost != 1 {
				t.Fatalf("with %q between: %q, %d lost", b[:n], got, lost)
			}
			got, lost := names(t, strings.NewReader(a+gap+b[n:]+gap+c+gap))
			if len(got) < 2 || got[0] != "a" || got[len(got)-1] != "c" || slices.Contains(got, "b") || lost < 1 {
				t.Fatalf("with %q between: %q, %d lost", b[n:], got, lost)
			}
		}
	}
}

func TestLongestObject(t *testing.T) {
	frame := `{"event":""}`
	name := strings.Repeat("x", MaxObject-len(frame))
	if got, lost := names(t, strings.NewReader(`{"event":"`+name+`"}`)); lost != 0 || len(got) != 1 || got[0] != name {
		t.Errorf("%d found, %d lost", len(got), lost)
	}
	if got, lost := names(t, strings.NewReader(`{"event":"x`+name+`"}`)); lost != 1 || len(got) != 0 {
		t.Errorf("%d found, %d lost", len(got), lost)
	}
}

// The writer never waits for the consumer, who then gets the last objects.
func TestNobodyReads(t *testing.T) {
	const n = 3 * MaxQueued
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := New(r)
	defer s.Close()
	if err := w.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := io.WriteString(w, event(fmt.Sprint(i))+"\n\n"); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	i := n - MaxQueued
	for object := range s.Objects() {
		if !bytes.Contains(object, fmt.Appendf(nil, `"event": "%d"`, i)) {
			t.Fatalf("instead of %d: %s", i, object)
		}
		i++
	}
	if i != n || s.Lost() != n-MaxQueued {
		t.Errorf("the last is %d, %d lost", i, s.Lost())
	}
}

func TestClose(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := New(r)
	if _, err := io.WriteString(w, event("a")); err != nil {
		t.Fatal(err)
	}
	<-s.Objects() // it comes at once, not when the next begins
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if object, ok := <-s.Objects(); ok || s.Err() != nil {
		t.Errorf("%s, %v", object, s.Err())
	}
}

func TestReadError(t *testing.T) {
	broken := errors.New("broken")
	s := New(io.NopCloser(io.MultiReader(strings.NewReader(event("a")), iotest.ErrReader(broken))))
	if err := s.Err(); !errors.Is(err, broken) {
		t.Error(err)
	}
	if object := <-s.Objects(); object == nil {
		t.Error("what came before the error is lost")
	}
}

// The real writer.
func TestCloudHypervisor(t *testing.T) {
	path := os.Getenv("AMPOULE_TEST_CLOUD_HYPERVISOR")
	if path == "" {
		t.Skip("AMPOULE_TEST_CLOUD_HYPERVISOR names no hypervisor")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--api-socket", "path=api.sock", "--event-monitor", "fd=3")
	cmd.Dir = t.TempDir()
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer cmd.Wait()
	defer cmd.Process.Kill()
	s := New(r)
	defer s.Close()
	var got []string
	timeout := time.After(10 * time.Second)
	for {
		select {
		case object, ok := <-s.Objects():
			if !ok {
				if len(got) != 2 || s.Lost() != 0 || s.Err() != nil {
					t.Errorf("%q, %d lost, %v", got, s.Lost(), s.Err())
				}
				return
			}
			var e struct{ Source, Event string }
			if err := json.Unmarshal(object, &e); err != nil {
				t.Error(err)
			}
			got = append(got, e.Source+" "+e.Event)
			if len(got) > 1 {
				continue
			}
			if got[0] != "vmm starting" {
				t.Errorf("the first event is %q", got)
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		case <-timeout:
			t.Fatalf("only %q", got)
		}
	}
}

// FuzzStream: whatever comes, what is found is objects within the limit that
// stand in the stream, in order and apart; what follows is found; pieces make
// no difference.
func FuzzStream(f *testing.F) {
	a := event("a")
	for _, text := range []string{a + "\n\n" + a, a[:50] + a, a[50:] + "\n\n" + a, `{"x":[{}]}` + "\n{", "{]", "{\"\\\"}\n{}", strings.Repeat("[", 99)} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		split := func(data []byte) (found [][]byte, lost int) {
			s := splitter{found: func(o json.RawMessage) { found = append(found, o) }, lost: func() { lost++ }}
			for _, c := range data {
				s.take(c)
			}
			s.end()
			return found, lost
		}
		found, lost := split(data)
		rest, between := data, 0
		for _, object := range found {
			if len(object) > MaxObject || !json.Valid(object) || object[0] != '{' {
				t.Fatalf("no object: %q", object)
			}
			i := bytes.Index(rest, object)
			if i < 0 {
				t.Fatalf("not in the stream: %q", object)
			}
			between += len(bytes.TrimSpace(rest[:i]))
			rest = rest[i+len(object):]
		}
		if lost == 0 && between+len(bytes.TrimSpace(rest)) > 0 {
			t.Fatalf("something is lost of %q", data)
		}
		again, _ := split(append(append(bytes.Clone(data), "\n\n"...), a...))
		if len(again) == 0 || string(again[len(again)-1]) != a {
			t.Fatalf("nothing is found behind %q", data)
		}
	})
}
