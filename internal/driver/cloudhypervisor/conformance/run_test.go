package conformance

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// How a case ends, if not by a request.
const (
	exitByItself = 1000 // and a code
	exitByTerm   = 2000 // when it is sent SIGTERM, and a code
)

// await stands among requests for something that has to happen first.
func await(what string) request { return request{method: "AWAIT", path: what} }

// merge replaces members of an object.
func merge(object string, members ...string) string {
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &all); err != nil {
		panic(err)
	}
	for _, one := range members {
		if err := json.Unmarshal([]byte("{"+one+"}"), &all); err != nil {
			panic(one + ": " + err.Error())
		}
	}
	out, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// pad brings a body to a length.
func pad(body string, length int) string { return body + strings.Repeat(" ", length-len(body)) }

// prepare makes the files that the cases name.
func prepare(t *testing.T, dir string) {
	t.Helper()
	writeKernel(t, dir, codeLoop, true)
	for name, code := range map[string]string{
		"poweroff": codePowerOff + codeOut + codeLoop, "reboot": codeReset + codeOut + codeLoop, "panic": codePanic + codeLoop, "word": codeWord + codeLoop, "echo": codeEcho,
	} {
		rename(t, writeKernel(t, dir+"/sub", code, true), dir+"/"+name)
	}
	rename(t, writeKernel(t, dir+"/sub", codeLoop, false), dir+"/nonote")
	writeFile(t, dir, "text", []byte(strings.Repeat("this is no kernel\n", 100)))
	writeFile(t, dir, "short", []byte("short"))
	writeFile(t, dir, "empty", nil)
	writeFile(t, dir, "vhd", fixedVHD())
	writeFile(t, dir, "bzimage", bzImage(0x100000, 4096))
	writeFile(t, dir, "bzimage-short", bzImage(0x100000, -1000))
	writeFile(t, dir, "bzimage-low", bzImage(0x1000, 4096))
	for name, size := range map[string]int64{"disk": 1 << 20, "large": 65 << 20} {
		writeFile(t, dir, name, nil)
		if err := os.Truncate(dir+"/"+name, size); err != nil {
			t.Fatal(err)
		}
	}
}

