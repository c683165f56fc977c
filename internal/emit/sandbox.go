package emit

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// closed are the lines that no plan changes, written once for thousands of units.
var closed = sync.OnceValues(func() ([]byte, error) {
	closed := func(key, value string) unitfile.Entry { return entry("", key, value) }
	return unitfile.Lines([]unitfile.Entry{
		closed("NoNewPrivileges", "yes"), closed("CapabilityBoundingSet", ""), closed("AmbientCapabilities", ""),
		closed("ProtectSystem", "strict"), closed("ProtectHome", "tmpfs"), closed("PrivateTmp", "yes"), closed("PrivateUsers", "yes"),
		closed("PrivateMounts", "yes"), closed("PrivateNetwork", "yes"), closed("IPAddressDeny", "any"), closed("PrivateIPC", "yes"),
		closed("ProtectKernelTunables", "yes"), closed("ProtectKernelModules", "yes"), closed("ProtectKernelLogs", "yes"),
		closed("ProtectControlGroups", "yes"), closed("ProtectClock", "yes"), closed("ProtectHostname", "yes"),
		closed("ProtectProc", "invisible"),
		entry("not ProcSubset=pid: whether KVM is usable, and how much memory and swap there is, stands in /proc", "ProcSubset", "all"),
		closed("RestrictNamespaces", "yes"), closed("RestrictRealtime", "yes"), closed("RestrictSUIDSGID", "yes"),
		closed("LockPersonality", "yes"), closed("RemoveIPC", "yes"), closed("KeyringMode", "private"),
		entry("the hypervisor's control socket, and readiness", "RestrictAddressFamilies", "AF_UNIX"),
		closed("SystemCallArchitectures", "native"), closed("SystemCallFilter", "@system-service"), closed("SystemCallFilter", "~@privileged @resources"),
		entry("a hypervisor tries calls that it can do without, and must live on", "SystemCallErrorNumber", "EPERM"),
		closed("UMask", "0077"),
		entry("a core dump would have the guest's memory in it, its secrets included; swap too", "LimitCORE", "0"),
		closed("MemorySwapMax", "0"),
		closed("DevicePolicy", "closed"),
	})
})

// sandbox appends what closes everything, and opens what the plan needs, with the reason.
func (s UnitSource) sandbox(out []unitfile.Entry) ([]unitfile.Entry, error) {
	lines, err := closed()
	out = append(out,
		entry("the sandbox: a user of its own for each VM, without any rights", "DynamicUser", "yes"),
		entry("by default all instances of a template have one", "User", userOf(s.Plan.VM.Name)),
		unitfile.Entry{Lines: lines},
	)
	for _, opened := range [][]unitfile.Entry{s.calls(), s.accelerator(), s.vsock(), s.networks(), s.interfaces(), s.devices(), s.paths(), s.shares()} {
		out = append(out, opened...)
	}
	return out, err
}

// calls opens system calls. The line stands behind those of the sandbox: of lists
// that allow and lists that forbid, each changes what the ones before it came to.
func (s UnitSource) calls() []unitfile.Entry {
	calls := s.Plan.VM.SystemCalls
	if len(calls) == 0 {
		return nil
	}
	return []unitfile.Entry{entry(s.Plan.VM.Hypervisor+" locks itself in", "SystemCallFilter", strings.Join(calls, " "))}
}

// kernelVSock reports whether the guest's vsock is the host's kernel's.
func (s UnitSource) kernelVSock() bool { return s.Plan.VM.VSock != nil && !s.Plan.VM.VSock.Multiplexed }

// vsock opens the device that connects a guest, and the sockets by which we hear
// it. Those of a hypervisor that connects it itself are of AF_UNIX.
func (s UnitSource) vsock() []unitfile.Entry {
	if !s.kernelVSock() {
		return nil
	}
	why := s.Plan.Origin("VSockCID").String() + ", VSockCID="
	out := []unitfile.Entry{entry(why, "DeviceAllow", "/dev/vhost-vsock rw")}
	if s.KVMGroup != "" && !s.mayUse("kvm") {
		out = append(out, entry("who may open /dev/vhost-vsock", "SupplementaryGroups", s.KVMGroup))
	}
	return append(out, entry(why, "RestrictAddressFamilies", "AF_VSOCK"))
}

// mayUse reports whether an accelerator is among the answers.
func (s UnitSource) mayUse(accelerator string) bool {
	return slices.ContainsFunc(s.Plan.VM.Accelerator, func(a plan.Accelerator) bool { return a.Name == accelerator })
}

// accelerator opens what the processor's virtualisation needs, or emulation.
func (s UnitSource) accelerator() []unitfile.Entry {
	var out []unitfile.Entry
	if s.mayUse("kvm") {
		out = append(out, entry("Accelerator="+s.asked()+" may be KVM", "DeviceAllow", "/dev/kvm rw"))
		if s.KVMGroup != "" {
			out = append(out, entry("who may open /dev/kvm", "SupplementaryGroups", s.KVMGroup))
		}
	}
	if s.mayUse("tcg") {
		return append(out, entry("Accelerator="+s.asked()+" may be emulation, which writes the code that it executes", "MemoryDenyWriteExecute", "no"))
	}
	return append(out, entry("", "MemoryDenyWriteExecute", "yes"))
}

