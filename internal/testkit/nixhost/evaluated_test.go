package nixhost

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nixrunner"
)

// TestRunnersAsEvaluated: what is written here as a runner is what microvm.nix generates
// for the same options, but for hashes and versions.
func TestRunnersAsEvaluated(t *testing.T) {
	minimal := func(vm *VM) { vm.StoreOnDisk, vm.VCPU, vm.Mem, vm.CID, vm.Taps = true, 1, 512, 0, nil }
	with := func(change ...func(*VM)) func(*VM) {
		return func(vm *VM) {
			for _, c := range change {
				c(vm)
			}
		}
	}
	tap := func(vm *VM) { vm.Taps = []string{"vm-web"} }
	queues := func(vm *VM) { vm.VCPU, vm.Mem, vm.Taps = 4, 1024, []string{"vm-web", "vm-web-dmz"} }
	vsock := func(vm *VM) { vm.CID = 42 }
	volume := func(vm *VM) { vm.Volumes = []Volume{{Image: "data.img", Size: 2048}} }
	preStart := func(vm *VM) {
		vm.PreStart = "# what the operator wants to happen first\nmkdir -p \"$PWD/scratch\"\necho \"starting as $(id -un)\" >&2\n"
	}
	store := func(vm *VM) { vm.CID, vm.Taps = 0, []string{"vm-web"} }
	for name, change := range map[string]func(*VM){
		"cloud-hypervisor-minimal":          minimal,
		"cloud-hypervisor-tap":              with(minimal, tap),
		"cloud-hypervisor-tap-multiqueue":   with(minimal, queues),
		"cloud-hypervisor-vsock":            with(minimal, vsock),
		"cloud-hypervisor-volume":           with(minimal, volume),
		"cloud-hypervisor-pre-start":        with(minimal, preStart),
		"cloud-hypervisor-host-store":       store,
		"cloud-hypervisor-host-store-vsock": with(store, func(vm *VM) { vm.CID = 3 }),
		"cloud-hypervisor-oem-strings":      with(minimal, func(vm *VM) { vm.OEMStrings = []string{"io.systemd.credential:API_KEY=sk-live-4f9a1c", "vendor=acme"} }),
		"cloud-hypervisor-extra-args-script": with(minimal, func(vm *VM) {
			vm.ExtraArgsScript = "echo \"--disk path=$PWD/more.img --event-monitor path=/tmp/events\"\n"
		}),
		"qemu-minimal":        with(QEMU, minimal),
		"qemu-tap":            with(QEMU, minimal, tap),
		"qemu-tap-multiqueue": with(QEMU, minimal, queues),
		"qemu-vsock":          with(QEMU, minimal, vsock),
		"qemu-volume":         with(QEMU, minimal, volume),
		"qemu-pre-start":      with(QEMU, minimal, preStart),
		"qemu-host-store":     with(QEMU, store),
		"qemu-usb":            with(QEMU, minimal, func(vm *VM) { vm.USB = []string{"vendorid=0xabcd,productid=0x0123"} }),
		"qemu-credential-files": with(QEMU, minimal, func(vm *VM) {
			vm.CredentialFiles = map[string]string{"API_KEY": "/run/secrets/test-vm/api-key", "db.password": "/run/secrets/test-vm/db"}
		}),
		"firecracker-minimal":        with(Firecracker, minimal),
		"firecracker-tap":            with(Firecracker, minimal, tap),
		"firecracker-tap-multiqueue": with(Firecracker, minimal, queues),
		"firecracker-vsock":          with(Firecracker, minimal, vsock),
		"firecracker-volume":         with(Firecracker, minimal, volume),
		"stratovirt-minimal":         with(Stratovirt, minimal),
		"stratovirt-tap":             with(Stratovirt, minimal, tap),
		"stratovirt-vsock":           with(Stratovirt, minimal, vsock),
		"stratovirt-host-store":      with(Stratovirt, store),
	} {
		t.Run(name, func(t *testing.T) {
			h := New(t)
			_, configuration, _ := strings.Cut(strings.TrimPrefix(name, "cloud-"), "-")
			runner, _ := h.runner(h.VM(configuration, change))
			root := t.TempDir()
			compare(t, runnerTexts(t, h.Root, runner), runnerTexts(t, root, nixrunner.Write(t, root, name)))
		})
	}
}

