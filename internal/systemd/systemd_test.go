package systemd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
)

// fake is a manager that answers calls by a function.
type fake struct {
	answer func(path dbus.ObjectPath, member string, body []any) (reply []any, refused string)
	// tell, if not nil, gets each connection once it stands.
	tell func(send func(signal string, body ...any))
}

// serve answers on a socket as the manager's own does, and returns the places
// of a system that has it.
func (f *fake) serve(t *testing.T) places {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "private")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go f.talk(conn)
		}
	}()
	return places{booted: dir, endpoints: []endpoint{{socket, false}}}
}

func (f *fake) talk(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	if _, err := in.ReadByte(); err != nil {
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch {
		case strings.TrimSpace(line) == "AUTH":
			fmt.Fprint(conn, "REJECTED EXTERNAL\r\n")
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			fmt.Fprint(conn, "DATA\r\n")
		case strings.HasPrefix(line, "DATA"):
			fmt.Fprint(conn, "OK 0123456789abcdef0123456789abcdef\r\n")
		case strings.TrimSpace(line) == "BEGIN":
			f.messages(conn, in)
			return
		}
	}
}

func (f *fake) messages(conn io.Writer, in io.Reader) {
	var mu sync.Mutex
	pings := 0
	if f.tell != nil {
		f.tell(func(signal string, body ...any) {
			msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldPath: dbus.MakeVariant(managerPath), dbus.FieldInterface: dbus.MakeVariant(strings.TrimSuffix(manager, ".")), dbus.FieldMember: dbus.MakeVariant(signal),
				dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(body...)),
			}, Body: body}
			mu.Lock()
			defer mu.Unlock()
			_ = msg.EncodeTo(conn, binary.LittleEndian)
		})
	}
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		text := func(field dbus.HeaderField) string { return call.Headers[field].Value().(string) }
		var reply []any
		refused := ""
		if text(dbus.FieldMember) != "Ping" {
			reply, refused = f.answer(call.Headers[dbus.FieldPath].Value().(dbus.ObjectPath), text(dbus.FieldMember), call.Body)
		} else if pings++; pings == 1 {
			continue // the first is lost behind the greeting, as now and then with the real one
		}
		msg := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(call.Serial())}, Body: reply}
		switch {
		case refused == "hang up":
			return
		case refused == "silence":
			continue
		case refused != "":
			msg.Type, msg.Body = dbus.TypeError, nil
			msg.Headers[dbus.FieldErrorName] = dbus.MakeVariant(refused)
		}
		if len(msg.Body) > 0 {
			msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(msg.Body...))
		}
		mu.Lock()
		err = msg.EncodeTo(conn, binary.LittleEndian)
		mu.Unlock()
		if err != nil {
			return
		}
	}
}

type inList struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	Job                                             uint32
	JobType                                         string
	JobPath                                         dbus.ObjectPath
}

type command struct {
	Path   string
	Argv   []string
	Ignore bool
	A, B   uint64
	C, D   uint64
	Pid    uint32
	E, F   int32
}

type pair struct {
	Name  string
	Value []byte
}

// recorded are the properties of a unit as systemd 252 gives them.
func recorded() map[string]any {
	return map[string]any{
		"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "SourcePath": "/etc/ampoule/web.microvm", "NeedDaemonReload": true,
		"Description": "The web", "StateChangeTimestamp": uint64(1700000000123456), "StatusText": "ready", "MemoryCurrent": uint64(1 << 20), "MainPID": uint32(77),
		"ExecStart":    []command{{Path: "/usr/bin/ampoule", Argv: []string{"/usr/bin/ampoule", "run"}}},
		"InvocationID": []byte{0xab, 1}, "LoadError": struct{ A, B string }{"", ""}, "FragmentPath": "/run/x", "DropInPaths": []string{"/a", "/b"}, "UnitFileState": "generated",
		"Result": "exit-code", "ExecMainCode": int32(1), "ExecMainStatus": int32(121), "ExecMainExitTimestamp": uint64(0), "NRestarts": uint32(4),
		"SetCredential": []pair{{"ampoule.plan", []byte("{}")}},
	}
}