// asked is what Accelerator= says. A hypervisor may have only one, though nobody
// asked for it.
func (s UnitSource) asked() string {
	if _, said := s.Plan.Origins["Accelerator"]; said && len(s.Plan.VM.Accelerator) == 1 {
		return s.Plan.VM.Accelerator[0].Name
	}
	return "auto"
}

// paths opens the files that the plan names. Where they lie no directory is
// opened, and rights are not changed: what the VM's user may not open, it may
// not open here either.
func (s UnitSource) paths() []unitfile.Entry {
	var out []unitfile.Entry
	for _, p := range s.hostPaths() {
		why := s.Plan.Origin(p.from).String() + ", " + plan.KeyOf(p.from) + "="
		if spec.IsDevice(p.path) {
			access := "r"
			if p.write {
				access = "rw"
			}
			out = append(out, entry(why, "DeviceAllow", unitfile.QuoteWord(percent(p.path))+" "+access))
			continue
		}
		// Where the file is not there yet, ampoule says so, and at which line.
		out = append(out, entry(why, bindKey(p.write), optional(p.path)))
	}
	return out
}

// bindKey mounts a path of the host.
func bindKey(write bool) string {
	if write {
		return "BindPaths"
	}
	return "BindReadOnlyPaths"
}

// optional is the path of a bind mount that need not be there, as one word: in
// quotes a colon does not end it.
func optional(path string) string {
	word := unitfile.QuoteWord("-" + percent(path))
	if strings.Contains(word, ":") && !strings.HasPrefix(word, `"`) {
		return `"` + word + `"`
	}
	return word
}

// credentials are loaded by systemd, as root, before the sandbox is closed. A
// source that is a path and has no default of the user's own gets one that says
// so: systemd itself would end the unit without naming it.
func (s UnitSource) credentials() []unitfile.Entry {
	var out []unitfile.Entry
	for _, c := range s.Plan.VM.Credentials {
		why := s.Plan.Origin(c.From).String()
		id := percent(c.ID)
		switch spec.CredentialKind(c.Kind) {
		case spec.Load:
			out = append(out, entry(why, "LoadCredential", id+":"+percent(c.Path)))
		case spec.LoadEncrypted:
			out = append(out, entry(why, "LoadCredentialEncrypted", id+":"+percent(c.Path)))
		case spec.Set:
			out = append(out, entry(why, "SetCredential", id+":"+unitfile.EscapeValue(string(c.Value))))
		case spec.SetEncrypted:
			out = append(out, entry(why, "SetCredentialEncrypted", id+":"+string(c.Value)))
		case spec.Import:
			out = append(out, entry(why, "ImportCredential", id))
		case spec.Pass:
			// [Service] loads it.
		}
	}
	for _, c := range s.sources() {
		out = append(out, entry(fmt.Sprintf("in the place of %s if that is missing, so that ampoule can say so", c.Path),
			"SetCredential", percent(c.ID)+":"+unitfile.EscapeValue(rule.MissingMarker)))
	}
	return out
}

// sources are the credentials that come from a path and without which the VM
// does not start.
func (s UnitSource) sources() []plan.Credential {
	var out []plan.Credential
	for _, list := range [][]plan.Credential{s.Plan.VM.Credentials, s.Plan.Unit.Credentials} {
		for _, c := range list {
			load := c.Kind == string(spec.Load) || c.Kind == string(spec.LoadEncrypted)
			if load && strings.HasPrefix(c.Path, "/") && !s.hasDefault(c.ID) {
				out = append(out, c)
			}
		}
	}
	return out
}

// hasDefault reports whether the user gave a credential a value for the case
// that its source is missing.
func (s UnitSource) hasDefault(id string) bool {
	return slices.ContainsFunc(slices.Concat(s.Plan.VM.Credentials, s.Plan.Unit.Credentials), func(c plan.Credential) bool {
		return c.ID == id && (c.Kind == string(spec.Set) || c.Kind == string(spec.SetEncrypted))
	})
}

func sortByOrder(lines []layer.Entry) {
	slices.SortFunc(lines, func(a, b layer.Entry) int { return cmp.Compare(a.Order, b.Order) })
}

// userOf names the user of a VM, who exists while its unit is active. Without
// User= systemd would take what stands before the @ of the unit's name, one user
// for all VMs. The name is a function of the VM's alone, since systemd finds the
// owner of the state directory by it.
func userOf(vm string) string {
	const direct, hashed = "vm-", "vm_"
	// What systemd takes from a unit (valid_user_group_name in
	// src/basic/user-util.c of systemd): letters, digits, _ and -, at most 31.
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	if len(direct+vm) <= 31 && strings.Trim(vm, letters) == "" {
		return direct + vm
	}
	sum := sha256.Sum256([]byte(vm))
	return hashed + hex.EncodeToString(sum[:8])
}
