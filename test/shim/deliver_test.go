package shim

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/shim/layout"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// everything is a credential of every kind.
func everything() []credential {
	creds := []credential{
		{"text", []byte("sup3r-s3cret value\n")},
		{"empty", nil},
		{"nul", append([]byte("before\x00after\x00"), value("nul", 40)...)},
		{"page", value("page", 4096)},
		{"page-and-one", value("more", 4097)},
		{"buffer", value("buffer", 128<<10)},
		{"large", value("large", 700<<10)},
		{strings.Repeat("n", 100), value("long name", 64)},
		{strings.Repeat("x", 255), value("longest name", 64)},
		{"name with blanks = \u00e9", value("odd name", 64)},
	}
	for i := range 300 {
		creds = append(creds, credential{fmt.Sprintf("many.%03d", i), value(fmt.Sprint("many", i), 100+i)})
	}
	return creds
}

// TestDelivers is the one boot that shows all that works where nothing is in
// the way.
func TestDelivers(t *testing.T) {
	need.All(t, need.VM)
	creds := everything()
	m := machine{
		initrd: append(overlay(creds, ""), base(dir("etc"), file{name: "etc/file", mode: cpio.TypeRegular | 0o644, body: []byte("of the guest")})...),
		words:  `single KEY=word QUOTED="two words" -- behind`,
	}
	r, o := m.reported(t)
	t.Logf("boot of %s", o.took)
	wantDelivered(t, o, creds)
	if want := []string{"/init", "single", "behind"}; !slices.Equal(r.Args, want) {
		t.Errorf("arguments %q, want %q", r.Args, want)
	}
	for _, want := range []string{"HOME=/", "TERM=linux", "KEY=word", "QUOTED=two words"} {
		if !slices.Contains(r.Env, want) {
			t.Errorf("environment %q lacks %q", r.Env, want)
		}
	}
	if r.Cwd != "/" || r.Umask != 0o022 || !slices.Equal(r.Open, []int{0, 1, 2}) {
		t.Errorf("directory %q, umask %#o, open %v", r.Cwd, r.Umask, r.Open)
	}
	var paths []string
	for _, f := range r.Root {
		paths = append(paths, f.Path)
	}
	if want := []string{"/dev", "/dev/console", "/etc", "/etc/file", "/init", "/proc", "/root"}; !slices.Equal(paths, want) {
		t.Errorf("the root has %q, want %q", paths, want)
	}
	if len(r.Run) != 1 || r.Run[0].Path != "/run/credentials" || r.Run[0].Mode != 0o40755 {
		t.Errorf("/run has %+v", r.Run)
	}
	if n := strings.Count(o.console, "ampoule-init: "); n != 1 {
		t.Errorf("%d lines of the shim on the console", n)
	}
	for _, c := range creds {
		if len(c.value) >= 12 && strings.Contains(o.console, string(c.value[:12])) {
			t.Errorf("the console has a value of %s", c.name)
		}
	}
}

// TestNewerKernel: the same with Linux 6.12.
func TestNewerKernel(t *testing.T) {
	need.All(t, need.VMAll)
	_, o := machine{suite: "trixie", initrd: append(overlay(everything(), ""), base()...)}.reported(t)
	wantDelivered(t, o, everything())
}

var few = []credential{{"API_KEY", value("key", 48)}, {"second", value("second", 5000)}}

