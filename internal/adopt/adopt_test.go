package adopt

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/testkit/nixrunner"
)

var update = flag.Bool("update", false, "write the golden files anew")

// store lays the files of a runner out as a store has them, and says where the
// runner lies.
func store(t testing.TB, name string) (fs.FS, string) {
	t.Helper()
	root := t.TempDir()
	dir := nixrunner.Write(t, root, name)
	return nixrunner.FS(root), strings.TrimPrefix(dir, "/")
}

// result is what the command gives.
type result struct {
	draft    *Draft
	rows     []Row
	problems diag.List
}

// adopt does what the command does.
func adopt(t testing.TB, tree fs.FS, dir string, o Options) result {
	t.Helper()
	runner, found := microvmnix.ReadRunner(tree, dir)
	if runner == nil {
		return result{problems: found}
	}
	return adoptRunner(t, runner, found, o)
}

func adoptRunner(t testing.TB, runner *microvmnix.Runner, found diag.List, o Options) result {
	t.Helper()
	d, wrong := Adopt(runner, o)
	r := result{draft: d, problems: append(d.Settle(found), wrong...)}
	if len(d.Text) > 0 {
		file := d.FileName()
		res := pipeline.Load(pipeline.Input{
			Source:  &source.Set{Name: d.Name, Main: file, Fragment: "/etc/ampoule/" + file, Files: []source.File{{Path: file, Layer: "main", Data: d.Text}}},
			Drivers: all.Drivers(), Architecture: "x86-64",
		})
		problems, broken := d.Blame(res.Problems, file)
		r.problems = append(r.problems, problems...)
		if res.Draft != nil {
			rows, lost := d.Check(res.Draft, broken)
			r.rows, r.problems = rows, append(r.problems, lost...)
		}
	}
	r.problems.Sort()
	return r
}