func manage(t *testing.T, f *fake) *Client {
	t.Helper()
	c, err := connect(t.Context(), f.serve(t), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// propertyOf answers Get out of a table.
func propertyOf(table map[string]any) func(dbus.ObjectPath, string, []any) ([]any, string) {
	return func(_ dbus.ObjectPath, _ string, body []any) ([]any, string) {
		v, ok := table[body[1].(string)]
		if !ok {
			return nil, "org.freedesktop.DBus.Error.UnknownProperty"
		}
		return []any{dbus.MakeVariant(v)}, ""
	}
}

func TestUnit(t *testing.T) {
	c := manage(t, &fake{answer: propertyOf(recorded())})
	got, err := c.Unit("microvm@web.service")
	if err != nil || got.Err != nil {
		t.Fatal(err, got.Err)
	}
	want := Unit{
		Name: "microvm@web.service", Description: "The web", LoadState: "loaded", ActiveState: "active", SubState: "running", SourcePath: "/etc/ampoule/web.microvm", NeedDaemonReload: true,
		Changed: time.UnixMicro(1700000000123456), StatusText: "ready", Memory: 1 << 20, ExecStart: []string{"/usr/bin/ampoule", "run"}, MainPID: 77,
		Detail: Detail{
			Invocation: "ab01", FragmentPath: "/run/x", DropInPaths: []string{"/a", "/b"}, UnitFileState: "generated", Result: "exit-code", ExitCode: 1, ExitStatus: 121, Restarts: 4,
			SetCredential: map[string][]byte{"ampoule.plan": []byte("{}")},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestUnitWrong: a value of another type, or one that is refused, costs that
// value; one that an older systemd does not have costs nothing.
func TestUnitWrong(t *testing.T) {
	for name := range recorded() {
		table := recorded()
		table[name] = struct{ A int16 }{1}
		u, err := manage(t, &fake{answer: propertyOf(table)}).Unit("x.service")
		if err != nil || u.Err == nil || !strings.Contains(u.Err.Error(), name) {
			t.Errorf("%s of another type: %v, %v", name, err, u.Err)
		}
		delete(table, name)
		if u, err = manage(t, &fake{answer: propertyOf(table)}).Unit("x.service"); err != nil || u.Err != nil {
			t.Errorf("without %s: %v, %v", name, err, u.Err)
		}
	}
	refuse := &fake{answer: func(dbus.ObjectPath, string, []any) ([]any, string) {
		return nil, "org.freedesktop.DBus.Error.AccessDenied"
	}}
	if u, err := manage(t, refuse).Unit("x.service"); err != nil || u.Err == nil {
		t.Errorf("denied: %v, %v", err, u.Err)
	}
}

func TestUnits(t *testing.T) {
	const n = 500
	table := recorded()
	table["MemoryCurrent"] = ^uint64(0)
	f := &fake{}
	asked := map[string][]string{}
	f.answer = func(path dbus.ObjectPath, member string, body []any) ([]any, string) {
		if member == "ListUnitsByPatterns" {
			var out []inList
			for i := range n {
				state := []string{"active", "inactive"}[i%2]
				out = append(out, inList{Name: fmt.Sprintf("microvm@v%03d.service", n-i), Load: "loaded", Active: state, Path: "/", JobPath: "/"})
			}
			return []any{append(out, inList{Name: "microvm@gone.service", Load: "not-found", Active: "inactive", Path: "/", JobPath: "/"})}, ""
		}
		asked[string(path)] = append(asked[string(path)], body[1].(string))
		return propertyOf(table)(path, member, body)
	}
	units, err := manage(t, f).Units("microvm@*.service", []string{"microvm@v001.service", "microvm@zz.service", "microvm@zz.service", "microvm@gone.service"})
	if err != nil || len(units) != n+2 {
		t.Fatalf("%d units, %v", len(units), err)
	}
	if !slices.IsSortedFunc(units, func(a, b Unit) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("they are not sorted")
	}
	for _, u := range units {
		if u.Memory != -1 || u.Err != nil {
			t.Fatalf("%+v", u)
		}
	}
	inactive, active := asked["/org/freedesktop/systemd1/unit/microvm_40v499_2eservice"], asked["/org/freedesktop/systemd1/unit/microvm_40v500_2eservice"]
	if slices.Contains(inactive, "MemoryCurrent") || !slices.Contains(active, "MemoryCurrent") || slices.Contains(active, "LoadState") || len(active) > 8 {
		t.Errorf("asked of an inactive unit %q, of an active one %q", inactive, active)
	}
	if got := asked["/org/freedesktop/systemd1/unit/microvm_40zz_2eservice"]; !slices.Equal(got, []string{"ExecStart"}) {
		t.Errorf("asked of a unit that is not in memory: %q", got)
	}
	if got := asked["/org/freedesktop/systemd1/unit/microvm_40gone_2eservice"]; got != nil {
		t.Errorf("asked of a unit that there is not: %q", got)
	}
}

func TestUnitOfPID(t *testing.T) {
	c := manage(t, &fake{answer: func(path dbus.ObjectPath, member string, body []any) ([]any, string) {
		switch {
		case member == "GetUnitByPID" && body[0] == uint32(7):
			return []any{dbus.ObjectPath("/u")}, ""
		case member == "GetUnitByPID":
			return nil, "org.freedesktop.systemd1.NoUnitForPID"
		}
		return []any{dbus.MakeVariant("web.service")}, ""
	}})
	if name, err := c.UnitOfPID(7); err != nil || name != "web.service" {
		t.Errorf("%q, %v", name, err)
	}
	if _, err := c.UnitOfPID(8); err == nil {
		t.Error("a process without a unit has one")
	}
}

// TestAbsent: no systemd is told from one that cannot be asked.
func TestAbsent(t *testing.T) {
	dir := t.TempDir()
	if _, err := connect(t.Context(), places{booted: filepath.Join(dir, "none")}, time.Second); !errors.Is(err, ErrAbsent) {
		t.Errorf("without systemd: %v", err)
	}
	_, err := connect(t.Context(), places{booted: dir, endpoints: []endpoint{{filepath.Join(dir, "bus"), true}}}, time.Second)
	if err == nil || errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("without a bus: %v", err)
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skip("this host has a systemd")
	}
	if _, err := Connect(t.Context()); !errors.Is(err, ErrAbsent) {
		t.Errorf("here: %v", err)
	}
}

// TestSilence: who does not answer is not waited for, at whatever point.
func TestSilence(t *testing.T) {
	const patience = 300 * time.Millisecond
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "mute"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begin := time.Now()
	if _, err := connect(t.Context(), places{booted: dir, endpoints: []endpoint{{l.Addr().String(), false}}}, patience); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("a mute socket: %v", err)
	}
	for _, how := range []string{"silence", "hang up"} {
		var calls atomic.Int64
		f := &fake{answer: func(p dbus.ObjectPath, m string, b []any) ([]any, string) {
			if calls.Add(1) > 3 {
				return nil, how
			}
			return propertyOf(recorded())(p, m, b)
		}}
		c, err := connect(t.Context(), f.serve(t), patience)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Unit("x.service"); err == nil {
			t.Errorf("%s: no error", how)
		}
		c.Close()
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}
