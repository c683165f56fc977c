package run

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/testkit/microvm"
)

// resized is a hypervisor that takes orders about memory, and answers what it was
// told to.
type resized struct {
	hypervisor
	orders  []string
	answers map[string]string
	refuses error
}

func (r *resized) request(_ context.Context, q plan.Request, read func([]byte) error) error {
	chunks, err := q.Render(noQuestion)
	if err != nil {
		return err
	}
	text := q.String()
	if len(chunks) > 0 {
		text += " " + string(chunks[0].JSON)
	}
	if answer, ok := r.answers[text]; ok {
		return read([]byte(answer))
	}
	if r.refuses != nil {
		return r.refuses
	}
	r.orders = append(r.orders, text)
	return read(nil)
}

// changeable is a VM whose memory can be changed.
func changeable(t *testing.T, hypervisor string, lines string) *plan.VM {
	t.Helper()
	p := microvm.Plan(t, microvm.For(microvm.Bare, hypervisor)+"Memory=512M\n"+lines)
	if p == nil {
		t.Fatal("no plan")
	}
	if again, err := plan.Parse(p.JSON()); err != nil || again.VM.Resize == nil {
		t.Fatalf("%v", err)
	}
	return &p.VM
}

// TestMemoryOrders: what each hypervisor is told, and only what is new to it; what
// it answers is what the guest has.
func TestMemoryOrders(t *testing.T) {
	const qom = `"path":"/machine/peripheral/added","property":`
	for hypervisor, want := range map[string]struct {
		answers map[string]string
		orders  []string
	}{
		"qemu": {
			map[string]string{`EXECUTE qom-get {` + qom + `"size"}`: "268435456", "EXECUTE query-balloon": `{"actual":536870912}`},
			[]string{
				`EXECUTE qom-set {` + qom + `"requested-size","value":268435456}`,
				`EXECUTE balloon {"value":268435456}`, `EXECUTE qom-set {` + qom + `"requested-size","value":0}`,
				`EXECUTE balloon {"value":536870912}`,
			},
		},
		"cloud-hypervisor": {
			map[string]string{"GET /api/v1/vm.info": `{"config":{"platform":{"oem_strings":["io.systemd.credential:a=b"]}},"memory_actual_size":805306368}`},
			[]string{
				`PUT /api/v1/vm.resize {"desired_ram":805306368}`,
				`PUT /api/v1/vm.resize {"desired_balloon":268435456}`, `PUT /api/v1/vm.resize {"desired_ram":536870912}`,
				`PUT /api/v1/vm.resize {"desired_balloon":0}`,
			},
		},
		"firecracker": {
			map[string]string{"GET /hotplug/memory": `{"plugged_size_mib":256,"requested_size_mib":512}`, "GET /balloon/statistics": `{"actual_mib":0}`},
			[]string{
				`PATCH /hotplug/memory {"requested_size_mib":256}`,
				`PATCH /balloon {"amount_mib":256}`, `PATCH /hotplug/memory {"requested_size_mib":0}`,
				`PATCH /balloon {"amount_mib":0}`,
			},
		},
	} {
		t.Run(hypervisor, func(t *testing.T) {
			vm := changeable(t, hypervisor, "MemoryHotplug=1G\nBalloon=yes\n")
			r := &resized{answers: want.answers}
			m := newMemory(vm, r)
			for _, mib := range []int64{512, 768, 768, 256, 512} {
				if err := m.set(t.Context(), mib<<20); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(r.orders, want.orders) {
				t.Errorf("ordered\n%s\nwant\n%s", strings.Join(r.orders, "\n"), strings.Join(want.orders, "\n"))
			}
			got, err := m.look(t.Context())
			if want := (Memory{Configured: 512 << 20, Addable: 1 << 30, Balloon: true, Asked: 512 << 20, Now: 768 << 20}); err != nil || got != want {
				t.Errorf("%+v, %v; want %+v", got, err, want)
			}
			r.refuses = errors.New("no driver")
			if err := m.set(t.Context(), 1<<30); err == nil || !strings.Contains(err.Error(), "no driver") {
				t.Error(err)
			}
			if got, _ := m.look(t.Context()); got.Asked != 512<<20 {
				t.Errorf("what was refused counts as asked: %+v", got)
			}
		})
	}
}

// TestMemoryRefused: what cannot be is said, and nothing is ordered.
func TestMemoryRefused(t *testing.T) {
	for _, c := range []struct {
		lines string
		bytes int64
		want  string
	}{
		{"Balloon=yes\n", 1 << 30, "1G is more than Memory=512M, and nothing can be added: add MemoryHotplug=SIZE to [MicroVM], and start it anew"},
		{"MemoryHotplug=1G\n", 256 << 20, "256M is less than Memory=512M, and nothing can be taken: add Balloon=yes to [MicroVM], and start it anew"},
		{"MemoryHotplug=1G\n", 2 << 30, "2G is too much: Memory=512M and MemoryHotplug=1G come to at most 1536M"},
		{"MemoryHotplug=1G\n", 513 << 20, "513M is Memory=512M and 1M, which is not in whole steps of 2M"},
		{"Balloon=yes\n", 32 << 20, "32M is less than a Linux guest runs with; accepted: at least 64M"},
		{"Balloon=yes\n", 100<<20 + 1, "104857601 bytes are not a whole number of MiB"},
	} {
		r := &resized{}
		m := newMemory(changeable(t, "qemu", c.lines), r)
		if err := m.set(t.Context(), c.bytes); err == nil || err.Error() != c.want || len(r.orders) > 0 {
			t.Errorf("%v, %q; want %s", err, r.orders, c.want)
		}
	}
}

func TestAmountIn(t *testing.T) {
	for _, c := range []struct {
		answer, at string
		want       int64
		wrong      string
	}{
		{"7", "", 7, ""}, {`{"a":"secret","b":8}`, "/b", 8, ""},
		{`{"a":"secret"}`, "/b", 0, "no amount"}, {`{"b":"secret"}`, "/b", 0, "the form"}, {"secret", "", 0, "the form"}, {`{"b":null}`, "/b", 0, "no amount"},
	} {
		got, err := amountIn([]byte(c.answer), c.at)
		if got != c.want || (err == nil) != (c.wrong == "") || err != nil && (!strings.Contains(err.Error(), c.wrong) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %d, %v", c.answer, got, err)
		}
	}
}

// TestOrders: the socket is its owner's alone, takes orders and nothing else, and
// keeps on after one that is none.
func TestOrders(t *testing.T) {
	dir := t.TempDir()
	l, err := listenAt(dir, state.OrdersName)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &resized{answers: map[string]string{"EXECUTE query-balloon": `{"actual":402653184}`}}
	go serveOrders(l, newMemory(changeable(t, "qemu", "Balloon=yes\n"), r))
	path := filepath.Join(dir, state.OrdersName)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	for _, junk := range []string{"", "GET / HTTP/1.1\r\n\r\n", `{"memory":false}`, strings.Repeat("[", 1<<16)} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(junk))
		_ = conn.(*net.UnixConn).CloseWrite()
		buf := make([]byte, 100)
		if n, _ := conn.Read(buf); n > 0 {
			t.Errorf("%.20q is answered with %q", junk, buf[:n])
		}
		conn.Close()
	}
	i := state.Instance{Dir: dir, Record: &state.Record{Orders: path}}
	want := Memory{Configured: 512 << 20, Balloon: true, Asked: 384 << 20, Now: 384 << 20}
	if got, err := AskMemory(t.Context(), i, 384<<20); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := AskMemory(t.Context(), i, 0); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := AskMemory(t.Context(), i, 1<<40); err == nil || !strings.Contains(err.Error(), "add MemoryHotplug=") {
		t.Error(err)
	}
	if want := fmt.Sprint([]string{`EXECUTE balloon {"value":402653184}`}); fmt.Sprint(r.orders) != want {
		t.Errorf("%q", r.orders)
	}
	for record, want := range map[*state.Record]error{nil: ErrNotBooted, {}: ErrMemoryFixed} {
		if _, err := AskMemory(t.Context(), state.Instance{Dir: dir, Record: record}, 0); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	l.Close()
	if _, err := AskMemory(t.Context(), i, 0); err == nil {
		t.Error("a socket that nobody serves answers")
	}
}