func (r result) String() string {
	var b strings.Builder
	for _, p := range r.problems {
		fmt.Fprintln(&b, p.Error())
	}
	if r.draft != nil {
		b.Write(r.draft.Text)
	}
	fmt.Fprintln(&b)
	for _, row := range r.rows {
		fmt.Fprintf(&b, "%-9s %s:%d  %s | %s", row.Verdict, row.Key, row.Line, row.Script, row.Plan)
		if row.Reason != "" {
			fmt.Fprintf(&b, "  (%s)", row.Reason)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// ours are the runners of hypervisors that Ampoule has.
func ours(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, name := range nixrunner.Names(t) {
		if strings.HasPrefix(name, "cloud-hypervisor-") || strings.HasPrefix(name, "qemu-") || strings.HasPrefix(name, "firecracker-") {
			out = append(out, name)
		}
	}
	if len(out) < 60 {
		t.Fatalf("only %d runners", len(out))
	}
	return out
}

// TestGolden: each real runner, whole.
func TestGolden(t *testing.T) {
	names := ours(t)
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".golden"); !slices.Contains(names, name) {
			t.Errorf("%s is of no runner", file)
		}
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			tree, dir := store(t, name)
			got := adopt(t, tree, dir, Options{}).String()
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestExternal: what microvm.nix's units do, they go on doing.
func TestExternal(t *testing.T) {
	for name, want := range map[string][]string{
		"cloud-hypervisor-macvtap-multiqueue": {"Network=macvtap:eno1,name=mv-web,external,mac=02:00:00:02:01:01,queues=2", "Network=tap:name=vm-web,external,mac=02:00:00:00:00:01,queues=2"},
		"cloud-hypervisor-virtiofs":           {"Share=/nix/store:ro-store:socket=/var/lib/microvms/virtiofs/virtiofs-virtiofs-ro-store.sock"},
		"cloud-hypervisor-pci":                {"Device=pci:0000:01:00.0,external"},
		"qemu-tap":                            {"Network=tap:name=vm-web,external,mac=02:00:00:00:00:01"},
		"qemu-virtiofs-options":               {"Share=/srv/Music and more:music:ro,socket=/run/music.sock", "Share=/var/lib/microvms/virtiofs-options/mail:mail:socket=/var/lib/microvms/virtiofs-options/virtiofs-options-virtiofs-mail.sock"},
		"firecracker-tap":                     {"Network=tap:name=vm-web,external,mac=02:00:00:00:00:01"},
	} {
		tree, dir := store(t, name)
		r := adopt(t, tree, dir, Options{External: true})
		if len(r.problems) > 0 {
			t.Errorf("%s: %v", name, r.problems)
		}
		for _, line := range want {
			if !strings.Contains(string(r.draft.Text), "\n"+line+"\n") {
				t.Errorf("%s: no line %s in\n%s", name, line, r.draft.Text)
			}
		}
	}
}

// TestWithoutElement: what is behind a disk or a network that is left out moves up.
func TestWithoutElement(t *testing.T) {
	for _, c := range []struct{ name, without, gone string }{
		{"cloud-hypervisor-volumes", "disk[1]", "data.img"}, {"qemu-volumes", "disk[0]", "store-disk"}, {"firecracker-volumes", "disk[2]", "db.img"},
		{"cloud-hypervisor-tap-multiqueue", "net[0]", "name=vm-web,"}, {"cloud-hypervisor-pci", "device[0]", "01:00.0"}, {"qemu-9p", "share[0]", "ro-store"},
	} {
		tree, dir := store(t, c.name)
		before, r := adopt(t, tree, dir, Options{}), adopt(t, tree, dir, Options{Without: []string{c.without}})
		lines := func(r result) (n int) { return strings.Count(string(r.draft.Text), "\n") }
		if r.problems.HasErrors() || lines(r) >= lines(before) || !strings.Contains(string(before.draft.Text), c.gone) {
			t.Errorf("%s without %s: %s", c.name, c.without, r)
		}
		for line := range strings.Lines(string(r.draft.Text)) {
			if !strings.HasPrefix(line, "#") && strings.Contains(line, c.gone) {
				t.Errorf("%s without %s: %s", c.name, c.without, line)
			}
		}
		if !slices.ContainsFunc(r.rows, func(row Row) bool { return row.Verdict == LeftOut }) {
			t.Errorf("%s: nothing was left out", c.name)
		}
	}
}

// TestNoWordIsLost: every word of every command line, and every value of
// Firecracker's files, is behind a setting; and every setting is in the check.
func TestNoWordIsLost(t *testing.T) {
	words := 0
	for _, name := range ours(t) {
		tree, dir := store(t, name)
		r := adopt(t, tree, dir, Options{Name: "vm"})
		runner, _ := microvmnix.ReadRunner(tree, dir)
		covered := map[int]bool{}
		for _, set := range r.draft.Script {
			for _, i := range set.Words {
				covered[i] = true
			}
			if !slices.ContainsFunc(r.rows, func(row Row) bool { return row.Key == set.Key && row.Line == set.Line }) {
				t.Errorf("%s: the check has no row for %s", name, set.Key)
			}
		}
		for i, w := range runner.Script.Exec.Args {
			if words++; !covered[i] {
				t.Errorf("%s: no setting is of the word %q", name, w.Text)
			}
		}
		for _, row := range r.rows {
			said := slices.ContainsFunc(r.problems, func(p diag.Problem) bool { return p.Severity == diag.Error && p.Origin.Line == row.Line })
			if row.Verdict == Lost && row.Line > 0 && !said {
				t.Errorf("%s: %s is lost, and no error names line %d", name, row.Key, row.Line)
			}
			if (row.Verdict == Differs || row.Verdict == Added) && row.Reason == "" {
				t.Errorf("%s: %s differs without a reason", name, row.Key)
			}
		}
	}
	if words < 2000 {
		t.Errorf("only %d words", words)
	}
}

// TestStrangeWord: a word more, anywhere among those of a real command line, never
// comes to the same file without an error.
func TestStrangeWord(t *testing.T) {
	for _, name := range []string{"cloud-hypervisor-volumes", "cloud-hypervisor-tap-multiqueue", "qemu-q35", "qemu-volumes", "qemu-tap", "firecracker-tap"} {
		tree, dir := store(t, name)
		runner, _ := microvmnix.ReadRunner(tree, dir)
		before := adopt(t, tree, dir, Options{}).String()
		args := runner.Script.Exec.Args
		words := [][]string{{"--frobnicate"}, {"-frobnicate", "x=1"}, {"--frobnicate", "deeply,nested=[a,b]"}}
		for at := 0; at <= len(args); at++ {
			more, strange := *runner, words[at%len(words)]
			script, exec := *runner.Script, *runner.Script.Exec
			exec.Args = slices.Clone(args[:at])
			for _, s := range strange {
				exec.Args = append(exec.Args, microvmnix.Word{Text: s, Line: exec.Line})
			}
			exec.Args = append(exec.Args, args[at:]...)
			script.Exec, more.Script = &exec, &script
			if got := adoptRunner(t, &more, nil, Options{}); got.String() == before || !strings.Contains(got.String(), "frobnicate") {
				t.Errorf("%s: %q in front of word %d is lost", name, strange, at)
			}
		}
	}
}

// TestChangedValue: with any value of a real command line changed, the check finds
// it, or the file changes with it.
func TestChangedValue(t *testing.T) {
	for _, name := range []string{"cloud-hypervisor-volumes", "cloud-hypervisor-balloon", "qemu-volumes", "qemu-9p", "qemu-tap-multiqueue", "qemu-hotplug"} {
		tree, dir := store(t, name)
		runner, _ := microvmnix.ReadRunner(tree, dir)
		before := adopt(t, tree, dir, Options{}).String()
		args := runner.Script.Exec.Args
		for at := range args {
			more := *runner
			script, exec := *runner.Script, *runner.Script.Exec
			exec.Args = slices.Clone(args)
			exec.Args[at].Text += "7"
			script.Exec, more.Script = &exec, &script
			if got := adoptRunner(t, &more, nil, Options{}).String(); got == before {
				t.Errorf("%s: %q may be anything", name, args[at].Text)
			}
		}
	}
}

// TestQuotedWords: with every word quoted, as older versions of nixpkgs do it, a
// script comes to the same.
func TestQuotedWords(t *testing.T) {
	for _, name := range []string{"cloud-hypervisor-words", "cloud-hypervisor-everything", "qemu-words", "qemu-everything", "firecracker-volumes"} {
		root := t.TempDir()
		dir := nixrunner.Write(t, root, name)
		before := adopt(t, nixrunner.FS(root), strings.TrimPrefix(dir, "/"), Options{}).String()
		runner, _ := microvmnix.ReadRunner(nixrunner.FS(root), dir)
		script := filepath.Join(root, nixrunner.Paths(t, name)["bin/microvm-run"])
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		fmt.Fprintf(&b, "exec -a \"%s\" %s", runner.Script.Exec.Name, runner.Script.Exec.Program.Text)
		for _, w := range runner.Script.Exec.Args {
			b.WriteString(" '" + strings.ReplaceAll(w.Text, "'", `'\''`) + "'")
		}
		lines := strings.Split(string(text), "\n")
		lines[runner.Script.Exec.Line-1] = b.String() + " ${runtime_args:-}"
		if err := errors.Join(os.Chmod(script, 0o755), os.WriteFile(script, []byte(strings.Join(lines, "\n")), 0o755)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, adopt(t, nixrunner.FS(root), strings.TrimPrefix(dir, "/"), Options{}).String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestOlderRunner: of 2024, when there was no note of the hypervisor, no runtime_args
// and no serial number, and the vsock had one number.
func TestOlderRunner(t *testing.T) {
	tree := handmade("#! /nix/store/b-bash/bin/bash -e\n\nrm -f 'old.sock'\n\n# Ensure notify sockets are removed\nrm -f notify.vsock notify.vsock_8888\n\n" +
		"if [ -n \"$NOTIFY_SOCKET\" ]; then\n  /nix/store/s-socat/bin/socat UNIX-LISTEN:notify.vsock_8888,fork UNIX-SENDTO:$NOTIFY_SOCKET &\nfi\n\n" +
		"PATH=$PATH:/nix/store/c-coreutils/bin\nif [ ! -e 'var.img' ]; then\n  touch 'var.img'\n  # Mark NOCOW\n  chattr +C 'var.img' || true\n  fallocate -l256MiB 'var.img'\n  mkfs.ext4 'var.img'\nfi\n\n" +
		"exec -a \"microvm@old\" '/nix/store/c/bin/cloud-hypervisor' '--cpus' 'boot=1' '--watchdog' '--console' 'null' '--serial' 'tty' '--kernel' '/nix/store/k/vmlinux' '--initramfs' '/nix/store/i/initrd' " +
		"'--cmdline' 'console=ttyS0 reboot=t panic=-1' '--seccomp' 'true' '--memory' 'mergeable=on,shared=off,size=512M' '--platform' 'oem_strings=[io.systemd.credential:vmm.notify_socket=vsock-stream:2:8888]' " +
		"'--vsock' 'cid=3,socket=notify.vsock' '--disk' 'path=/nix/store/d/store.squashfs,readonly=on' 'path=var.img' '--api-socket' 'old.sock' '--net' 'tap=vm-old,mac=02:00:00:00:00:01'\n")
	r := adopt(t, tree, "nix/store/r", Options{})
	if len(r.problems) > 0 {
		t.Fatalf("%s", r)
	}
	for _, want := range []string{"Hypervisor=cloud-hypervisor", "VSockCID=3", "Readiness=guest", "Disk=/var/lib/microvms/old/var.img", "Network=tap:name=vm-old,mac=02:00:00:00:00:01"} {
		if !strings.Contains(string(r.draft.Text), "\n"+want+"\n") {
			t.Errorf("no line %s in\n%s", want, r.draft.Text)
		}
	}
}

// FuzzAdopt: whatever a script is, it comes to a file without mistakes of which no
// word of the script is missing, or to an error; and no value is shown.
func FuzzAdopt(f *testing.F) {
	for _, name := range []string{"cloud-hypervisor-everything", "qemu-everything", "firecracker-minimal", "cloud-hypervisor-app-vm-01", "qemu-credential-files"} {
		text, err := os.ReadFile(filepath.Join(nixrunner.Dir(f), name, "bin/microvm-run"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		runner, found := microvmnix.ReadRunner(handmade(text), "nix/store/r")
		if runner == nil {
			t.Fatal("no runner")
		}
		r := adoptRunner(t, runner, found, Options{})
		if r.problems.HasErrors() {
			return
		}
		for i, w := range runner.Script.Exec.Args {
			if !slices.ContainsFunc(r.draft.Script, func(set Setting) bool { return slices.Contains(set.Words, i) }) {
				t.Fatalf("no setting is of the word %q", w.Text)
			}
		}
		for _, row := range r.rows {
			if row.Verdict == Lost {
				t.Fatalf("lost without an error: %+v", row)
			}
		}
	})
}

// TestOtherHypervisors: refused as such, with the line.
func TestOtherHypervisors(t *testing.T) {
	for _, name := range []string{"alioth-minimal", "crosvm-minimal", "kvmtool-minimal", "stratovirt-minimal"} {
		tree, dir := store(t, name)
		r := adopt(t, tree, dir, Options{})
		hypervisor, _, _ := strings.Cut(name, "-")
		if len(r.draft.Text) > 0 || !strings.Contains(r.String(), "a runner of "+hypervisor+", which Ampoule does not have; accepted: runners of qemu, cloud-hypervisor and firecracker") {
			t.Errorf("%s: %s", name, r)
		}
	}
}
