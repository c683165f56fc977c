package run

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// ends are descriptors to hand on.
func ends(t testing.TB) (control, console *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// A vsock is the kernel's, by a descriptor and a number, or one by its path.
func TestAssembleVSock(t *testing.T) {
	control, console := ends(t)
	device, _ := ends(t)
	for _, c := range []struct {
		words   string
		sockets sockets
		want    string
	}{
		{"guest-cid={cid},vhostfd={fd}", sockets{vhost: device, cid: 7}, "guest-cid=7,vhostfd=5"},
		{"path={path}", sockets{vsockPath: "/run/web/vsock"}, "path=/run/web/vsock"},
	} {
		p := makePlan(t)
		p.VM.Command = append(p.VM.Command, plan.Part{Ask: plan.AskVSock, Words: []string{c.words}})
		c.sockets.control, c.sockets.console = control, console
		got, err := assemble(p, answers{accelerator: p.VM.Accelerator[len(p.VM.Accelerator)-1], sockets: c.sockets})
		if err != nil {
			t.Fatal(err)
		}
		if last := got.argv[len(got.argv)-1]; last != c.want {
			t.Errorf("%s became %s", c.words, last)
		}
	}
}

// TestAssembleNetworks: interfaces go by descriptors, those of vhost only where there
// are some, and each to its own network.
func TestAssembleNetworks(t *testing.T) {
	control, console := ends(t)
	a, b := ends(t)
	c, d := ends(t)
	p := makePlan(t, "Network=tap:queues=2,mac=02:00:00:00:00:01", "Network=bridge:br0,mac=02:00:00:00:00:02")
	first, second := p.VM.Networks[0].From, p.VM.Networks[1].From
	got, err := assemble(p, answers{accelerator: p.VM.Accelerator[len(p.VM.Accelerator)-1], sockets: sockets{control: control, console: console, networks: map[string]netFiles{
		first: {taps: []*os.File{a, b}}, second: {taps: []*os.File{c}, vhost: []*os.File{d}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(got.argv, "\n") + "\n"
	for _, want := range []string{
		"-netdev\ntap,id=net0,fds=5:6\n-device\nvirtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,romfile=,mq=on,vectors=6\n",
		"-netdev\ntap,id=net1,fds=7,vhost=on,vhostfds=8\n-device\nvirtio-net-pci,netdev=net1,mac=02:00:00:00:00:02,romfile=\n",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in\n%s", want, line)
		}
	}
	if want := []*os.File{control, console, a, b, c, d}; !slices.Equal(got.files, want) {
		t.Errorf("%d descriptors in another order", len(got.files))
	}
}

func TestAssemble(t *testing.T) {
	p := makePlan(t, "Machine=microvm", "KernelCommandLine=quiet", "CredentialChannel=fw_cfg", "HypervisorArgs=-msg timestamp=on")
	control, console := ends(t)
	list := creds(t, "a,b", 3, "{fd}{count}", 5)
	tcg := p.VM.Accelerator[len(p.VM.Accelerator)-1]
	c, err := assemble(p, answers{accelerator: tcg, channel: &p.VM.Channels[0], credentials: list, sockets: sockets{control: control, console: console}, khz: func() (int, error) { return 2600123, nil }})
	if err != nil {
		t.Fatal(err)
	}
	line := "\n" + strings.Join(c.argv, "\n") + "\n"
	for _, want := range []string{
		"-chardev\nsocket,id=control,fd=3\n", "-chardev\nsocket,id=console,fd=4\n",
		"tsc_early_khz=2600123 ", " quiet\n", "-global\nfw_cfg_io.x-file-slots=66\n",
		"-fw_cfg\nname=opt/io.systemd.credentials/a,,b,file=/proc/self/fd/5\n",
		"-fw_cfg\nname=opt/io.systemd.credentials/{fd}{count},file=/proc/self/fd/6\n",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in\n%s", want, line)
		}
	}
	if strings.Contains(line, "SSS") {
		t.Error("a value stands in the command line")
	}
	if len(c.files) != 4 || len(c.argv) != len(c.from) {
		t.Fatalf("%d descriptors, %d words, %d sources", len(c.files), len(c.argv), len(c.from))
	}
	if got, err := io.ReadAll(c.files[3]); err == nil && len(got) != 5 && len(got) != 0 {
		t.Errorf("descriptor 6 has %d bytes", len(got))
	}
	for i, want := range []string{"SSS", "SSSSS"} {
		buf := make([]byte, 10)
		n, _ := c.files[2+i].ReadAt(buf, 0)
		if string(buf[:n]) != want {
			t.Errorf("descriptor %d has %q", 5+i, buf[:n])
		}
		if seals, err := unix.FcntlInt(c.files[2+i].Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
			t.Errorf("descriptor %d is not sealed", 5+i)
		}
	}
	c.closeSecrets()
	if c.files[2].Fd() != ^uintptr(0) || c.sealed != nil {
		t.Error("the credentials are still open")
	}

	for argument, want := range map[string]string{
		"-msg timestamp=on": "HypervisorArgs[0]", "-msg": "HypervisorArgs[0]", "-kernel " + p.VM.Kernel: "Kernel",
		"": "", "-msg timestamp": "", "-nonsense": "", "-nodefaults": "",
	} {
		got, ok := c.blame(argument)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q %v, want %q", argument, got, ok, want)
		}
	}
	c.add("KernelCommandLine[0]", "")
	if from, ok := c.blame(""); ok {
		t.Errorf("no argument at all is blamed on %q", from)
	}
}

func TestAssembleSMBIOS(t *testing.T) {
	p := makePlan(t)
	control, console := ends(t)
	c, err := assemble(p, answers{accelerator: p.VM.Accelerator[0], channel: &p.VM.Channels[0], credentials: creds(t, "one", 3000, "two", 3000, "x", 1), sockets: sockets{control: control, console: console}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.closeSecrets()
	if n := len(c.sealed); n != 2 {
		t.Errorf("%d structures", n)
	}
	for _, m := range c.sealed {
		head := make([]byte, 2)
		if _, err := m.File().ReadAt(head, 0); err != nil || head[0] != 11 || m.Len() > 4096 {
			t.Errorf("a structure of type %d, %d bytes: %v", head[0], m.Len(), err)
		}
	}
	if i := slices.Index(c.argv, "file=/proc/self/fd/5"); i < 1 || c.argv[i-1] != "-smbios" {
		t.Errorf("%q", c.argv)
	}
}

// On error nothing stays open.
func TestAssembleRefuses(t *testing.T) {
	p := makePlan(t, "Machine=microvm")
	control, console := ends(t)
	tcg := p.VM.Accelerator[len(p.VM.Accelerator)-1]
	khz := func() (int, error) { return 1, nil }
	broken := errors.New("no such counter")
	wiped := creds(t, "a", 1)
	wiped[0].Value.Wipe()
	change := func(f func(*plan.Plan)) *plan.Plan {
		q := *p
		q.VM.Command = slices.Clone(p.VM.Command)
		q.VM.Channels = slices.Clone(p.VM.Channels)
		f(&q)
		return &q
	}
	noPlace := change(func(q *plan.Plan) {
		q.VM.Command = slices.DeleteFunc(q.VM.Command, func(part plan.Part) bool { return part.Ask == plan.AskChannel })
	})
	odd := change(func(q *plan.Plan) { q.VM.Channels[0].Encoding = "odd" })
	question := change(func(q *plan.Plan) { q.VM.Command = append(q.VM.Command, plan.Part{Ask: "weather"}) })
	long := change(func(q *plan.Plan) { q.VM.CommandLineMax = 10 })
	for name, tt := range map[string]struct {
		plan *plan.Plan
		a    answers
		want string
	}{
		"counter":  {p, answers{accelerator: tcg, channel: &p.VM.Channels[0], credentials: creds(t, "a", 1), sockets: sockets{control: control, console: console}, khz: func() (int, error) { return 0, broken }}, "no such counter"},
		"wiped":    {p, answers{accelerator: tcg, channel: &p.VM.Channels[0], credentials: append(creds(t, "b", 1), wiped...), sockets: sockets{control: control, console: console}, khz: khz}, secret.ErrWiped.Error()},
		"no place": {noPlace, answers{accelerator: tcg, channel: &noPlace.VM.Channels[0], credentials: creds(t, "a", 1), sockets: sockets{control: control, console: console}, khz: khz}, "no place for the credentials"},
		"encoding": {odd, answers{accelerator: tcg, channel: &odd.VM.Channels[0], credentials: creds(t, "a", 1), sockets: sockets{control: control, console: console}, khz: khz}, `the encoding "odd"`},
		"question": {question, answers{accelerator: tcg, channel: &p.VM.Channels[0], credentials: creds(t, "a", 1), sockets: sockets{control: control, console: console}, khz: khz}, `asks "weather"`},
		"too long": {long, answers{accelerator: tcg, sockets: sockets{control: control, console: console}, khz: khz}, "the kernel would cut it at 10"},
	} {
		before := descriptors(t)
		c, err := assemble(tt.plan, tt.a)
		if err == nil || !strings.Contains(err.Error(), tt.want) || c != nil {
			t.Errorf("%s: %v", name, err)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%s: %d memory files, %d before", name, after, before)
		}
	}
}

// What messages show of a request never holds a value.
func TestRequests(t *testing.T) {
	const value = "s3cr3t-value"
	p := makePlan(t,
		"LoadCredential=a:/x", "LoadCredential=b", "LoadCredentialEncrypted=c:/y", "SetCredential=d:"+value,
		"SetCredentialEncrypted=e:czNjcjN0LXZhbHVl", "ImportCredential=f*", "Credential=guest:g", "Credential=h",
		"[Service]", "LoadCredential=g:/z", "LoadCredential=h:/z")
	var shown []string
	for _, r := range preflight.Requests(p, p.VM.Credentials) {
		shown = append(shown, r.Key+"="+r.Shown)
		if r.Origin.Line == 0 || !strings.HasSuffix(r.Origin.File, "test.microvm") {
			t.Errorf("%s is at %v", r.Shown, r.Origin)
		}
	}
	slices.Sort(shown)
	want := []string{
		"Credential=guest:g", "Credential=h", "ImportCredential=f*", "LoadCredential=a:/x", "LoadCredential=b",
		"LoadCredentialEncrypted=c:/y", "SetCredential=d:…", "SetCredentialEncrypted=e:…",
	}
	if !slices.Equal(shown, want) {
		t.Errorf("%q, want %q", shown, want)
	}
	if r := preflight.Requests(p, p.Unit.Credentials); len(r) != 2 || r[0].Key != "LoadCredential" {
		t.Errorf("of [Service]: %+v", r)
	}
}