// TestNothingInTheWay: what an initial RAM disk may have that must not keep
// credentials from the guest.
func TestNothingInTheWay(t *testing.T) {
	need.All(t, need.VMAll)
	reg := func(name, body string) file {
		return file{name: name, mode: cpio.TypeRegular | 0o644, body: []byte(body)}
	}
	cases := map[string][]file{
		"no credential":    nil,
		"a directory /run": {dir("run"), reg("run/file", "hidden, as by systemd")},
		"an overlay of its own": {
			{name: layout.Dir[1:], mode: cpio.TypeDir | 0o755}, reg(layout.Dir[1:]+"/file", "x"), dir(layout.Dir[1:] + "/below"),
			reg(layout.Dir[1:]+"/below/file", "y"), {name: layout.Dir[1:] + "/link", mode: cpio.TypeSymlink | 0o777, body: []byte("/keep")},
			reg("keep", "kept"),
		},
		"a second name": {
			{name: "keep", mode: cpio.TypeRegular | 0o644, same: 7, body: []byte("kept")}, {name: layout.Dir[1:] + "/name", mode: cpio.TypeRegular | 0o644, same: 7},
		},
	}
	for name, more := range cases {
		t.Run(name, func(t *testing.T) {
			creds := few
			if name == "no credential" {
				creds = nil
			}
			r, o := machine{initrd: append(overlay(creds, ""), base(more...)...)}.reported(t)
			wantDelivered(t, o, creds)
			for _, f := range more {
				if f.name == "keep" && !slices.ContainsFunc(r.Root, func(g reportFile) bool { return g.Path == "/keep" && g.SHA256 == hash("kept") }) {
					t.Errorf("/keep is not as it was: %+v", r.Root)
				}
			}
		})
	}
}

// TestInTheWay: the guest boots, without credentials, and says why.
func TestInTheWay(t *testing.T) {
	need.All(t, need.VMAll)
	run := func(mode uint32, body string) file { return file{name: "run", mode: mode, body: []byte(body)} }
	cases := map[string]struct {
		more   []file
		reason string
	}{
		"a file /run":                       {[]file{run(cpio.TypeRegular|0o644, "x")}, "/run is not a directory"},
		"a dangling link":                   {[]file{run(cpio.TypeSymlink|0o777, "/var/run")}, "/run is not a directory"},
		"a link":                            {[]file{dir("var"), dir("var/run"), run(cpio.TypeSymlink|0o777, "/var/run")}, "/run is not a directory"},
		"a directory among the credentials": {[]file{dir(layout.Credentials[1:] + "/more")}, "more: "},
		"a link among the credentials": {
			[]file{{name: layout.Credentials[1:] + "/more", mode: cpio.TypeSymlink | 0o777, body: []byte("/init")}}, "more: ",
		},
		"a second name among the credentials": {
			[]file{{name: "keep", mode: cpio.TypeRegular | 0o644, same: 7, body: []byte("kept")}, {name: layout.Credentials[1:] + "/more", mode: cpio.TypeRegular | 0o644, same: 7}},
			"more: not a file of its own",
		},
		"a device among the credentials": {
			[]file{{name: layout.Credentials[1:] + "/more", mode: cpio.TypeChar | 0o600, major: 1, minor: 5}}, "more: not a file of its own",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r, o := machine{initrd: append(overlay(few, ""), base(c.more...)...)}.reported(t)
			wantNothing(t, o, c.reason)
			for _, f := range few {
				if slices.ContainsFunc(r.Root, func(g reportFile) bool { return g.SHA256 == hash(string(f.value)) }) {
					t.Errorf("%s is still there", f.name)
				}
			}
		})
	}
}

// TestImage: a kernel with RAM disks built in leaves the whole initial RAM disk
// behind if it could not unpack a part; here the file is put there.
func TestImage(t *testing.T) {
	need.All(t, need.VMAll)
	front := overlay(few, "")
	of := func(body []byte) file { return file{name: "initrd.image", mode: cpio.TypeRegular | 0o700, body: body} }
	_, o := machine{initrd: append(bytes.Clone(front), base(of(front[:len(front)-5000]))...)}.reported(t)
	wantDelivered(t, o, few)

	r, _ := machine{initrd: append(bytes.Clone(front), base(of([]byte("another file of that name")))...)}.reported(t)
	if !slices.ContainsFunc(r.Root, func(g reportFile) bool { return g.Path == "/initrd.image" }) {
		t.Error("a file of the guest is gone")
	}
}

// TestFullMemory: a guest that keeps its initial RAM disk has no room for one
// more copy of a large credential. It boots without any.
func TestFullMemory(t *testing.T) {
	need.All(t, need.VMAll)
	large := []credential{{"first", value("first", 5000)}, {"large", bytes.Repeat(value("large", 1<<20), 170)}}
	// With root= the initial root is a ramfs, which has no limit of its own.
	_, o := machine{initrd: append(overlay(large, ""), base()...), words: "retain_initrd root=none"}.reported(t)
	wantNothing(t, o, "large: cannot allocate memory")
}
