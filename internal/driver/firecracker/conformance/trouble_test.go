package conformance

import (
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
)

// The troubles are the stand-in's own: each does what it says and no more.

func TestLateAnswer(t *testing.T) {
	t.Parallel()
	v := fakeVM(t, fake.Late("GET /version", 80*time.Millisecond))
	v.must("GET", "/", "")
	began := time.Now()
	v.must("GET", "/version", "")
	if d := time.Since(began); d < 80*time.Millisecond {
		t.Errorf("it took %v", d)
	}
}

func TestLateSocket(t *testing.T) {
	t.Parallel()
	began := time.Now()
	fakeVM(t, fake.LateSocket(80*time.Millisecond)).must("GET", "/", "")
	if d := time.Since(began); d < 80*time.Millisecond {
		t.Errorf("it took %v", d)
	}
}

func TestNoSocket(t *testing.T) {
	t.Parallel()
	v := command(t, standIn().path(t, fake.NoSocket(3)), "--api-sock", "{dir}/api")
	if code := v.ends(); code != 3 {
		t.Errorf("exit code %d", code)
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	v := fakeVM(t, fake.Garbage("PUT /entropy"))
	v.must("GET", "/", "")
	if _, err := v.raw("PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"); err == nil {
		t.Error("it is HTTP")
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	v := fakeVM(t, fake.Close("PUT /entropy"))
	if _, err := v.raw("PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"); !gone(err) {
		t.Error(err)
	}
	if !v.runs() {
		t.Error("it ended")
	}
}

func TestDie(t *testing.T) {
	t.Parallel()
	v := fakeVM(t, fake.Die("PUT /entropy", 148))
	if _, err := v.raw("PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"); !gone(err) {
		t.Error(err)
	}
	if code := v.ends(); code != 148 {
		t.Errorf("exit code %d", code)
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	v := fakeVM(t, fake.Quote("PUT /boot-source"))
	a := v.ask("PUT", "/boot-source", `{"kernel_image_path":"x","boot_args":"SECRET"}`)
	if a.status != 400 || !strings.Contains(a.body, "fault_message") || !strings.Contains(a.body, "SECRET") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestNoKVM(t *testing.T) {
	t.Parallel()
	v := fakeVM(t, fake.NoKVM())
	v.must("PUT", "/boot-source", `{"kernel_image_path":"{kernel}"}`)
	if a := v.ask("PUT", "/actions", `{"action_type":"InstanceStart"}`); a.status != 400 || !strings.Contains(a.body, "Kvm error: Error creating KVM object: ") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	link := standIn().path(t, fake.Record())
	v := start(t, link)
	v.must("GET", "/", "")
	v.ask("PUT", "/entropy", `{"x":1}`)
	got := fake.Requests(t, link)
	if len(got) != 2 || got[0] != (fake.Request{Method: "GET", Path: "/", Status: 200}) || got[1] != (fake.Request{Method: "PUT", Path: "/entropy", Body: `{"x":1}`, Status: 400}) {
		t.Errorf("%+v", got)
	}
}

func TestUnplayed(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"--config-file", "x"}, {"--config-file", "x", "--no-api"}, {"--seccomp-filter", "x"}} {
		v := command(t, standIn().path(t), args...)
		if code := v.ends(); code != fake.ExitUnplayed {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}
