package diagnose

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/nixstore"
)

// treeOf makes a tree of files; content that begins with "->" is a link's target.
func treeOf(t testing.TB, files map[string]string) *nixstore.Tree {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(content, "->"); link {
			err = os.Symlink(target, p)
		} else {
			err = os.WriteFile(p, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tree, err := nixstore.NewTree(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// lookIn is a looker that has found its units.
func lookIn(t testing.TB, files map[string]string) *looker {
	l := &looker{tree: treeOf(t, files), host: &Host{Root: "/", StateDir: defaultState}, said: map[string]bool{}, guests: map[string][]Wanted{}}
	l.units = newUnits(l, etcUnits)
	return l
}

// TestUnit: the instance's file before the template's, /etc before /run, drop-ins of
// both and of the type in one order by name, where a stronger one hides a weaker, and
// a link to /dev/null takes one away.
func TestUnit(t *testing.T) {
	l := lookIn(t, map[string]string{
		"etc/systemd/system/microvm@.service":                  "[Service]\nExecStart=/template\nX=1\n",
		"run/systemd/system/microvm@.service":                  "[Service]\nExecStart=/weaker\n",
		"etc/systemd/system/microvm@web.service.d/b.conf":      "[Service]\nX=instance\nLoadCredential=A:/a\nLoadCredential=B:/b\nAfter=no\n",
		"etc/systemd/system/microvm@.service.d/a.conf":         "[Service]\nX=template\n[Unit]\nAfter=one two\n",
		"run/systemd/system/microvm@web.service.d/c.conf":      "[Service]\nExecStart=\nExecStart=/run\nLoadCredential=A:/other\n[Unit]\nAfter=three\n",
		"run/systemd/system/microvm@web.service.d/b.conf":      "[Service]\nX=hidden\n",
		"etc/systemd/system/service.d/z.conf":                  "[Service]\nY=type\n",
		"run/systemd/system/service.d/c.conf":                  "[Service]\nY=hidden\n",
		"etc/systemd/system/microvm@web.service.d/x.conf":      "->/dev/null",
		"etc/systemd/system/microvm@web.service.d/README":      "[Service]\nX=no\n",
		"etc/systemd/system/microvm@masked.service":            "->/dev/null",
		"etc/systemd/system/microvm-tap-@web.service.d/a.conf": "[Service]\nX=prefix\n",
		"etc/systemd/system/microvm-tap-interfaces@.service":   "[Service]\nX=1\n",
	})
	u := l.units.find("microvm@web.service")
	var files []string
	for _, f := range u.Files {
		files = append(files, strings.TrimPrefix(f.Path, "/"))
	}
	if want := []string{"etc/systemd/system/microvm@.service", "etc/systemd/system/microvm@.service.d/a.conf", "etc/systemd/system/microvm@web.service.d/b.conf", "run/systemd/system/microvm@web.service.d/c.conf", "etc/systemd/system/service.d/z.conf"}; !slices.Equal(files, want) {
		t.Errorf("%q", files)
	}
	if e, _ := u.last("Service", "X"); e.Value != "instance" {
		t.Errorf("X=%s", e.Value)
	}
	if all := u.values("Service", "ExecStart"); len(all) != 1 || all[0].Value != "/run" || all[0].Origin.Line != 3 {
		t.Errorf("%+v", all)
	}
	var loads []string
	for _, e := range u.values("Service", "LoadCredential") {
		loads = append(loads, e.Value)
	}
	if !slices.Equal(loads, []string{"B:/b", "A:/other"}) {
		t.Errorf("%q", loads)
	}
	for name, want := range map[string]bool{"one": true, "two": true, "three": true, "no": false} {
		if u.lists("After", name) != want {
			t.Errorf("After=%s", name)
		}
	}
	if u := l.units.find("microvm@masked.service"); !u.Masked {
		t.Errorf("%+v", u)
	}
	if e, _ := l.units.find("microvm-tap-interfaces@web.service").last("Service", "X"); e.Value != "prefix" {
		t.Errorf("%+v", e)
	}
	if u := l.units.find("other.service"); u != nil {
		t.Errorf("%+v", u)
	}
}

// TestWhoseVMs: a unit that Ampoule's generator made is not microvm.nix's; a variant of
// the profile's system is no other system.
func TestWhoseVMs(t *testing.T) {
	tree := treeOf(t, map[string]string{
		"run/systemd/generator/microvm@ours.service": "[Service]\nExecStart=/usr/bin/ampoule run\n", "etc/systemd/system/microvm@ours.service.d/x.conf": "[Service]\nNice=1\n",
		"etc/systemd/system/microvm@.service": "[Service]\nWorkingDirectory=/srv/vms/%i\n", "etc/systemd/system/microvm@theirs.service.d/x.conf": "[Service]\nNice=1\n", "srv/vms/other/flake": "github:a/b",
		"nix/var/nix/profiles/system": "->system-3-link", "nix/var/nix/profiles/system-3-link": "->" + systemA, "run/current-system": "->" + systemB,
		systemB[1:] + "/x": "", systemA[1:] + "/specialisation/small": "->" + systemB,
	})
	h := Look(tree, "/bin/ampoule")
	var names []string
	for _, vm := range h.VMs {
		names = append(names, vm.Name)
	}
	if !slices.Equal(names, []string{"other", "theirs"}) || h.StateDir != "/srv/vms" || h.Specialisation != "small" || h.System != systemB || !h.Running {
		t.Errorf("%q, %+v", names, h)
	}
	if f := runningNotInProfile(h); f != nil {
		t.Errorf("%+v", f)
	}
}

func TestSpecifiers(t *testing.T) {
	for s, want := range map[string]string{"/a": "/a", "/x/%i": "/x/web", "%t/%n%%": "/run/microvm@web.service%", "%d/%q%": "/run/credentials/microvm@web.service/%q%"} {
		if got := specifiers(s, "microvm@web.service"); got != want {
			t.Errorf("%s: %s", s, got)
		}
	}
}

// TestProcesses: those of a VM's service, by the control group, with the time of their
// start; a name with blanks and parentheses does not move the fields.
func TestProcesses(t *testing.T) {
	stat := func(ticks int) string {
		return fmt.Sprintf("41 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 %d 20\n", ticks)
	}
	l := lookIn(t, map[string]string{
		"proc/stat": "cpu 1\nbtime 1700000000\n", "proc/self/cgroup": "0::/system.slice/microvm@no.service\n",
		"proc/41/cgroup": "0::/system.slice/system-microvm.slice/microvm@web.service\n", "proc/41/cmdline": "microvm@web\x00-m\x00\x00", "proc/41/stat": stat(150),
		"proc/42/cgroup": "1:name=systemd:/microvm@web.service/sub\n", "proc/42/cmdline": "socat\x00", "proc/42/stat": "42 broken",
		"proc/43/cgroup": "0::/user.slice\n", "proc/43/cmdline": "x\x00", "proc/44/cgroup": "0::/microvm@web.service\n",
	})
	all := l.processes()
	if len(all) != 1 || len(all["web"]) != 2 || !slices.Equal(all["web"][0].Args, []string{"microvm@web", "-m", ""}) || !all["web"][1].Since.IsZero() {
		t.Errorf("%+v", all)
	}
	if since := all["web"][0].Since; !since.Equal(time.Unix(1700000001, 5e8)) {
		t.Error(since)
	}
	if p := l.mainProcess(&VM{}, all["web"]); p.PID != 41 || !l.host.ProcessesKnown {
		t.Errorf("%+v", p)
	}
}

func TestGiven(t *testing.T) {
	for word, want := range map[string][2]string{
		"oem_strings=[io.systemd.credential:A=x,io.systemd.credential:vmm.notify_socket=vsock-stream:2:8888]": {"A", ""},
		"type=11,value=io.systemd.credential.binary:B=eA==":                                                   {"B", ""},
		"name=opt/io.systemd.credentials/C,string=x":                                                          {"C", ""}, "name=opt/io.systemd.credentials/C,file=/x": {"", ""},
		"a systemd.set_credential=D:x systemd.set_credential_binary=E:eA== b": {"D E", ""},
		"io.systemd.credential:F=$SECRET":                                     {"", "F"}, "io.systemd.credential:G=`cat x`": {"", "G"}, "io.systemd.credential:H=": {"", ""},
	} {
		literal, made := inWords(word)
		if got := [2]string{strings.Join(literal, " "), strings.Join(made, " ")}; got != want {
			t.Errorf("%s: %q", word, got)
		}
	}
}

func TestFound(t *testing.T) {
	for text, want := range map[string]int{"secret-1": 1, "a\nb='secret-1';": 2, "xsecret-1": 0, "secret-12": 0, "xsecret-1 secret-1": 1, "": 0} {
		if got := found([]byte(text), []byte("secret-1")); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
	for text, want := range map[string]bool{"/run/x": true, "a=/run/x,b": true, "/run/xy": false, "/run/x/y": false, "/a/run/x": false} {
		if names(text, "/run/x") != want {
			t.Errorf("%q", text)
		}
	}
	for text, want := range map[string]int{"#!/bin/sh\necho a > /run/x\n": 2, "install -m 400 a /run/x": 1, "cat /run/x": 0, "vault -output=a -o '/run/x'": 1, "a > /run/xy": 0} {
		if got := writes(text, "/run/x"); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestFlakeDir(t *testing.T) {
	for ref, want := range map[string]string{
		"git+file:///etc/nixos?ref=main": "/etc/nixos true", "/home/a/b?dir=sub": "/home/a/b/sub true", "path:/x/y": "/x/y false", "github:a/b": " false",
		"/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-source": "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-source false", "": " false", "git+file:/a#b": "/a true",
	} {
		dir, byGit := flakeDir(ref)
		if got := fmt.Sprint(dir, " ", byGit); got != want {
			t.Errorf("%s: %s", ref, got)
		}
	}
}

func TestAttribute(t *testing.T) {
	for name, want := range map[string]string{"API_KEY": "API_KEY", "api-key": "api-key", "api.key": `"api.key"`, "1a": `"1a"`, "a$b": `"a\$b"`} {
		if got := attribute(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// FuzzTexts: whatever a file has in it, there is an end and no panic.
func FuzzTexts(f *testing.F) {
	f.Add("41 (a) S 1\n", "0::/microvm@web.service", "[Service]\nLoadCredential=A:B\nExecStart=/x %i \"\n", "ln -sTf /x current\n")
	f.Fuzz(func(t *testing.T, stat, group, unit, script string) {
		started(stat, time.Unix(1, 0))
		vmOf(group)
		wantedIn("/u", unit)
		inWords(script)
		l := lookIn(t, map[string]string{
			"etc/systemd/system/microvm@web.service": unit, "etc/systemd/system/install-microvm-web.service": "[Service]\nExecStart=/script\n", "script": script,
			"var/lib/microvms/web/flake": group, "nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-microvm-web-microvm-run": script,
		})
		r := Judge(Look(l.tree, "/bin/ampoule"), nil)
		for i := range r.Findings {
			if f := r.Findings[i]; f.Title == "" || len(f.Evidence) == 0 || len(f.Cure) == 0 {
				t.Errorf("%+v", f)
			}
		}
	})
}