// TestUnitsAsEvaluated: likewise of units, with their scripts.
func TestUnitsAsEvaluated(t *testing.T) {
	web := func(h *Host, change ...func(*VM)) { h.VM("web", append([]func(*VM){QEMU}, change...)...) }
	seed := func(h *Host, change ...func(*VM)) {
		h.VM("test-vm", append([]func(*VM){func(vm *VM) { vm.CID = 0 }, Loads("API_KEY", "/run/secrets/vars/test-vm-secrets/api-key"),
			Loads("DB_PASSWORD", "/run/secrets/vars/test-vm-secrets/db-password"), Loads("JWT_SECRET", "/run/secrets/vars/test-vm-secrets/jwt-secret")}, change...)...)
	}
	service := func(lines ...string) func(*VM) { return func(vm *VM) { vm.Service = append(vm.Service, lines...) } }
	flake := "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-source"
	for name, declare := range map[string]func(*Host){
		"none":                func(*Host) {},
		"declarative":         func(h *Host) { web(h) },
		"declarative-kept":    func(h *Host) { web(h, Restarts(false)) },
		"declarative-stopped": func(h *Host) { web(h, func(vm *VM) { vm.Autostart = false }) },
		"flake":               func(h *Host) { web(h, ByFlake(flake)) },
		"flake-restarted":     func(h *Host) { web(h, ByFlake(flake), Restarts(true)) },
		"flake-update":        func(h *Host) { web(h, ByUpdateFlake(flake, "git+file:///home/user/my-infra")) },
		"notify":              func(h *Host) { h.VM("web") },
		"seed":                func(h *Host) { seed(h) },
		"seed-runner": func(h *Host) {
			seed(h, service("ExecStart=", "ExecStart="+h.Script("custom-runner", "exec current/bin/microvm-run")))
		},
		"seed-second-runner": func(h *Host) { seed(h, service("ExecStart=/run/current-system/sw/bin/custom-runner")) },
		"seed-hook": func(h *Host) {
			seed(h, service("ExecStartPre=+"+h.Script("load-credentials", `cp "$CREDENTIALS_DIRECTORY"/* /run/test-vm/`)))
		},
		"several": func(h *Host) {
			h.VM("build_2", QEMU, func(vm *VM) { vm.HostName = "build" }, Restarts(false))
			h.VM("db.internal", QEMU, func(vm *VM) { vm.Autostart = false })
			h.VM("mail-1", Restarts(false))
			web(h)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := New(t)
			declare(h)
			dir := filepath.Join("testdata/units", name)
			paths := map[string]string{}
			for line := range strings.Lines(read(t, filepath.Join(dir, "paths"))) {
				file, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
				paths[file] = path
			}
			want := map[string]string{}
			for name, target := range links(t, filepath.Join(dir, "system")) {
				want[name] = target
			}
			for file, path := range paths {
				if unit, ok := strings.CutPrefix(file, "system/"); ok {
					want[unit] = followed(read(t, filepath.Join(dir, file)), func(path string) string {
						for file, stored := range paths {
							if stored == path {
								return read(t, filepath.Join(dir, file))
							}
						}
						return ""
					}) + path
				}
			}
			// The links that NixOS makes among systemd's own units are not among those here.
			for _, name := range []string{"default.target", "ctrl-alt-del.target", "kbrequest.target", "getty.target.wants/autovt@tty1.service", "multi-user.target.wants/remote-fs.target"} {
				delete(want, name)
			}
			got := map[string]string{}
			for name, e := range h.systemUnits() {
				switch {
				case strings.Contains(e.Link, "/example/systemd/") || name == "multi-user.target":
				case strings.HasPrefix(e.Link, storeDir):
					got[name] = followed(read(t, h.At(e.Link)), func(path string) string { return read(t, h.At(path)) }) + e.Link
				default:
					got[name] = e.Link
				}
			}
			compare(t, got, want)
		})
	}
}