// fixedVHD is a footer behind half a MiB of nothing.
func fixedVHD() []byte {
	const size = 512 << 10
	footer := make([]byte, 512)
	copy(footer, "conectix")
	be := binary.BigEndian
	be.PutUint32(footer[8:], 2)
	be.PutUint32(footer[12:], 0x10000)
	be.PutUint64(footer[16:], 1<<64-1)
	be.PutUint64(footer[40:], size)
	be.PutUint64(footer[48:], size)
	be.PutUint32(footer[60:], 2)
	sum := uint32(0)
	for _, b := range footer {
		sum += uint32(b)
	}
	be.PutUint32(footer[64:], ^sum)
	return append(make([]byte, size), footer...)
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// bzImage makes one whose code jumps to itself.
func bzImage(start uint32, size int) []byte {
	out := make([]byte, 5*512)
	binary.LittleEndian.PutUint16(out[0x1fe:], 0xaa55)
	copy(out[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(out[0x206:], 0x20f)
	out[0x211] = 1
	binary.LittleEndian.PutUint32(out[0x214:], start)
	out = append(out, bytes.Repeat([]byte(codeLoop), max(0, size)/2)...)
	return out[:len(out)+min(0, size)]
}

// TestCases runs every case against every program, and compares what they say.
func TestCases(t *testing.T) {
	all := programs(t)
	for _, s := range scenarios() {
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			var first []string
			for _, p := range all {
				if p.real && s.fakeOnly != "" {
					t.Logf("%s: left out: %s", p.name, s.fakeOnly)
					continue
				}
				said := s.run(t, p)
				if p.real && !s.loose && !slices.Equal(first, said) {
					compare(t, first, said)
				}
				first = said
			}
		})
	}
}

func compare(t *testing.T, standIn, program []string) {
	t.Helper()
	for i := range max(len(standIn), len(program)) {
		if i >= len(standIn) || i >= len(program) || standIn[i] != program[i] {
			t.Errorf("answer %d\nstand-in %.700q\nreal     %.700q", i+1, standIn[min(i, len(standIn)-1)], program[min(i, len(program)-1)])
		}
	}
}

// run plays a case and returns what was answered.
func (s scenario) run(t *testing.T, p program) []string {
	t.Helper()
	r := start(t, p, s.args...)
	if err := os.Mkdir(r.dir+"/sub", 0o700); err != nil {
		t.Fatal(err)
	}
	prepare(t, r.dir)
	var said []string
	past := 0
	for i, q := range s.requests {
		if q.method == "AWAIT" {
			past = r.awaitFrom(q.path, past)
			continue
		}
		got := r.ask(q.method, q.path, bodyOf(q))
		if got.status != q.status || !matches(q.says, got.body) {
			t.Errorf("%s: request %d, %s %s %.300s\ngot  %d %.600s\nwant %d %s\nstderr %s", p.name, i+1, q.method, q.path, q.body, got.status, got.body, q.status, q.says, r.stderr)
		}
		said = append(said, normal(got.header+"\n"+got.body))
	}
	s.end(t, p, r)
	return said
}

func bodyOf(q request) []byte {
	if q.body == "" {
		return nil
	}
	return []byte(q.body)
}

func matches(pattern, body string) bool {
	if pattern == "" {
		return body == ""
	}
	return regexp.MustCompile(`(?s)` + pattern).MatchString(body)
}

// normal leaves out what differs from process to process.
func normal(answer string) string {
	answer = regexp.MustCompile(`"pid":\d+`).ReplaceAllString(answer, `"pid":0`)
	return regexp.MustCompile(`(?s)"build_version":"[^"]*"|"device_tree":.*|Content-Length: \d+`).ReplaceAllString(answer, "")
}

// awaitFrom waits for an event behind those that were awaited, or for a word on
// the console.
func (r *process) awaitFrom(what string, past int) int {
	r.t.Helper()
	if word, ok := strings.CutPrefix(what, "console:"); ok {
		r.await(what, func() bool { return strings.Contains(r.console.String(), word) })
		return past
	}
	found := -1
	r.await(what, func() bool {
		names := r.names()
		found = slices.Index(names[min(past, len(names)):], what)
		return found >= 0
	})
	return past + found + 1
}

func (s scenario) end(t *testing.T, p program, r *process) {
	t.Helper()
	want := s.exit
	switch {
	case s.exit >= exitByTerm:
		want -= exitByTerm
		if err := r.command.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	case s.exit >= exitByItself:
		want -= exitByItself
	}
	if code := r.exit(); code != want {
		t.Errorf("%s: exit code %d, want %d\n%s", p.name, code, want, r.stderr)
	}
	select {
	case <-r.events.done:
	case <-time.After(patience):
		t.Fatalf("%s: the event monitor stays open", p.name)
	}
	r.wantNoRace()
	if s.events != "" {
		r.wantEvents(p, "vmm:starting "+s.events)
	}
}

// wantNoRace: what the race detector finds in the process itself, it only prints.
func (r *process) wantNoRace() {
	r.t.Helper()
	<-r.stderr.done
	if strings.Contains(r.stderr.String(), "DATA RACE") {
		r.t.Error(r.stderr)
	}
}

// wantEvents compares events at the end. The real program loses the last ones now
// and then, for it does not wait for the thread that writes them.
func (r *process) wantEvents(p program, want string) {
	r.t.Helper()
	got := strings.Join(r.names(), " ")
	if got != want && !(p.real && strings.HasPrefix(want, got+" ")) {
		r.t.Errorf("%s: events\n%s, want\n%s", p.name, got, want)
	}
	if got != want {
		r.t.Logf("%s: the events end with %q, and not with %q", p.name, got, want)
	}
}

// TestTranscript prints one life in full, for those who want to see it.
func TestTranscript(t *testing.T) {
	for _, p := range programs(t) {
		r := start(t, p)
		if err := os.Mkdir(r.dir+"/sub", 0o700); err != nil {
			t.Fatal(err)
		}
		prepare(t, r.dir)
		text := ""
		for _, q := range []request{
			get("vmm.ping", 200, ""), create(guest("word", `"serial":{"mode":"Tty"}`)), put("vm.boot", 204, ""), get("vm.info", 200, ""),
			put("vm.power-button", 204, ""), put("vm.boot", 500, ""), put("vm.reboot", 204, ""), put("vmm.shutdown", 200, ""),
		} {
			got := r.ask(q.method, q.path, bodyOf(q))
			text += fmt.Sprintf("%s %s %s\n    %d %s\n", q.method, q.path, q.body, got.status, got.body)
		}
		r.exit()
		<-r.events.done
		t.Logf("%s\n%s\nevents\n%s\nconsole\n%s\nstandard error\n%s", p.name, text, r.events, r.console, r.stderr)
	}
}
