package diagnose

import (
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
	"github.com/ampoule-vm/ampoule/internal/testkit/nixrunner"
)

// TestEvaluated: a host with a VM for each runner that microvm.nix was evaluated to. All
// of them run, but for those that a shell gives words that only it knows.
func TestEvaluated(t *testing.T) {
	want := []string{"- root-runs-replaceable"}
	h := nixhost.New(t)
	load := []func(*nixhost.VM){}
	for _, id := range []string{"API_KEY", "DB_PASSWORD", "JWT_SECRET"} {
		h.Secret("/etc/secrets/"+id, key)
		load = append(load, nixhost.Loads(id, "/etc/secrets/"+id))
	}
	for _, name := range nixrunner.Names(t) {
		change := []func(*nixhost.VM){nixhost.Evaluated(name), func(vm *nixhost.VM) {
			vm.Hypervisor, vm.CID, vm.Taps = "", 0, nil
			vm.StoreOnDisk = true // no virtiofsd runs
		}}
		switch name {
		case "cloud-hypervisor-seed":
			change = append(change, load...)
			want = append(want, name+" runner-override-lost")
		case "cloud-hypervisor-app-vm-01": // it works, and the values are in the hypervisor's command line
			change = append(change, append(load, asleep)...)
			want = append(want, name+" secret-in-argv", name+" secret-in-store") // ENVIRONMENT=production
		case "cloud-hypervisor-oem-strings", "cloud-hypervisor-oem-strings-vsock":
			want = append(want, name+" secret-in-oem-strings")
		case "cloud-hypervisor-hotplug", "stratovirt-vsock":
			want = append(want, name+" option-ignored")
		case "stratovirt-everything":
			want = append(want, name+" option-ignored")
		case "kvmtool-everything": // bash opens a macvtap in its line
			change = append(change, asleep)
		}
		if strings.HasSuffix(name, "-extra-args-script") {
			change = append(change, func(vm *nixhost.VM) { vm.RuntimeArgs = []string{"--more", "than=that"} })
		}
		h.VM(name, change...)
	}
	// Nothing is wrong with those of older versions.
	for _, name := range nixrunner.Older(t) {
		h.VM(strings.NewReplacer("../older/", "", "/", "-", ".", "").Replace(name), nixhost.Evaluated(name), func(vm *nixhost.VM) {
			vm.Hypervisor, vm.CID, vm.Taps = "", 0, nil
			vm.StoreOnDisk = true
		})
	}
	h.Switch()
	slices.Sort(want)
	r := diagnose(t, h.Finish())
	got := r.causes()
	for _, cause := range want {
		if !slices.Contains(got, cause) {
			t.Errorf("not found: %s", cause)
		}
	}
	for _, f := range r.Findings {
		if !slices.Contains(want, strings.TrimPrefix(f.VM+" "+f.Code, " ")) && f.VM != "" || len(got) > len(want) && f.VM == "" {
			t.Logf("%s %s: %s\n  %+v", f.VM, f.Code, f.Title, f.Evidence)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("found:\n  %s", strings.Join(got, "\n  "))
	}
	for _, p := range r.Partial {
		t.Errorf("not known in a tree that has all: %+v", p)
	}
}

// asleep leaves a VM stopped.
func asleep(vm *nixhost.VM) { vm.Autostart = false }

// TestVariables: a value gets into the hypervisor's command line by way of a variable,
// which what looks at its words alone does not see.
func TestVariables(t *testing.T) {
	script := func(variable string) string {
		return "set -eou pipefail\nOEM=\"io.systemd.credential:vmm.notify_socket=vsock-stream:2:8888\"\n" +
			"for name in API_KEY; do\n  value=$(base64 -w0 < \"$CREDENTIALS_DIRECTORY/$name\")\n" +
			"  " + variable + "=\"$OEM,io.systemd.credential.binary:$name=$value\"\ndone\n" +
			"echo \"$STRINGS\" > /dev/null\nexec -a \"microvm@test-vm\" /run/current-system/sw/bin/cloud-hypervisor --platform \"oem_strings=[$OEM]\"\n"
	}
	runs := func(h *nixhost.Host, text string) {
		one(h, loads(h, "API_KEY"), func(vm *nixhost.VM) { vm.Runner = text }, asleep)
	}
	check(t, []tree{
		{name: "value by a variable", want: "test-vm secret-in-argv", make: func(h *nixhost.Host) { runs(h, script("OEM")) }},
		{name: "value by an appended variable", want: "test-vm secret-in-argv", make: func(h *nixhost.Host) { runs(h, strings.Replace(script("OEM"), "OEM=\"$OEM", "OEM+=\"", 1)) }},
		{name: "value in another variable", near: "secret-in-argv", make: func(h *nixhost.Host) { runs(h, script("STRINGS")) }},
		{name: "value in a variable of a longer name", near: "secret-in-argv", make: func(h *nixhost.Host) { runs(h, strings.ReplaceAll(script("OE"), "$STRINGS", "$OE")) }},
	})
}