// TestSystemdReadsThem: systemd takes the units as they are evaluated, but for the one with
// a second ExecStart=.
func TestSystemdReadsThem(t *testing.T) {
	need.All(t, need.Systemd)
	for name, refused := range map[string]bool{"seed": false, "seed-hook": false, "seed-runner": false, "seed-second-runner": true} {
		dir, err := filepath.Abs(filepath.Join("testdata/units", name, "system"))
		ok(t, err)
		cmd := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, "microvm@test-vm.service"))
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
		// Its exit code says nothing: the programs are not there.
		out, _ := cmd.CombinedOutput()
		if !strings.Contains(string(out), "microvm@test-vm.service") {
			t.Errorf("%s: it says nothing of the unit: %s", name, out)
		}
		if got := strings.Contains(string(out), "has more than one ExecStart="); got != refused || got != strings.Contains(string(out), "bad unit file setting") {
			t.Errorf("%s is refused: %v\n%s", name, got, out)
		}
	}
}

// followed is a unit's text with those of its scripts and triggers behind it.
func followed(text string, read func(path string) string) string {
	var more strings.Builder
	for _, m := range regexp.MustCompile(`(?m)^(?:ExecStart|ExecStartPre|X-Restart-Triggers)=\+?(/nix/store/\S+)`).FindAllStringSubmatch(text, -1) {
		more.WriteString("== " + m[1] + "\n" + read(m[1]) + "\n")
	}
	return text + more.String()
}

// compare compares texts by name, without what differs by the packages there are.
func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	hash := regexp.MustCompile(`/nix/store/[0-9a-df-np-sv-z]{32}-`)
	version := regexp.MustCompile(`(STORE-[A-Za-z0-9+]+(?:-[A-Za-z][A-Za-z0-9]*)*?)(?:-interactive)?-[0-9][0-9.]*(?:[a-z]?[0-9]*)(?:-[0-9]+)?(-[a-z]+)?\b`)
	system := regexp.MustCompile(`(STORE-nixos-system-\S+?)-[0-9]{2}\.[0-9]{2}\.[0-9]{8}\.[0-9a-f]{7}`)
	plain := func(texts map[string]string) map[string]string {
		out := map[string]string{}
		for name, text := range texts {
			text = hash.ReplaceAllString(text, "STORE-")
			text = system.ReplaceAllString(text, "$1")
			out[name] = version.ReplaceAllString(text, "$1$2")
		}
		return out
	}
	got, want = plain(got), plain(want)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if diff := cmp.Diff(want[name], got[name]); diff != "" {
			t.Errorf("%s (- evaluated, + here):\n%s", name, diff)
		}
	}
}

// runnerTexts are the files of a runner in the store of a tree, and those of the store
// that its scripts name, by name without hash.
func runnerTexts(t *testing.T, root, runner string) map[string]string {
	t.Helper()
	out := map[string]string{}
	named := regexp.MustCompile(`/nix/store/[0-9a-df-np-sv-z]{32}-([^\s/'",]+)`)
	var keep func(name, text string)
	keep = func(name, text string) {
		out[name] = text
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			path := m[0]
			if info, err := os.Stat(root + path); err != nil || !info.Mode().IsRegular() || strings.HasPrefix(m[1], "microvm-store-disk") || out[m[1]] != "" {
				continue
			}
			if m[1] == "supervisord-event-handler" { // microvm.nix's own program, which is not here
				continue
			}
			keep(m[1], read(t, root+path))
		}
	}
	base := root + runner
	ok(t, filepath.WalkDir(base, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimPrefix(file, base+"/")
		if d.Type() == fs.ModeSymlink {
			target, err := os.Readlink(file)
			if name == "share/microvm/system" {
				out[name] = target
				return err
			}
			keep(name, read(t, root+target))
			return err
		}
		keep(name, read(t, file))
		return nil
	}))
	return out
}

// links are the links below a directory.
func links(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	ok(t, filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() == fs.ModeSymlink {
			out[strings.TrimPrefix(file, dir+"/")], err = os.Readlink(file)
		}
		return err
	}))
	return out
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	ok(t, err)
	return string(text)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
